"""The key of a run: all randomness that the guarantee rests on is a function of it and of the step."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field

KEY_BYTES = 32


@dataclass(frozen=True)
class RunKey:
    """256 secret bits. Anyone who knows them can remove the noise: they are never logged, and never in a `repr`.

    Attributes:
        secret: the bytes.
        seed_fixed: they come from a seed that somebody chose, so that the run is not private.
    """

    secret: bytes = field(repr=False)
    seed_fixed: bool

    @classmethod
    def from_system(cls) -> RunKey:
        """Return a fresh key from the operating system's generator."""
        return cls(os.urandom(KEY_BYTES), seed_fixed=False)

    @classmethod
    def from_seed(cls, seed: int) -> RunKey:
        """Return a key that repeats, for tests and for comparison; a run with it is not private."""
        return cls(hashlib.sha256(f"fixed seed {seed}".encode()).digest(), seed_fixed=True)

    def derive(self, purpose: str, size: int) -> bytes:
        """Return `size` bytes (at most 64) for one purpose; those of other purposes reveal nothing about them."""
        return hashlib.blake2b(purpose.encode(), key=self.secret, digest_size=size).digest()
