"""A site's file becomes a SuperNode's command, or an error that names the fault."""

import os
import stat
import time
from pathlib import Path

import pytest
import tomli_w

from cli import join as joining
from cli.join import join
from client_app.connection import read_site
from client_app.privacy import PrivacyLedger, epsilon
from client_app.settings import PrivacySettings, SiteSettings
from common.certificates import make_site_key
from common.errors import UserError
from common.flower_private import parse_config_args
from common.options import Check, Value

EXAMPLE = Path(__file__).resolve().parents[2] / "deploy" / "site.example.toml"


def write(folder: Path, **keys: Value) -> Path:
    (folder / "ca.pem").touch()
    if not (folder / "key").exists():
        make_site_key(folder / "key")
    flat: dict[str, Value] = {
        "superlink": "fl.example.org:9092",
        "root-certificates": str(folder / "ca.pem"),
        "private-key": str(folder / "key"),
        "site": "St. Anna",
        "data-dir": "/data/heart files",
        "base-model": "/data/base",
        "max-rank": 16,
        **{key.replace("_", "-"): value for key, value in keys.items()},
    }
    path = folder / "site.toml"
    path.write_text(tomli_w.dumps({key: value for key, value in flat.items() if value != ""}))
    return path


def test_the_supernode_is_started_with_tls_its_key_and_the_sites_facts(tmp_path: Path) -> None:
    connection, site = read_site(write(tmp_path))
    words = connection.command(site)
    assert words[0].endswith("flower-supernode")
    assert "--insecure" not in words
    assert words[words.index("--root-certificates") + 1] == str(tmp_path / "ca.pem")
    assert words[words.index("--auth-supernode-private-key") + 1] == str(tmp_path / "key")
    assert words[words.index("--isolation") + 1] == "process"


def test_flower_reads_the_node_configuration_as_it_was_written(tmp_path: Path) -> None:
    connection, site = read_site(write(tmp_path))
    words = connection.command(site)
    assert parse_config_args([words[words.index("--node-config") + 1]]) == {
        "site": "St. Anna",
        "data-dir": "/data/heart files",
        "base-model": "/data/base",
        "max-rank": 16,
    }


def test_the_app_is_reached_over_loopback_alone(tmp_path: Path) -> None:
    connection, site = read_site(write(tmp_path, local_port=9111))
    words = connection.command(site)
    assert words[words.index("--host") + 1] == "127.0.0.1"
    assert words[words.index("--port") + 1] == "9111"


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"superlink": ""}, "superlink: found ''"),
        ({"superlink": "fl.example.org"}, "expected host:port"),
        ({"superlink": "https://fl.example.org:9092"}, "expected host:port"),
        ({"data_dir": ""}, "found no 'data-dir'"),
        ({"base_model": ""}, "found no 'base-model'"),
        ({"partition_id": 0}, "partition-id: belongs to simulations"),
        ({"private_key": __file__}, "holds none of 'rate-my-lora site-key'"),
        ({"private_key": ""}, "found no 'private-key'"),
        ({"root_certificates": ""}, "found no 'root-certificates'"),
        ({"private_key": "/nowhere/key"}, "private-key: /nowhere/key: no such file"),
        ({"insecure": True}, "exclude each other"),
        ({"site": ""}, "found no 'site'"),
        ({"local_port": 0}, "local-port: found 0"),
        ({"health": "9095"}, "health: found '9095', expected host:port"),
        ({"serves": " "}, "serves: found ' ', expected some of train, validate, test"),
        ({"max_rank": -1}, "max-rank: found -1"),
        ({"data_dir": '/data/"heart"'}, "data-dir: found a double quote"),
        ({"data_folder": "/data"}, "unknown key 'data-folder'"),
    ],
)
def test_a_wrong_file_is_refused_by_its_name(
    tmp_path: Path, keys: dict[str, Value], words: str
) -> None:
    path = write(tmp_path, **keys)
    with pytest.raises(UserError, match=r"site\.toml: ") as error:
        join(path)
    assert words in str(error.value)


