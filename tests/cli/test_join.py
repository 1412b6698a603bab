"""A site's file becomes a SuperNode's command, or a sentence that says what is wrong with it."""

from pathlib import Path

import pytest
import tomli_w
from flwr.common.config import parse_config_args

from cli.certificates import site_key
from cli.join import read_site
from common.errors import UserError
from common.options import Value


def write(folder: Path, **keys: Value) -> Path:
    (folder / "ca.pem").touch()
    if not (folder / "key").exists():
        site_key(folder / "key")
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
    connection, node = read_site(write(tmp_path))
    words = connection.command(node)
    assert words[0].endswith("flower-supernode")
    assert "--insecure" not in words
    assert words[words.index("--root-certificates") + 1] == str(tmp_path / "ca.pem")
    assert words[words.index("--auth-supernode-private-key") + 1] == str(tmp_path / "key")
    assert words[words.index("--isolation") + 1] == "process"


def test_flower_reads_the_node_configuration_as_it_was_written(tmp_path: Path) -> None:
    connection, node = read_site(write(tmp_path))
    words = connection.command(node)
    assert parse_config_args([words[words.index("--node-config") + 1]]) == {
        "site": "St. Anna",
        "data-dir": "/data/heart files",
        "base-model": "/data/base",
        "max-rank": 16,
    }


def test_the_app_is_reached_over_loopback_alone(tmp_path: Path) -> None:
    connection, node = read_site(write(tmp_path, local_port=9111))
    words = connection.command(node)
    assert words[words.index("--clientappio-api-address") + 1] == "127.0.0.1:9111"


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"superlink": ""}, "superlink: found ''"),
        ({"superlink": "fl.example.org"}, "expected host:port"),
        ({"superlink": "https://fl.example.org:9092"}, "expected host:port"),
        ({"data_dir": ""}, "found no 'data-dir'"),
        ({"base_model": ""}, "found no 'base-model'"),
        ({"partition_id": 0}, "partition-id: is of simulations"),
        ({"private_key": __file__}, "holds none of 'rate-my-lora site-key'"),
        ({"private_key": ""}, "found no 'private-key'"),
        ({"root_certificates": ""}, "found no 'root-certificates'"),
        ({"private_key": "/nowhere/key"}, "private-key: /nowhere/key: no such file"),
        ({"insecure": True}, "exclude each other"),
        ({"site": ""}, "found no 'site'"),
        ({"local_port": 0}, "local-port: found 0"),
        ({"max_rank": -1}, "max-rank: found -1"),
        ({"data_dir": '/data/"heart"'}, "data-dir: found a double quote"),
        ({"data_folder": "/data"}, "unknown key 'data-folder'"),
    ],
)
def test_a_wrong_file_is_refused_by_its_name(
    tmp_path: Path, keys: dict[str, Value], words: str
) -> None:
    path = write(tmp_path, **keys)
    with pytest.raises(UserError, match=r"site\.toml") as error:
        read_site(path)
    assert words in str(error.value)


def test_without_tls_only_where_it_is_said(tmp_path: Path) -> None:
    connection, node = read_site(
        write(tmp_path, insecure=True, root_certificates="", private_key="")
    )
    assert "--insecure" in connection.command(node)
