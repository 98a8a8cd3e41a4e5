"""The one way in which a digest of private data leaves the ledger's host: as an HMAC under a secret.

A plain hash of a table is a deterministic function of it. An adversary who knows all rows but one, as in the model of
differential privacy, tries values of that row until the hash is the same. HMAC-SHA256 (RFC 2104) under a secret of 32
bytes is a pseudorandom function: without the secret its values reveal only whether two digests are equal.
Digests of what is public (configs, curated schemas, code, plans) stay plain.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from pathlib import Path

from privacy_pipeline.errors import BadInputError
from privacy_pipeline.files.atomic import sweep, write_new
from privacy_pipeline.files.file_rights import make_folders
from privacy_pipeline.text.typed import quoted

KEY_FILE = "digests.key"  # of a folder of runs without a ledger
PREFIX = "hmac-sha256:"
NOT_HERE = PREFIX + "secret-not-on-this-host"  # never equal to a digest of data
SECRET_BYTES = 32
_PURPOSE = b"privacy_pipeline: digest of data\0"  # the same secret covers units and rows


def covered(digest: str, secret: bytes) -> str:
    """Return a digest as it may leave.

    Args:
        digest: SHA-256, hexadecimal; one that is covered already is returned as it is.
        secret: of the ledger, or of a workspace without one.

    Returns:
        "hmac-sha256:" and 64 hexadecimal digits.
    """
    if is_covered(digest):
        return digest
    return PREFIX + hmac.digest(secret, _PURPOSE + digest.encode(), "sha256").hex()


def is_covered(digest: str) -> bool:
    """Return whether a digest reveals nothing without a secret; records before these rules have plain ones."""
    return digest.startswith(PREFIX)


def are_same(one: str, other: str, secret: bytes) -> bool:
    """Return whether two digests, plain or covered, are of the same data."""
    return hmac.compare_digest(covered(one, secret), covered(other, secret))


def new_secret() -> bytes:
    """Return a new secret."""
    return os.urandom(SECRET_BYTES)


def id_of(secret: bytes) -> str:
    """Return a name of a secret that does not reveal it: the first 16 hexadecimal digits of its SHA-256."""
    return hashlib.sha256(secret).hexdigest()[:16]


def read_secret(path: Path) -> bytes:
    """Return the secret in a file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is damaged, or others can read or write it.
    """
    with path.open() as stream:
        mode = os.fstat(stream.fileno()).st_mode & 0o777
        if mode & 0o077:
            raise ValueError(f"it can be read or written by others (mode {mode:04o})")
        secret = bytes.fromhex(stream.read())
    if len(secret) != SECRET_BYTES:
        raise ValueError("it is damaged")
    return secret


def make_secret(path: Path, secret: bytes) -> None:
    """Write a secret to a file of mode 0600, whole or not at all; a file that is there stays as it is.

    Raises:
        OSError: it cannot be written.
    """
    write_new(path=path, content=secret.hex().encode())


def secret_in(folder: Path) -> bytes:
    """Return the secret of a folder of runs that has no ledger, made with its first run.

    Raises:
        BadInputError: it cannot be read or written, is damaged, or others can read it.
    """
    path = folder / KEY_FILE
    try:
        if not path.exists():
            make_folders(folder)
            make_secret(path, new_secret())
        sweep(path)
        return read_secret(path)
    except OSError as error:
        raise BadInputError(f"{path}: {error.strerror or error}", fix="make its folder writable") from error
    except ValueError as error:
        raise BadInputError(
            f"{path}: {error}", fix=f"chmod 600 {quoted(path)}; if it is damaged, remove it: results are then remade"
        ) from error
