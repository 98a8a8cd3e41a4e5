"""Replicated shares as plain tensors, and random words that two servers draw alike.

Server i holds shares i and i + 1 of a value (indices modulo 3); all are int64, in Z_2^64 or as 64 bits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf
from tf_encrypted.operations import secure_random
from tf_encrypted.protocol.aby3.aby3_tensors import ABY3PrivateTensor, ShareType

from privacy_pipeline.encrypted.worker.secure_aby3 import SecureABY3

Pair = tuple[int, int]  # two servers, the lower first
Held = list[tuple[Any, Any]]  # of each server: its shares i and i + 1

# Key k is held by servers k and k - 1: the first of the keys of server k is the second of those of server k - 1.
_KEY_OF: Mapping[Pair, int] = {(0, 2): 0, (0, 1): 1, (1, 2): 2}


def on(protocol: SecureABY3, server: int) -> Any:
    """The device of a server, as a context."""
    return tf.device(protocol.servers[server].device_name)


def held_of(value: Any) -> Held:
    """The plain tensors of a private value."""
    return [(pair[0].value, pair[1].value) for pair in value.unwrapped]


@dataclass(frozen=True, kw_only=True)
class Opened:
    """x + 2^62 as c - r: servers 0 and 1 know c, server 2 alone knows r; x is the value before it was truncated."""

    c_at_0: Any
    c_at_1: Any
    r_at_2: Any


class Truncated(ABY3PrivateTensor):
    """A private value that remembers how it was opened under a mask, from which its sign is had a round earlier."""

    def __init__(self, protocol: SecureABY3, shares: Any, opened: Opened) -> None:
        super().__init__(protocol, shares, True, ShareType.ARITHMETIC)
        self.opened = opened


def private(protocol: SecureABY3, held: Sequence[tuple[Any, Any]], opened: Opened | None = None) -> Any:
    """The private value with these shares, each already on the server that holds it."""
    wrap = protocol.default_factory.tensor
    shares = [[wrap(share, encode=False) for share in pair] for pair in held]
    if opened is not None:
        return Truncated(protocol, shares, opened)
    return ABY3PrivateTensor(protocol, shares, True, ShareType.ARITHMETIC)


class Masks:
    """Words for one step of a protocol, each uniform, known to exactly two servers, and used once.

    One draw a key, from the keys of the graph under a nonce that no other draw has, is cut into pieces: fewer, larger
    draws cost less, and a piece is never given twice.

    Args:
        protocol: whose keys are used.
        words: how many each two servers will take, by `pair`.
    """

    def __init__(self, protocol: SecureABY3, words: Mapping[Pair, int]) -> None:
        keys, nonce = protocol.pairwise_keys(), protocol.pairwise_nonces()[0]
        self._left = dict(words)
        self._drawn: dict[Pair, list[Any]] = {}
        for pair, count in words.items():
            key = _KEY_OF[pair]
            self._drawn[pair] = []
            for server in pair:
                with on(protocol, server):
                    self._drawn[pair].append(uniform_words([count], keys[server][0 if server == key else 1] + nonce))
        self._protocol = protocol
        protocol._update_pairwise_nonces()

    def take(self, servers: Pair, shape: Sequence[int]) -> tuple[Any, Any]:
        """The next words of two servers, in any order: the same tensor on the first and on the second.

        Raises:
            ValueError: fewer words are left.
        """
        pair = (min(servers), max(servers))
        count = math.prod(shape)
        end = self._left[pair]
        if count > end:
            raise ValueError(f"servers {pair} drew {end} words too few")
        self._left[pair] = end - count
        found = []
        for server, drawn in zip(pair, self._drawn[pair], strict=True):
            with on(self._protocol, server):
                found.append(tf.reshape(drawn[end - count : end], list(shape)))
        return (found[0], found[1]) if servers == pair else (found[1], found[0])


def uniform_words(shape: Sequence[int], seed: Any) -> Any:
    """Uniform int64 of a key; they never take their largest value, so the distance from uniform is 2^-64 a word."""
    return secure_random.seeded_random_uniform(
        list(shape), minval=tf.int64.min, maxval=tf.int64.max, dtype=tf.int64, seed=seed
    )