def test_an_error_is_about_its_own_key_alone(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        join(write(tmp_path, max_rank=-1))
    assert (
        str(error.value)
        == f"{tmp_path}/site.toml: max-rank: found -1, expected at least 0 and at most 512"
    )
    with pytest.raises(UserError) as error:
        join(write(tmp_path, data_folder="/data"))
    known = str(error.value).split("; known are ")[1].split(", ")
    assert {"superlink", "data-dir", "site"} <= set(known)
    assert "partition-id" not in known


def test_the_settings_are_parsed_once_and_the_examples_are_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks, parsed = SiteSettings.checks, []

    def count(settings: SiteSettings) -> list[Check]:
        parsed.append(settings)
        return checks(settings)

    text = EXAMPLE.read_text(encoding="utf-8").replace("/etc/rate-my-lora", str(tmp_path))
    text = text.replace("/var/lib/rate-my-lora", str(tmp_path / "var"))
    (write(tmp_path)).write_text(text, encoding="utf-8")
    monkeypatch.setattr(SiteSettings, "checks", count)
    monkeypatch.setattr(joining, "take_part", lambda *_: None)
    monkeypatch.setattr("cli.join.signal.signal", lambda *_: None)
    join(tmp_path / "site.toml")
    assert [settings.name for settings in parsed] == ["Siemens"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_private_key_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = write(tmp_path)
    (tmp_path / "key").chmod(mode)
    with pytest.raises(UserError, match=rf"private-key: .*mode {mode:04o}.*chmod 600 ") as error:
        join(path)
    assert str(tmp_path / "key") in str(error.value)


def test_what_a_site_keeps_is_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, log = tmp_path / "cache", tmp_path / "audit.jsonl"
    before = os.umask(0o022)
    try:
        (cache / "volumes").mkdir(parents=True)
        log.touch()
        log.chmod(0o644)

        def start(*_: object) -> None:
            (cache / "memory").mkdir()
            (cache / "memory" / "own").touch()

        monkeypatch.setattr(joining, "take_part", start)
        monkeypatch.setattr("cli.join.signal.signal", lambda *_: None)
        join(write(tmp_path, cache_dir=str(cache), audit_log=str(log)))
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (log, *cache.rglob("*"))}
    assert modes == {"audit.jsonl": 0o640, "volumes": 0o750, "memory": 0o700, "own": 0o600}


@pytest.mark.parametrize("mode", [0o777, 0o703, 0o1777])
def test_a_cache_that_others_may_write_to_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int
) -> None:
    """Whoever writes there can write the file that approves a run."""
    monkeypatch.setattr(joining, "take_part", lambda *_: pytest.fail("it starts"))
    (cache := tmp_path / "cache").mkdir()
    cache.chmod(mode)
    with pytest.raises(UserError, match=rf"mode {mode:04o}, by which others .*chmod 700 {cache}"):
        join(write(tmp_path, cache_dir=str(cache), audit_log=str(tmp_path / "log")))


def test_what_an_older_version_left_open_is_closed_and_left_overs_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joining, "take_part", lambda *_: None)
    monkeypatch.setattr("cli.join.signal.signal", lambda *_: None)
    cache, log = tmp_path / "cache", tmp_path / "logs" / "audit.jsonl"
    private = [cache / "approvals", cache / "ledger", cache / "privacy-12.json"]
    places = [cache, log.parent, cache / "ledger", cache / "approvals" / "ab", cache / "memory/cd"]
    for folder in places:
        folder.mkdir(parents=True, exist_ok=True)
        for name, age in ((".x.1.part", 7200), (".y.2.part", 60), ("kept.part", 7200)):
            (folder / name).touch()
            os.utime(folder / name, (time.time() - age,) * 2)
    private[-1].touch()
    for path in private:
        path.chmod(0o755)
    join(write(tmp_path, cache_dir=str(cache), audit_log=str(log)))
    for folder in places:
        assert sorted(p.name for p in folder.glob("*part")) == [".y.2.part", "kept.part"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in private} == {0o750}


@pytest.mark.parametrize(("key", "path"), [("cache_dir", "file/cache"), ("audit_log", "file/log")])
def test_a_site_that_cannot_write_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, path: str
) -> None:
    monkeypatch.setattr(joining, "take_part", lambda *_: pytest.fail("it starts"))
    (tmp_path / "file").touch()
    keys = {"cache_dir": str(tmp_path / "cache"), key: str(tmp_path / path)}
    with pytest.raises(UserError, match="cannot be written") as error:
        join(write(tmp_path, **keys))
    said = f"{tmp_path}/site.toml: {key.replace('_', '-')}: {tmp_path / path}"
    assert str(error.value).startswith(said)


def test_without_tls_only_where_it_is_said(tmp_path: Path) -> None:
    connection, site = read_site(
        write(tmp_path, insecure=True, root_certificates="", private_key="")
    )
    assert "--insecure" in connection.command(site)


def test_what_is_spent_of_the_privacy_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(joining, "take_part", lambda *_: None)
    monkeypatch.setattr("cli.join.signal.signal", lambda *_: None)
    private = PrivacySettings(noise_multiplier=2.0, sampling_rate=0.5, delta=0.01)
    PrivacyLedger(tmp_path / "cache", "Siemens", private).spend(4)
    keys: dict[str, Value] = {"noise_multiplier": 2.0, "delta": 0.01}
    join(write(tmp_path, cache_dir=str(tmp_path / "cache"), site="Siemens", **keys))
    spent = epsilon([(2.0, 0.5, 4)], 0.01)
    assert f"ε = {spent:.2f} of 10 is spent, at δ = 0.01" in capsys.readouterr().out
    join(write(tmp_path, cache_dir=str(tmp_path / "cache"), site="Siemens"))
    assert "spent" not in capsys.readouterr().out
