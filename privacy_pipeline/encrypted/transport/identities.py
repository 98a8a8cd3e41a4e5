"""Who a peer is: the role and the client in its certificate, and whether that certificate was revoked.

A revocation list is an X.509 list (RFC 5280, 5) that the parties' own authority signed. Each party reads the one in its
own folder, again whenever the file changed, so a party that runs takes a new list up with the next connection.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec

from privacy_pipeline.errors import PipelineError
from privacy_pipeline.files.bounded import read_bounded
from privacy_pipeline.files.file_rights import refuse_if_others_may_change

PARTIES = ("server0", "server1", "server2", "weights-provider", "prediction-client", "driver")
CLIENT = "prediction-client"
REVOKED = "revoked.pem"
LARGEST_FILE = 1 << 24  # bytes of a key, a certificate or a list
_CLIENT_URI = "urn:privacy-pipeline:client:"


def role_uri(party: str) -> str:
    """Return the URI in a certificate's subject alternative name that names its party."""
    return f"urn:privacy-pipeline:party:{party}"


def client_uri(name: str) -> str:
    """Return the URI in a client's certificate that names the client."""
    return f"{_CLIENT_URI}{name}"


@dataclass(frozen=True, kw_only=True)
class Peer:
    """Who is at the other end.

    Attributes:
        role: one of `PARTIES`.
        name: of the client, where its certificate has one; else the role.
        serial: number of its certificate, in hexadecimal digits.
    """

    role: str
    name: str
    serial: str


def peer_in(certificate: Mapping[str, Any]) -> Peer | None:
    """Return the peer that an accepted certificate names; None for nobody.

    Args:
        certificate: as `ssl.SSLSocket.getpeercert` gives it.
    """
    uris = [value for kind, value in certificate.get("subjectAltName", ()) if kind == "URI"]
    role = next((party for party in PARTIES if role_uri(party) in uris), None)
    if role is None:
        return None
    named = [uri.removeprefix(_CLIENT_URI) for uri in uris if uri.startswith(_CLIENT_URI)]
    return Peer(role=role, name=named[0] if named else role, serial=_digits(int(str(certificate["serialNumber"]), 16)))


def _digits(serial: int) -> str:
    return f"{serial:x}"


class Revocations:
    """The certificates that a party does not accept any more.

    Args:
        folder: the party's own, with `ca.pem`, and `revoked.pem` once a certificate was revoked.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen: tuple[int, int, int] | None = None
        self._serials: frozenset[str] = frozenset()

    def require_valid(self, peer: Peer) -> None:
        """Refuse a peer whose certificate is on the list, and every peer where the list is not usable.

        Raises:
            PipelineError: it is, or the list is not one of the authority's.
        """
        if peer.serial in self._current():
            raise PipelineError(f"the certificate of {peer.name} is revoked")

    def _current(self) -> frozenset[str]:
        path = self._folder / REVOKED
        try:
            status = path.stat()
            seen = (status.st_mtime_ns, status.st_size, status.st_ino)
            if seen != self._seen:
                self._serials = self._read(path)
                self._seen = seen
        except FileNotFoundError:
            self._seen, self._serials = None, frozenset()
        except (OSError, ValueError, UnsupportedAlgorithm) as error:
            raise PipelineError(
                f"{path}: not usable ({error})", fix="copy it again from the deployment's folder"
            ) from None
        return self._serials

    def _read(self, path: Path) -> frozenset[str]:
        refuse_if_others_may_change(path)
        listed = x509.load_pem_x509_crl(read_bounded(path, most=LARGEST_FILE))
        key = x509.load_pem_x509_certificate(read_bounded(self._folder / "ca.pem", most=LARGEST_FILE)).public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey) or not listed.is_signature_valid(key):
            raise ValueError("another authority signed it, or it was changed")
        return frozenset(_digits(one.serial_number) for one in listed)
