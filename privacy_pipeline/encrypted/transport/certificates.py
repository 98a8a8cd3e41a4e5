"""Keys and certificates of the parties: one authority of their own, one role in each certificate.

A client's certificate names the client too, so that each has limits of its own and can be revoked (`clients.py`).
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import os
import shutil
import ssl
from collections.abc import Iterator
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from privacy_pipeline.encrypted.transport.identities import (
    CLIENT,
    LARGEST_FILE,
    PARTIES,
    Revocations,
    client_uri,
    role_uri,
)
from privacy_pipeline.errors import BadInputError, PipelineError
from privacy_pipeline.files.atomic import write_new
from privacy_pipeline.files.bounded import read_bounded
from privacy_pipeline.files.file_rights import refuse_if_others_may_change, refuse_if_others_may_read

_LAST, _MAKING = "parties.yaml", ".making"  # the file that is written last; there while a folder is made
_FIRST_PORT = 27100  # below the kernel's own choices (32768 on): see worker/parties.py


class PartyContext(ssl.SSLContext):
    """TLS as one party speaks it.

    Attributes:
        revocations: what it refuses although the authority signed it.
    """

    revocations: Revocations


def tls_context(*, folder: Path, server: bool) -> PartyContext:
    """Return TLS 1.3 that presents the party's certificate and demands one of the same authority from the peer.

    Raises:
        PipelineError: a file is missing or unreadable.
    """
    refuse_if_others_may_read(folder / "key.pem")
    for name in ("certificate.pem", "ca.pem"):
        refuse_if_others_may_change(folder / name)
    context = PartyContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # the role in the certificate is checked instead: hosts may move
    context.verify_mode = ssl.CERT_REQUIRED
    if server:
        context.num_tickets = 0  # no session is resumed: each connection shows its certificate
    try:
        context.load_cert_chain(folder / "certificate.pem", folder / "key.pem")
        context.load_verify_locations(folder / "ca.pem")
    except OSError as error:
        raise PipelineError(
            f"{folder}: key or certificate not usable ({error})", fix="privacy-pipeline encrypted init-parties FOLDER"
        ) from None
    context.revocations = Revocations(folder)
    return context


def require_current(path: Path) -> None:
    """Refuse a certificate that TLS would refuse for its dates; the error names its file.

    Raises:
        PipelineError: it is expired, not valid yet, missing or unreadable.
    """
    try:
        certificate = x509.load_pem_x509_certificate(read_bounded(path, most=LARGEST_FILE))
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise PipelineError(
            f"{path}: not usable ({error})", fix="privacy-pipeline encrypted init-parties FOLDER"
        ) from None
    now = datetime.datetime.now(datetime.timezone.utc)
    starts, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if not starts <= now <= ends:
        raise PipelineError(
            f"{path}: expired, or not valid yet ({starts:%Y-%m-%d} to {ends:%Y-%m-%d})",
            fix="privacy-pipeline encrypted init-parties, and give each party its new folder",
        )


def client_context(*, folder: Path, protocol: str) -> PartyContext:
    """Return the context of a party that dials, and asks for this protocol.

    Raises:
        PipelineError: a file of the party's is missing or unreadable, or its certificate is not valid at this time.
    """
    require_current(folder / "certificate.pem")
    context = tls_context(folder=folder, server=False)
    context.set_alpn_protocols([protocol])
    return context


def init_parties(*, folder: Path, hosts: tuple[str, ...] = (), days: float = 90.0) -> None:
    """Make the authority, then a key and a certificate for each of `PARTIES`, and `parties.yaml`.

    A party's host needs `parties.yaml` and the party's own folder (`key.pem`, `certificate.pem`, `ca.pem`) and
    nothing else. `ca/key.pem` belongs on none of them.

    Args:
        folder: a new or empty folder.
        hosts: one address for each of `PARTIES`, in that order; none: all on 127.0.0.1.
        days: how long the certificates are valid.

    Raises:
        BadInputError: the folder is not empty or cannot be written, or the number of hosts is wrong.
    """
    if hosts and len(hosts) != len(PARTIES):
        raise BadInputError(
            f"--hosts: {len(hosts)} addresses for {len(PARTIES)} parties", fix=f"give one each: {', '.join(PARTIES)}"
        )
    try:
        with _being_made(folder):
            _make_parties(folder, hosts or ("127.0.0.1",) * len(PARTIES), days)
    except OSError as error:
        raise BadInputError(f"{folder}: cannot be written ({error.strerror})", fix="choose another folder") from None


@contextlib.contextmanager
def _being_made(folder: Path) -> Iterator[None]:
    """Mark a folder while it is made. What a killed call left in it is removed.

    Raises:
        BadInputError: it has another content, or another process makes it.
        OSError: it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    mark = folder / _MAKING
    if (folder / _LAST).exists() or (any(folder.iterdir()) and not mark.exists()):
        raise BadInputError(f"{folder}: not empty", fix="choose a new folder: keys are never overwritten")
    with mark.open("a") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BadInputError(f"{folder}: another process makes it", fix="wait for it") from None
        if not os.fstat(held.fileno()).st_nlink:
            raise BadInputError(f"{folder}: another process made it", fix="choose a new folder")
        for party in ("ca", *PARTIES):
            if (folder / party).exists():
                shutil.rmtree(folder / party)
        yield
        mark.unlink()


