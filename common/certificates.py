"""Certificates and keys for TLS and node authentication.

Elliptic-curve keys (P-384) and X.509 certificates like those of ``openssl`` and ``ssh-keygen``.
"""

import base64
import hashlib
import ipaddress
import os
import re
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from common.errors import UserError
from common.files import replace_file

T = TypeVar("T")
AUTHORITY_DAYS = 3650
HOST = re.compile(r"[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63}){0,9}")
CLOCK_SKEW = timedelta(minutes=5)
"""Certificates are valid from this long before now, because hospitals' clocks differ."""


def make_authority(folder: Path, hosts: Sequence[str], days: int) -> date:
    """Make a certificate authority where there is none, and a new certificate of the SuperLink.

    Parameters
    ----------
    folder
        Folder of ``ca.pem``, ``ca.key``, ``server.pem`` and ``server.key``.
    hosts
        Names or addresses that sites connect to.
    days
        How long the SuperLink's certificate is valid.

    Returns
    -------
    date
        The last day on which the SuperLink's certificate is valid.

    Raises
    ------
    UserError
        A host cannot be named in a certificate, or the folder's files cannot be used.
    """
    for name in hosts:
        _check_host(name)
    ca_key, ca = _authority(folder)
    key = ec.generate_private_key(ec.SECP384R1())
    certificate = _certificate(hosts[0], key, ca.subject, ca_key, days, hosts=hosts)
    write_private(folder / "server.key", _pem(key))
    _write_public(folder / "server.pem", certificate.public_bytes(Encoding.PEM))
    return certificate.not_valid_after_utc.date()


def make_site_key(path: Path) -> str:
    """Write a site's private key to ``path`` and its public key to ``path.pub``.

    Returns the public key's fingerprint, as ``ssh-keygen -lf`` prints it.

    Raises
    ------
    UserError
        One of the files exists already, or cannot be written.
    """
    public_path = path.with_name(path.name + ".pub")
    for existing in (path, public_path):
        if existing.exists():
            raise UserError(
                f"{existing}: exists already; a key that is registered must not be lost"
            )
    key = ec.generate_private_key(ec.SECP384R1())
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    write_private(path, private)
    _write_public(public_path, public + b"\n")
    return _fingerprint(public)


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner can read."""
    with replace_file(path) as temporary:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)


def _write_public(path: Path, content: bytes) -> None:
    with replace_file(path) as temporary:
        temporary.write_bytes(content)


def _check_host(host: str) -> None:
    """Raise UserError unless ``host`` is an IP address or a host name without a port."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        if not HOST.fullmatch(host):
            raise UserError(
                f"--host: found {host!r}, expected a name such as federation.example.org, or an "
                "address, without a port"
            ) from None


def _authority(folder: Path) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    """Return the key and certificate of the folder's authority; make them where there are none."""
    certificate_path, key_path = folder / "ca.pem", folder / "ca.key"
    if certificate_path.is_file() and key_path.is_file():
        ca = _read(certificate_path, "certificate", x509.load_pem_x509_certificate)
        key = _read(key_path, "private key", partial(load_pem_private_key, password=None))
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise UserError(f"{key_path}: found another kind of key, expected an elliptic curve's")
        if key.public_key() != ca.public_key():
            raise UserError(f"{key_path}: is not the key of {certificate_path}")
        return key, ca
    if certificate_path.is_file() or key_path.is_file():
        raise UserError(f"{folder}: has only one of ca.pem and ca.key, expected both or none")
    key = ec.generate_private_key(ec.SECP384R1())
    name = _name("Rate-My-LoRA federation")
    ca = _certificate("Rate-My-LoRA federation", key, name, key, AUTHORITY_DAYS, hosts=())
    write_private(key_path, _pem(key))
    _write_public(certificate_path, ca.public_bytes(Encoding.PEM))
    return key, ca


def _read(path: Path, what: str, load: Callable[[bytes], T]) -> T:
    """Read a PEM file; the errors leave out OpenSSL's own texts, which help nobody."""
    try:
        return load(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot read the file ({error.strerror})") from None
    except TypeError:  # raised where the key has a password
        raise UserError(f"{path}: has a password, expected a {what} without one") from None
    except (ValueError, UnsupportedAlgorithm):
        raise UserError(
            f"{path}: holds no {what} in PEM, expected the file that 'rate-my-lora authority' wrote"
        ) from None


def _certificate(
    subject: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Name,
    issuer_key: ec.EllipticCurvePrivateKey,
    days: int,
    hosts: Sequence[str],
) -> x509.Certificate:
    """Return a signed certificate; without ``hosts`` it is that of an authority."""
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=not hosts, path_length=None), critical=True)
    )
    if hosts:
        names = x509.SubjectAlternativeName([_general_name(host) for host in hosts])
        builder = builder.add_extension(names, critical=False)
    return builder.sign(issuer_key, hashes.SHA384())


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common[:64])])


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _fingerprint(public: bytes) -> str:
    """Return a public key's fingerprint as ``ssh-keygen -lf`` prints it."""
    digest = hashlib.sha256(base64.b64decode(public.split()[1])).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")
