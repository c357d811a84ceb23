"""The gateway's certificates: TLS contexts for the names that viewers ask for.

Owns what TLS is offered: versions 1.2 and 1.3, one ticket for each connection with which a viewer
resumes at this process, no renegotiation. `load` reads the certificate of `tls_cert_file`, for
every viewer that asks for no name or an unknown one, and those of `tls_cert_dirs`. Refuses, with a
message that names the file, whatever cannot be used: then a start ends, and a gateway that runs
keeps what it read before.
"""

import ssl
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Final, NamedTuple

from liveroom.settings import EdgeSettings

CERT_NAME: Final = "tls.crt"  # in a folder, as Kubernetes mounts a secret of the type kubernetes.io/tls
KEY_NAME: Final = "tls.key"
_CERT_MARK: Final = b"-----BEGIN CERTIFICATE-----"
_KEY_MARK: Final = b"PRIVATE KEY-----"


class CertificateError(ValueError):
    """A certificate or key that cannot be used. The message names the file and the reason."""


class Certificates(NamedTuple):
    """What was read. `expire_s`: when the first of the certificates expires, in Unix time.

    `names`: those that the certificates are for, in lower case.
    """

    context: ssl.SSLContext
    expire_s: float
    names: frozenset[str] = frozenset()

    def covers(self, host: str) -> bool:
        """Return whether viewers that connect to a host get a certificate for it."""
        return not self.names.isdisjoint(_names_for(host))


def files_of(settings: EdgeSettings) -> list[Path]:
    """Return all files that `load` reads."""
    return [file for pair in _pairs(settings) for file in pair]


def load(settings: EdgeSettings) -> Certificates | None:
    """Read the certificates; None where no certificate is set.

    Raises CertificateError and OSError.
    """
    pairs = _pairs(settings)
    if not pairs:
        return None
    read = [(_context(cert, key), _first_of(cert)) for cert, key in pairs]
    default = read[0][0]
    if len(read) > 1:
        default.sni_callback = _Chooser(default, _by_name((context, about.names) for context, about in read))
    names = frozenset(name for _, about in read for name in about.names)
    return Certificates(default, min(about.expires.timestamp() for _, about in read), names)


class _About(NamedTuple):
    names: list[str]
    expires: datetime


def _pairs(settings: EdgeSettings) -> list[tuple[Path, Path]]:
    """Return the files of each certificate and its key: those of the default one first."""
    if settings.tls_cert_file is None:
        return []
    default = (settings.tls_cert_file, settings.tls_key_file or settings.tls_cert_file)
    return [default, *((folder / CERT_NAME, folder / KEY_NAME) for folder in settings.tls_cert_dirs)]


def _context(cert: Path, key: Path) -> ssl.SSLContext:
    """Return the context of one certificate, with its chain."""
    _check_pem(cert, _CERT_MARK, "a certificate")
    _check_pem(key, _KEY_MARK, "a private key")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.num_tickets = 1

    def no_password() -> bytes:
        raise CertificateError(f"{key} is encrypted: a gateway has nobody to ask for the password")

    try:
        context.load_cert_chain(cert, key, no_password)
    except ssl.SSLError as error:
        if "KEY_VALUES_MISMATCH" in str(error) or "KEY_TYPE_MISMATCH" in str(error):
            raise CertificateError(f"{key} is not the private key of the certificate in {cert}") from None
        raise CertificateError(f"{cert} with {key} cannot be used: {error.reason or error}") from None
    return context


def _check_pem(file: Path, mark: bytes, what: str) -> None:
    """Raise where a file cannot be read or is no PEM: OpenSSL's errors name no file."""
    if mark not in file.read_bytes():
        raise CertificateError(f"{file} does not contain {what} in PEM")


def _first_of(cert: Path) -> _About:
    """Return what the first certificate of a file says: the names that it is for, and its end."""
    from cryptography import x509  # noqa: PLC0415 - a gateway without TLS does not need it

    try:
        parsed = x509.load_pem_x509_certificates(cert.read_bytes())[0]
        expires = parsed.not_valid_after_utc
        extension = parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return _About([], expires)
    except ValueError as error:
        raise CertificateError(f"{cert} does not contain a certificate in PEM: {error}") from None
    return _About([name.lower() for name in extension.value.get_values_for_type(x509.DNSName)], expires)


def _names_for(host: str) -> tuple[str, str]:
    """Return the names of a certificate for a host: its own, and the wildcard that covers it."""
    lowered = host.lower()
    return lowered, f"*.{lowered.partition('.')[2]}"


def _by_name(read: Iterable[tuple[ssl.SSLContext, list[str]]]) -> dict[str, ssl.SSLContext]:
    """Return the context of each name; of two certificates with one name, the first."""
    found: dict[str, ssl.SSLContext] = {}
    for context, names in read:
        for name in names:
            found.setdefault(name, context)
    return found


class _Chooser:
    """Chooses the certificate by the name that a viewer asks for."""

    def __init__(self, default: ssl.SSLContext, by_name: Mapping[str, ssl.SSLContext]) -> None:
        self._default = default
        self._by_name = by_name

    def __call__(self, sock: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        """Give a connection the context for a name; one without a known name keeps the default."""
        if name is None:
            return
        context = next(filter(None, map(self._by_name.get, _names_for(name))), None)
        if context is not None and context is not self._default:
            sock.context = context
