"""``join --check`` tries all that a site needs, and changes nothing but the cache."""

import json
import re
import socket
from pathlib import Path

import pytest
import tomli_w

from common.adapter import save_adapter
from common.model import file_sha256, skeleton
from common.options import Value
from common.tensor_files import write_tensors
from tests.cardiac.samples import write_nifti
from tests.cli.running import Ended, Run
from tests.conftest import SITE_FEATURES, MakeAdapter


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a cache that these tests share."""
    return tmp_path_factory.mktemp("cache") / "cache"


@pytest.fixture
def site(tmp_path: Path, site_data: Path, cache: Path) -> dict[str, Value]:
    """Return the settings of a site that lacks nothing."""
    return {
        "superlink": "fl.example.org:9092",
        "insecure": True,
        "site": "GE",
        "data-dir": str(site_data / "mnms2"),
        "base-model": str(site_data / "base.safetensors"),
        "cache-dir": str(cache),
        "audit-log": str(tmp_path / "log" / "audit.jsonl"),
        "min-train-patients": 1,  # the phantom's sites have few patients
        "min-patients": 1,
    }


def check(run: Run, folder: Path, site: dict[str, Value]) -> Ended:
    path = folder / "site.toml"
    path.write_text(tomli_w.dumps(site))
    return run("join", "--check", path)


def line(ended: Ended, key: str) -> str:
    (found,) = re.findall(rf"^(?:ok|failed)\s+{key}: .*$", ended.out, re.MULTILINE)
    return str(found)


def test_a_site_that_lacks_nothing_is_ok(
    run: Run, tmp_path: Path, site: dict[str, Value], site_data: Path
) -> None:
    ended = check(run, tmp_path, site)
    assert (ended.status, ended.error) == (0, "")
    lines = ended.out.splitlines()
    assert [text.split()[0] for text in lines] == ["ok"] * 6
    sha256 = file_sha256(site_data / "base.safetensors")
    assert f"U-Net of 4,4,8,8,8,4 channels, SHA-256 {sha256}" in line(ended, "base-model")
    assert "serves: test, train, validate" in line(ended, "serves")
    assert "not set" in line(ended, "health")
    assert "GE: 3 patients, split into 1 train, 1 val, 1 test; " in line(ended, "data-dir")
    assert {path.name for path in tmp_path.iterdir()} == {"site.toml"}


def test_a_log_that_is_there_stays_as_it_is(
    run: Run, tmp_path: Path, site: dict[str, Value]
) -> None:
    log = tmp_path / "audit.jsonl"
    begun = json.dumps({"line": 1, "previous": "0" * 64}) + "\n"
    log.write_text(begun)
    before = log.stat()
    assert check(run, tmp_path, site | {"audit-log": str(log)}).status == 0
    assert log.read_text() == begun
    assert log.stat().st_mtime_ns == before.st_mtime_ns
    assert not (tmp_path / "audit.jsonl.head").exists()
    log.write_text('{"direction": "in"}\n')  # as version 0.1 wrote it
    ended = check(run, tmp_path, site | {"audit-log": str(log)})
    assert ended.status != 0
    assert "version without hashes; move it elsewhere" in line(ended, "audit-log")


def test_a_log_that_cannot_be_appended_to_has_failed(
    run: Run, tmp_path: Path, site: dict[str, Value]
) -> None:
    ended = check(run, tmp_path, site | {"audit-log": str(tmp_path)})
    assert ended.status == 2
    assert line(ended, "audit-log") == (
        f"failed  audit-log: {tmp_path}: cannot be written (Is a directory)"
    )
    assert line(ended, "data-dir").startswith("ok ")
    assert ended.error.endswith("site.toml: 1 of 6 checks failed\n")


def test_a_cache_that_cannot_be_written_has_failed_and_the_data_are_not_tried(
    run: Run, tmp_path: Path, site: dict[str, Value]
) -> None:
    (tmp_path / "file").touch()
    ended = check(run, tmp_path, site | {"cache-dir": str(tmp_path / "file" / "cache")})
    assert ended.status == 2
    assert line(ended, "cache-dir").startswith("failed ")
    assert "cannot be written (Not a directory)" in line(ended, "cache-dir")
    assert "not tried" in line(ended, "data-dir")
    assert "2 of 6 checks failed" in ended.error
    assert "Traceback" not in ended.error


@pytest.mark.parametrize("kind", ["missing", "empty", "text", "image", "adapter", "part", "head"])
def test_a_file_that_is_no_base_model_has_failed(
    run: Run, tmp_path: Path, site: dict[str, Value], make_adapter: MakeAdapter, kind: str
) -> None:
    path, said = tmp_path / "base", "expected a base model"
    tensors = {
        name: value.new_zeros(value.shape, device="cpu")
        for name, value in skeleton(SITE_FEATURES).state_dict().items()
    }
    if kind == "missing":
        said = "cannot read the file"
    elif kind in ("empty", "text"):
        path.write_text({"empty": "", "text": "a letter from the coordinator"}[kind])
        said = "not a safetensors file"
    elif kind == "image":
        write_nifti(tmp_path / "x.nii", tensors["conv_0.conv_0.conv.weight"][0].numpy())
        path.write_bytes((tmp_path / "x.nii").read_bytes())
        said = "not a safetensors file"
    elif kind == "adapter":
        save_adapter(make_adapter(), path)
    elif kind == "part":
        write_tensors(path, {k: v for k, v in tensors.items() if not k.startswith("down_3")})
    else:
        write_tensors(path, tensors | {"final_conv.weight": tensors["final_conv.weight"][:2]})
        said = "final_conv.weight is (2, 4, 1, 1), expected (4, 4, 1, 1)"
    ended = check(run, tmp_path, site | {"base-model": str(path)})
    assert ended.status == 2
    assert line(ended, "base-model").startswith(f"failed  base-model: {path}: ")
    assert said in line(ended, "base-model")
    assert "Traceback" not in ended.error


def test_the_health_address_is_free_or_has_failed(
    run: Run, tmp_path: Path, site: dict[str, Value]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        ended = check(run, tmp_path, site | {"health": address})
        assert ended.status == 2
        assert line(ended, "health").startswith(f"failed  health: {address}: in use")
    ended = check(run, tmp_path, site | {"health": address})
    assert (ended.status, line(ended, "health")) == (0, f"ok      health: {address}: free")


def test_data_that_are_not_the_sites_have_failed(
    run: Run, tmp_path: Path, site: dict[str, Value]
) -> None:
    ended = check(run, tmp_path, site | {"site": "Canon"})
    assert ended.status == 2
    assert "expected one called 'Canon'" in line(ended, "data-dir")