def _make_parties(folder: Path, hosts: tuple[str, ...], days: float) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    authority = _certificate(name="authority", key=key, issuer=None, issuer_key=key, days=days)
    _write(folder / "ca" / "key.pem", _pem(key))
    for party in PARTIES:
        own = ec.generate_private_key(ec.SECP256R1())
        signed = _certificate(name=party, key=own, issuer=authority.subject, issuer_key=key, days=days)
        _write(folder / party / "key.pem", _pem(own))
        _write(folder / party / "certificate.pem", signed.public_bytes(serialization.Encoding.PEM))
        _write(folder / party / "ca.pem", authority.public_bytes(serialization.Encoding.PEM))
    lines = [
        f"{party}: {host}:{_FIRST_PORT + index}" for index, (party, host) in enumerate(zip(PARTIES, hosts, strict=True))
    ]
    write_new(path=folder / _LAST, content=("\n".join(lines) + "\n").encode())


def issue(
    *, folder: Path, client: str, days: float, authority: x509.Certificate, key: ec.EllipticCurvePrivateKey
) -> None:
    """Make a key and a certificate for one client.

    Args:
        folder: new; gets `key.pem`, `certificate.pem` and `ca.pem`.
        client: its name.
        days: how long the certificate is valid.
        authority: the parties' own.
        key: the authority's.

    Raises:
        OSError: the folder cannot be written.
    """
    own = ec.generate_private_key(ec.SECP256R1())
    signed = _certificate(
        name=CLIENT, key=own, issuer=authority.subject, issuer_key=key, days=days, names=(client_uri(client),)
    )
    _write(folder / "key.pem", _pem(own))
    _write(folder / "certificate.pem", signed.public_bytes(serialization.Encoding.PEM))
    _write(folder / "ca.pem", authority.public_bytes(serialization.Encoding.PEM))


def _certificate(
    *,
    name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Name | None,
    issuer_key: ec.EllipticCurvePrivateKey,
    days: float,
    names: tuple[str, ...] = (),
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"privacy-pipeline {name}")])
    end = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=days)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer or subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(end - datetime.timedelta(days=abs(days) + 1))  # a day of grace for clocks that differ
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
    )
    if issuer is not None:
        uris = [x509.UniformResourceIdentifier(uri) for uri in (role_uri(name), *names)]
        roles = x509.SubjectAlternativeName(uris)
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
        builder = builder.add_extension(roles, critical=False).add_extension(usage, critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(mode=0o700, exist_ok=True)
    # O_EXCL with the mode: the key is never readable by others, not even for a moment.
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
        stream.write(content)
