"""deploy/ and docs/deploy.md against the commands, keys and packages that they speak of."""

import argparse
import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import typer
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from benchmarks.flower_private import flwr, parse_superlink_connection, superlink_parser
from cli.main import app
from client_app.connection import Connection, read_site
from client_app.settings import SiteSettings
from common.certificates import make_site_key
from common.config import RunConfig
from common.flower_private import parse_config_args
from common.options import keys_of
from tests.composed import read_services
from tests.test_simulation import ROOT

DEPLOY = ROOT / "deploy"
UNITS = sorted(DEPLOY.glob("*.service"))
EXAMPLE = DEPLOY / "site.example.toml"
DOCUMENT = ROOT / "docs" / "deploy.md"
DEV_TOOLS = {"pytest", "mypy", "ruff", "pre-commit", "peft", "playwright", "onnxruntime"}


def pins() -> dict[str, str]:
    lines = (DEPLOY / "constraints.txt").read_text(encoding="utf-8").splitlines()
    named = (line.split("==") for line in lines if not line.startswith("#"))
    return {canonicalize_name(name): version for name, version in named}


def test_constraints_pin_all_that_is_needed_to_run_and_no_tool() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    needed = [*project["dependencies"], *extras["onnx"], *extras["tensorboard"]]
    for requirement in map(Requirement, needed):
        assert pins()[canonicalize_name(requirement.name)] in requirement.specifier, requirement
    assert not DEV_TOOLS & set(pins())


def test_constraints_name_versions_alone() -> None:
    for name, version in pins().items():
        assert re.fullmatch(r"[a-z0-9-]+", name), name
        assert re.fullmatch(r"[0-9][0-9a-z.]*", version), name


def test_the_image_gets_the_constraints_and_every_package() -> None:
    ignore = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in ignore
    for name in (
        "common",
        "strategies",
        "cardiac",
        "client_app",
        "server_app",
        "results",
        "cli",
        "configs",
        "deploy",
    ):
        assert f"!{name}" in ignore
    build = (ROOT / "Dockerfile").read_text("utf-8")
    lock = re.findall(r"^ARG LOCK=(.*)$", build, re.MULTILINE)
    assert [(DEPLOY / "lock" / f"{name}.txt").is_file() for name in lock] == [True]
    installs = [line for line in build.splitlines() if "pip install" in line]
    assert installs
    assert all("--require-hashes" in line or "--no-deps" in line for line in installs)


def example_lines() -> Iterator[tuple[str, bool]]:
    """Yield the example's settings, and whether each is set or only shown."""
    for line in EXAMPLE.read_text(encoding="utf-8").splitlines():
        if match := re.fullmatch(r"(# )?([a-z-]+ = .*)", line):
            yield match[2], match[1] is None


def test_the_example_shows_every_key_of_a_site() -> None:
    shown = [line.split(" = ")[0] for line, _ in example_lines()]
    ours = {key for kind in (Connection, SiteSettings) for key in keys_of(kind)}
    assert sorted(shown) == sorted(ours - {"partition-id", "num-partitions"})


def test_what_the_example_shows_as_a_default_is_one() -> None:
    keys = {**keys_of(Connection), **keys_of(SiteSettings)}
    for line, is_set in example_lines():
        if not is_set:
            ((key, value),) = tomllib.loads(line).items()
            assert value == keys[key].default, key


