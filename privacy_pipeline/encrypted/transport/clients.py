"""Clients of a deployment: each has a certificate of its own, which can be revoked.

A client gets a folder that it can be handed: `parties.yaml`, `prediction-client/` with its key and certificate, and the
published side of the model once there is one. The list of what is revoked is signed by the authority. It is written
into each party's folder here, and takes effect on another host when it is copied there.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from privacy_pipeline.encrypted.model import published
from privacy_pipeline.encrypted.transport import certificates
from privacy_pipeline.encrypted.transport.identities import CLIENT, LARGEST_FILE, PARTIES, REVOKED
from privacy_pipeline.errors import BadInputError
from privacy_pipeline.files.atomic import write_bytes_atomically
from privacy_pipeline.files.bounded import read_bounded
from privacy_pipeline.files.file_rights import refuse_if_others_may_change, refuse_if_others_may_read
from privacy_pipeline.text.typed import typed

_CLIENTS = "clients"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


@dataclass(frozen=True, kw_only=True)
class Issued:
    """A certificate of a deployment.

    Attributes:
        name: of the client, or of the party.
        ends: when it expires, in UTC.
        revoked: whether it is on the list.
    """

    name: str
    ends: datetime.datetime
    revoked: bool


def add_client(*, folder: Path, name: str, days: float = 90.0) -> Path:
    """Make a key and a certificate for one more client.

    Args:
        folder: what `init_parties` made, with the authority's key.
        name: lower-case letters, digits, `.`, `_` and `-`; 63 at most.
        days: how long the certificate is valid.

    Returns:
        The client's folder.

    Raises:
        BadInputError: the name is taken or not usable, the authority's key is not there, or a folder cannot be written.
    """
    if not _NAME.fullmatch(name) or name in PARTIES:
        raise BadInputError(
            f"{name!r}: not a name for a client",
            fix="use up to 63 lower-case letters, digits, `.`, `_` and `-`, and not the name of a party",
        )
    key, authority = _authority(folder)
    own = folder / _CLIENTS / name
    if own.exists():
        raise BadInputError(f"{own}: there is such a client already", fix="choose another name, and revoke the old one")
    part = own.with_name(f".{name}.part")
    try:
        with _alone(folder):
            for left in part.parent.glob(".*.part"):  # of a killed call; the certificate in it is on no list
                shutil.rmtree(left)
            for made in (part.parent, part, part / CLIENT):
                made.mkdir(mode=0o700, exist_ok=True)
            certificates.issue(folder=part / CLIENT, client=name, days=days, authority=authority, key=key)
            shutil.copyfile(folder / "parties.yaml", part / "parties.yaml")
            if (folder / "ca" / REVOKED).exists():
                shutil.copyfile(folder / "ca" / REVOKED, part / CLIENT / REVOKED)
            if (folder / published.FOLDER).is_dir():
                shutil.copytree(folder / published.FOLDER, part / published.FOLDER, copy_function=shutil.copyfile)
            part.rename(own)
    except OSError as error:
        raise BadInputError(f"{own}: cannot be written ({error.strerror})", fix="correct the folder's rights") from None
    return own


def revoke(*, folder: Path, name: str) -> list[Path]:
    """Put the certificate of a client, or of a party, on the list of those that nobody accepts any more.

    Args:
        folder: what `init_parties` made, with the authority's key.
        name: of the client or the party.

    Returns:
        The lists that were written, one for each party's folder here; parties on other hosts need theirs copied.

    Raises:
        BadInputError: nobody has that name, or a file is missing or cannot be written.
    """
    key, authority = _authority(folder)
    own = _folders(folder).get(name)
    if own is None:
        raise BadInputError(
            f"{name!r}: there is no such client", fix=typed("encrypted", "clients", "--parties", folder)
        )
    serial = _loaded(own / "certificate.pem").serial_number
    kept = folder / "ca" / REVOKED
    now = datetime.datetime.now(datetime.timezone.utc)
    targets = [one for one in _folders(folder).values() if one.is_dir()]
    try:
        with _alone(folder):
            listed = {one.serial_number: one for one in _revoked(kept)}
            listed.setdefault(
                serial, x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now).build()
            )
            # The list ends with the authority, and all certificates with it: nobody is refused for its age before.
            ends = max(authority.not_valid_after_utc, now + datetime.timedelta(seconds=1))
            builder = x509.CertificateRevocationListBuilder(authority.subject, now, ends, [], list(listed.values()))
            content = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
            for target in (kept.parent, *targets):
                write_bytes_atomically(path=target / REVOKED, content=content)
    except OSError as error:
        raise BadInputError(f"{folder}: cannot be written ({error.strerror})", fix="correct its rights") from None
    return [target / REVOKED for target in targets]


def issued(*, folder: Path) -> list[Issued]:
    """Return all certificates that lie in a deployment's folder, those of the parties first.

    Raises:
        BadInputError: one is not usable.
    """
    revoked = {one.serial_number for one in _revoked(folder / "ca" / REVOKED)}
    found = []
    for name, own in _folders(folder).items():
        certificate = _loaded(own / "certificate.pem")
        ends = certificate.not_valid_after_utc
        found.append(Issued(name=name, ends=ends, revoked=certificate.serial_number in revoked))
    return found


def _folders(folder: Path) -> dict[str, Path]:
    """Return the folder with each certificate that lies here, by its name."""
    parties = {party: folder / party for party in PARTIES if (folder / party).is_dir()}
    clients = sorted(one for one in (folder / _CLIENTS).glob("*") if _NAME.fullmatch(one.name))
    return parties | {one.name: one / CLIENT for one in clients}


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Let in one call at a time: a revocation writes the whole list, a new client removes what killed ones left."""
    with (folder / "ca" / "key.pem").open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


def _revoked(path: Path) -> list[x509.RevokedCertificate]:
    try:
        return list(x509.load_pem_x509_crl(read_bounded(path, most=LARGEST_FILE)))
    except FileNotFoundError:
        return []
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise BadInputError(f"{path}: not usable ({error})", fix="restore it from a copy in a party's folder") from None


def _authority(folder: Path) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    path = folder / "ca" / "key.pem"
    refuse_if_others_may_read(path)
    try:
        key = serialization.load_pem_private_key(read_bounded(path, most=LARGEST_FILE), None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise BadInputError(
            f"{path}: not usable ({error})", fix=f"run it where {typed('encrypted', 'init-parties', folder)} was run"
        ) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise BadInputError(f"{path}: not a key of `init-parties`", fix="restore the one that it made")
    return key, _loaded(next(iter(_folders(folder).values()), folder / PARTIES[0]) / "ca.pem")


def _loaded(path: Path) -> x509.Certificate:
    refuse_if_others_may_change(path)
    try:
        return x509.load_pem_x509_certificate(read_bounded(path, most=LARGEST_FILE))
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise BadInputError(f"{path}: not usable ({error})", fix="restore the folder of `init-parties`") from None
