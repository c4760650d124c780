"""TLS: a private authority and a server certificate for fal's host names, so that unmodified clients can be redirected.

The authority stays the same when the certificate is issued again: clients trust it once (fal-protocol.md §1.5, §1.6).
"""

import fcntl
import ipaddress
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from server.hosts import FAL_HOSTS

LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
AUTHORITY_LIFE = timedelta(days=3650)
CERTIFICATE_LIFE = timedelta(days=397)
"""Browsers and Apple refuse server certificates that live longer (CA/Browser Forum ballot SC31)."""
RENEW_BEFORE = timedelta(days=30)
CLOCK_SKEW = timedelta(hours=1)
HOST_NAME = re.compile(r"(\*\.)?([a-z0-9_-]{1,63}\.)*(?=[a-z0-9-]*[a-z-])[a-z0-9-]{1,63}", re.IGNORECASE)
"""Labels of letters, digits and hyphens, the last one not a number: that would be an IPv4 address."""


class TlsError(Exception):
    """The TLS files cannot be used."""


@dataclass(frozen=True)
class TlsFiles:
    """Where the PEM files are: `authority` is what clients must trust, `authority_key` is what nobody may read."""

    folder: Path

    @property
    def authority(self) -> Path:
        return self.folder / "ca.pem"

    @property
    def authority_key(self) -> Path:
        return self.folder / "ca.key"

    @property
    def certificate(self) -> Path:
        return self.folder / "server.pem"

    @property
    def key(self) -> Path:
        return self.folder / "server.key"


def issue(folder: Path, names: Sequence[str] = ()) -> TlsFiles:
    """Make the authority below `folder` if there is none, and a new server certificate and key from it.

    Args:
        names: further host names and IP addresses, beside the loopback and fal's ones; each host name also counts
            as ``queue.<name>``, which fal-client before 0.11 calls (fal-protocol.md §1.4).

    Raises:
        TlsError: the authority is there but unreadable, incomplete or expired.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with alone_in(folder):
        return _issue(TlsFiles(folder), names)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Two processes that issue at once would leave the key of one beside the certificate of the other."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _issue(files: TlsFiles, names: Sequence[str]) -> TlsFiles:
    if not files.authority.exists() and not files.authority_key.exists():
        make_authority(files)
    authority, authority_key = read_authority(files)
    key = ec.generate_private_key(ec.SECP256R1())
    all_names = list(dict.fromkeys((*LOCAL_NAMES, *FAL_HOSTS, *names, *queue_names(names))))
    certificate = sign_server(all_names, key.public_key(), authority, authority_key)
    chain = certificate.public_bytes(serialization.Encoding.PEM) + authority.public_bytes(serialization.Encoding.PEM)
    write(files.key, pem_of(key), mode=0o600)
    write(files.certificate, chain, mode=0o644)
    return files


def ensure(folder: Path, names: Sequence[str] = ()) -> TlsFiles:
    """The files below `folder`; issued first if missing, about to expire, or without one of `names`."""
    files = TlsFiles(folder)
    if not (files.certificate.exists() and files.key.exists()):
        return issue(folder, names)
    covered = names_of(files.certificate)
    if expiry(files.certificate) - datetime.now(UTC) < RENEW_BEFORE or not set(names) <= set(covered):
        return issue(folder, [*covered, *names])
    return files


def queue_names(names: Iterable[str]) -> list[str]:
    """``queue.<name>`` of each of the operator's host names that is neither an address nor such a name already."""
    known = {*LOCAL_NAMES, *FAL_HOSTS}
    own = [name for name in names if HOST_NAME.fullmatch(name) and name not in known]
    return [f"queue.{name}" for name in own if not name.startswith(("queue.", "*."))]


def make_authority(files: TlsFiles) -> None:
    """A new authority, valid for ten years, that may sign servers but no further authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Veraicon private authority {secrets.token_hex(4)}")])
    usage = key_usage(key_cert_sign=True, crl_sign=True)
    certificate = (
        unsigned(name, name, key.public_key(), AUTHORITY_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    write(files.authority_key, pem_of(key), mode=0o600)
    write(files.authority, certificate.public_bytes(serialization.Encoding.PEM), mode=0o644)


def sign_server(
    names: Sequence[str],
    key: ec.EllipticCurvePublicKey,
    authority: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
) -> x509.Certificate:
    """A server certificate for `names` that passes strict RFC 5280 checks (Python 3.13's VERIFY_X509_STRICT)."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Veraicon")])
    authority_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key())
    return (
        unsigned(subject, authority.subject, key, CERTIFICATE_LIFE)
        .add_extension(x509.SubjectAlternativeName(general_names(names)), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(key_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(authority_id, critical=False)
        .sign(authority_key, hashes.SHA256())
    )


def unsigned(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, life: timedelta
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + life)
    )


def key_usage(*, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def general_names(names: Iterable[str]) -> list[x509.GeneralName]:
    """DNS names and IP addresses as a certificate lists them. Raises TlsError for what is neither."""
    return [general_name(name) for name in names]


def general_name(name: str) -> x509.GeneralName:
    if HOST_NAME.fullmatch(name):
        return x509.DNSName(name)
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        raise TlsError(f"{name!r} is neither a host name nor an IP address; write it as its ASCII form") from None


def read_authority(files: TlsFiles) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """The authority's certificate and key. Raises TlsError when one of them is missing, broken or expired."""
    remedy = f"restore ca.pem and ca.key in {files.folder} from a backup, or remove both and let the clients trust anew"
    try:
        certificate = x509.load_pem_x509_certificate(files.authority.read_bytes())
        key = serialization.load_pem_private_key(files.authority_key.read_bytes(), password=None)
    except (OSError, ValueError) as error:
        raise TlsError(f"the private authority cannot be read: {error}; {remedy}") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or certificate.public_key() != key.public_key():
        raise TlsError(f"ca.pem and ca.key do not belong together; {remedy}")
    if certificate.not_valid_after_utc < datetime.now(UTC):
        raise TlsError(f"the private authority expired on {certificate.not_valid_after_utc:%Y-%m-%d}; {remedy}")
    return certificate, key


def expiry(certificate: Path) -> datetime:
    """When this PEM certificate ends, in UTC. Raises TlsError when it cannot be read."""
    return read_certificate(certificate).not_valid_after_utc


def names_of(certificate: Path) -> list[str]:
    """The DNS names and IP addresses for which this PEM certificate is valid."""
    try:
        extension = read_certificate(certificate).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    addresses = [str(address) for address in extension.get_values_for_type(x509.IPAddress)]
    return [*extension.get_values_for_type(x509.DNSName), *addresses]


def read_certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        raise TlsError(f"the certificate {path} cannot be read: {error}; issue it with `veraicon tls issue`") from None


def pem_of(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def write(path: Path, data: bytes, mode: int) -> None:
    """Replace the file at once, created with these permissions: a private key is never readable, not even briefly."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