def test_the_example_is_read(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").touch()
    make_site_key(tmp_path / "key")
    site = tmp_path / "site.toml"
    text = EXAMPLE.read_text(encoding="utf-8").replace("/etc/rate-my-lora", str(tmp_path))
    site.write_text(text, encoding="utf-8")
    connection, settings = read_site(site)
    assert connection.superlink.endswith(":9092")
    assert settings.name == "Siemens"


def test_the_container_sees_the_paths_that_the_example_names() -> None:
    values = tomllib.loads(EXAMPLE.read_text(encoding="utf-8"))
    (site,) = read_services(DEPLOY / "site.compose.yml", {}).values()
    mounted = {mount.split(":")[1]: mount.endswith(":ro") for mount in site["volumes"]}
    for key, read_only in (
        ("private-key", True), ("base-model", True), ("data-dir", True), ("cache-dir", False),
        ("audit-log", False),
    ):  # fmt: skip
        (found,) = [ro for target, ro in mounted.items() if values[key].startswith(target)]
        assert found == read_only, key


def test_the_demos_connection_is_one_for_flower() -> None:
    connections = tomllib.loads((DEPLOY / "demo" / "flower.toml").read_text("utf-8"))["superlink"]
    connection = parse_superlink_connection(connections["demo"], "demo")
    assert connection.address == "127.0.0.1:9093"
    assert not connection.insecure


def commands_of(unit: Path) -> list[str]:
    text = unit.read_text(encoding="utf-8").replace("\\\n", " ")
    (line,) = re.findall(r"^ExecStart=(.*)$", text, re.MULTILINE)
    return shlex.split(line)


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_a_unit_starts_a_command_that_exists(unit: Path) -> None:
    assert parses(commands_of(unit)) is None
    assert "--insecure" not in commands_of(unit)


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_a_unit_is_held_down(unit: Path) -> None:
    lines = set(unit.read_text(encoding="utf-8").splitlines())
    assert {
        "User=rate-my-lora", "NoNewPrivileges=true", "ProtectSystem=strict", "ProtectHome=true",
        "PrivateTmp=true", "CapabilityBoundingSet=", "Restart=always",
    } <= lines  # fmt: skip
    assert {"KillMode=mixed", "KillMode=control-group"} & lines  # nothing is left running


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_systemd_accepts_a_unit(unit: Path, tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed")
    text = unit.read_text(encoding="utf-8")
    text = text.replace(commands_of(unit)[0], "/bin/true").replace("User=rate-my-lora", "User=root")
    copy = tmp_path / unit.name
    copy.write_text(text, encoding="utf-8")
    done = subprocess.run(
        [program, "verify", str(copy)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def quoted() -> list[str]:
    """Return the command lines of the document that are Flower's or ours."""
    text = DOCUMENT.read_text(encoding="utf-8")
    blocks = re.findall(r"^```\w*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    spans = re.findall(r"`((?:rate-my-lora|flwr|flower-\w+) [^`]+)`", text)
    lines = [line for block in blocks for line in block.splitlines()]
    commands = (re.sub(r"^sudo (-u \S+ )?", "", line.strip()) for line in (*lines, *spans))
    ours = re.compile(r"(\S*/)?(rate-my-lora|flwr)( |$)")
    return [command for command in commands if ours.match(command)]


def test_the_document_quotes_commands() -> None:
    names = {tuple(Path(word).name for word in shlex.split(line)[:2]) for line in quoted()}
    assert {
        ("rate-my-lora", "join"), ("rate-my-lora", "check"), ("rate-my-lora", "site-key"),
        ("rate-my-lora", "authority"), ("rate-my-lora", "audit"), ("rate-my-lora", "watch"),
        ("flwr", "run"), ("flwr", "supernode"), ("flwr", "list"), ("flwr", "stop"),
    } <= names  # fmt: skip


@pytest.mark.parametrize("line", quoted())
def test_every_quoted_command_is_one(line: str) -> None:
    assert parses(shlex.split(line)) is None


def test_the_quoted_run_has_a_configuration() -> None:
    (line,) = [line for line in quoted() if line.startswith("flwr run .")]
    words = shlex.split(line)
    flat = parse_config_args([words[words.index("--run-config") + 1]])
    assert RunConfig.from_flat(flat).profile == "paper"


@pytest.mark.parametrize(
    "line",
    ["rate-my-lora joint site.toml", "rate-my-lora join --cheque site.toml", "flwr supernode add k",
     "flwr stop", "rate-my-lora superlink --enable-node-auth"],
)  # fmt: skip
def test_a_command_that_is_none_is_found(line: str) -> None:
    assert parses(shlex.split(line)) is not None


def parses(words: list[str]) -> str | None:
    """Parse a command line without running it; return what is wrong."""
    program, arguments = Path(words[0]).name, words[1:]
    if (program, *arguments[:1]) == ("rate-my-lora", "superlink"):
        return parses_as(superlink_parser(), arguments[1:])
    command = typer.main.get_command({"rate-my-lora": app, "flwr": flwr}[program])
    while isinstance(command, click.Group):
        name = arguments.pop(0) if arguments else ""
        if name not in command.commands:
            return f"no command {name!r}"
        command = command.commands[name]
    try:
        command.make_context(program, arguments)
    except click.UsageError as error:
        return error.format_message()
    return None


def parses_as(parser: argparse.ArgumentParser, arguments: list[str]) -> str | None:
    try:
        parser.parse_args(arguments)
    except SystemExit:
        return "not for this program"
    return None
