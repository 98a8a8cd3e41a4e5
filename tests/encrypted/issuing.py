"""Parties whose certificates are not as they should be."""

from __future__ import annotations

import shutil
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from privacy_pipeline.encrypted.transport.certificates import _certificate


def reissued(parties: Path, folder: Path, party: str, *, role: str, days: float = 90.0) -> Path:
    """A copy of all parties in which `party` has a new certificate of the same authority, for `role`."""
    copy = folder / "parties"
    shutil.copytree(parties, copy)
    authority = x509.load_pem_x509_certificate((copy / party / "ca.pem").read_bytes())
    issuer = serialization.load_pem_private_key((copy / "ca" / "key.pem").read_bytes(), None)
    key = serialization.load_pem_private_key((copy / party / "key.pem").read_bytes(), None)
    assert isinstance(issuer, ec.EllipticCurvePrivateKey) and isinstance(key, ec.EllipticCurvePrivateKey)
    signed = _certificate(name=role, key=key, issuer=authority.subject, issuer_key=issuer, days=days)
    (copy / party / "certificate.pem").write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    return copy
