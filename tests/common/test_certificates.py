"""Keys and certificates are those that TLS and Flower's authentication take."""

import base64
import hashlib
import stat
from pathlib import Path

import pytest
import typer
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
    load_ssh_private_key,
    load_ssh_public_key,
)
from typer.testing import CliRunner

from cli.authority import authority
from cli.site_key import site_key
from common.errors import UserError

app = typer.Typer()
app.command("authority")(authority)
app.command("site-key")(site_key)


def run(*words: object) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words])
    if isinstance(result.exception, UserError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_the_server_certificate_is_the_authoritys_and_names_every_host(tmp_path: Path) -> None:
    run("authority", tmp_path, "--host", "fl.example.org", "--host", "192.0.2.7", "--days", 30)
    ca, server = certificate(tmp_path / "ca.pem"), certificate(tmp_path / "server.pem")
    server.verify_directly_issued_by(ca)
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["fl.example.org"]
    assert [str(a) for a in names.get_values_for_type(x509.IPAddress)] == ["192.0.2.7"]
    assert (server.not_valid_after_utc - server.not_valid_before_utc).days == 30
    assert ca.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert not server.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_a_renewed_certificate_has_the_same_authority(tmp_path: Path) -> None:
    run("authority", tmp_path, "--host", "fl.example.org")
    ca, server = ((tmp_path / name).read_bytes() for name in ("ca.pem", "server.pem"))
    run("authority", tmp_path, "--host", "fl.example.org")
    assert (tmp_path / "ca.pem").read_bytes() == ca
    assert (tmp_path / "server.pem").read_bytes() != server
    certificate(tmp_path / "server.pem").verify_directly_issued_by(certificate(tmp_path / "ca.pem"))


def test_half_an_authority_is_refused(tmp_path: Path) -> None:
    run("authority", tmp_path, "--host", "a")
    (tmp_path / "ca.key").unlink()
    with pytest.raises(UserError, match=r"only one of ca\.pem and ca\.key"):
        run("authority", tmp_path, "--host", "a")


@pytest.mark.parametrize("host", ["", "a:9092", "fed example", "ümlaut.example.org", "https://a"])
def test_what_no_certificate_can_name_is_refused_before_anything_is_written(
    tmp_path: Path, host: str
) -> None:
    with pytest.raises(UserError, match="--host"):
        run("authority", tmp_path / "new", "--host", host)
    assert not (tmp_path / "new").exists()


def test_the_key_of_another_authority_is_refused_and_nothing_is_replaced(tmp_path: Path) -> None:
    for name in ("one", "other"):
        run("authority", tmp_path / name, "--host", "a")
    before = (tmp_path / "one" / "server.pem").read_bytes()
    (tmp_path / "one" / "ca.key").write_bytes((tmp_path / "other" / "ca.key").read_bytes())
    with pytest.raises(UserError, match=r"ca\.key: is not the key of"):
        run("authority", tmp_path / "one", "--host", "a")
    assert (tmp_path / "one" / "server.pem").read_bytes() == before


@pytest.mark.parametrize("name", ["ca.pem", "ca.key"])
@pytest.mark.parametrize("broken", ["empty", "cut", "text", "bytes", "a line less"])
def test_a_broken_authority_is_named_in_words(tmp_path: Path, name: str, broken: str) -> None:
    run("authority", tmp_path, "--host", "a")
    whole, server = (tmp_path / name).read_bytes(), (tmp_path / "server.pem").read_bytes()
    begin, *body, end = whole.splitlines(keepends=True)
    content = {
        "empty": b"",
        "cut": whole[: len(whole) // 2],
        "text": b"a key\n",
        "bytes": bytes(range(256)),
        "a line less": begin + b"".join(body[1:]) + end,
    }[broken]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as error:
        run("authority", tmp_path, "--host", "a")
    what = {"ca.pem": "certificate", "ca.key": "private key"}[name]
    assert str(error.value) == (
        f"{tmp_path / name}: holds no {what} in PEM, expected the file that "
        "'rate-my-lora authority' wrote"
    )
    assert (tmp_path / "server.pem").read_bytes() == server


def test_a_key_with_a_password_is_refused_for_its_password(tmp_path: Path) -> None:
    run("authority", tmp_path, "--host", "a")
    key = load_pem_private_key((tmp_path / "ca.key").read_bytes(), None)
    locked = BestAvailableEncryption(b"secret")
    (tmp_path / "ca.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, locked))
    with pytest.raises(UserError, match=r"ca\.key: has a password, expected a private key"):
        run("authority", tmp_path, "--host", "a")


def test_private_keys_are_for_their_owner_alone(tmp_path: Path) -> None:
    run("authority", tmp_path, "--host", "a")
    run("site-key", tmp_path / "site")
    for name in ("ca.key", "server.key", "site"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600


def test_a_site_key_is_what_flower_reads_and_its_fingerprint_is_the_usual_one(
    tmp_path: Path,
) -> None:
    output = run("site-key", tmp_path / "site")
    private = load_ssh_private_key((tmp_path / "site").read_bytes(), None)
    line = (tmp_path / "site.pub").read_bytes()
    public = load_ssh_public_key(line)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    assert isinstance(public, ec.EllipticCurvePublicKey)
    assert private.public_key().public_numbers() == public.public_numbers()
    digest = hashlib.sha256(base64.b64decode(line.split()[1])).digest()
    assert base64.b64encode(digest).decode().rstrip("=") in output


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    run("site-key", tmp_path / "site")
    before = (tmp_path / "site").read_bytes()
    with pytest.raises(UserError, match="exists already"):
        run("site-key", tmp_path / "site")
    assert (tmp_path / "site").read_bytes() == before
    (tmp_path / "site").unlink()  # the public half may be registered
    with pytest.raises(UserError, match=r"site\.pub: exists already"):
        run("site-key", tmp_path / "site")
