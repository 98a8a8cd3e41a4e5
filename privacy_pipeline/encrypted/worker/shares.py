"""Replicated shares as plain tensors, and random words that two servers draw alike.

Server i holds shares i and i + 1 of a value (indices modulo 3); all are int64, in Z_2^64 or as 64 bits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import tensorflow as tf
from tf_encrypted.operations import secure_random
from tf_encrypted.protocol.aby3.aby3_tensors import ABY3PrivateTensor, ShareType

from privacy_pipeline.encrypted.worker.secure_aby3 import SecureABY3

Pair = tuple[int, int]  # two servers, the lower first
Held = list[tuple[Any, Any]]  # of each server: its shares i and i + 1

# Key k is held by servers k and k - 1: the first of the keys of server k is the second of those of server k - 1.
_KEY_OF: Mapping[Pair, int] = {(0, 2): 0, (0, 1): 1, (1, 2): 2}


def on(protocol: SecureABY3, server: int) -> Any:
    """Return the device of a server, as a context."""
    return tf.device(protocol.servers[server].device_name)


def held_of(value: Any) -> Held:
    """Return the plain tensors of a private value."""
    return [(pair[0].value, pair[1].value) for pair in value.unwrapped]


class Known(NamedTuple):
    """What servers 0 and 1 both hold of a value; `factor` is None where it is nothing but a difference."""

    value: Any
    factor: Any
    word: Any


class Hidden(NamedTuple):
    """What server 2 alone holds of a value."""

    value: Any
    top: Any
    word: Any


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A value that was opened under a mask: known.value + known.factor * hidden.top - hidden.value modulo 2^64.

    Its sign is the top bit of known.word + hidden.word, both of which are 0 in their bits 0 to 15.
    """

    known: tuple[Known, Known]  # on server 0, on server 1
    hidden: Hidden

    @property
    def shape(self) -> Any:
        """Of the value."""
        return self.hidden.value.shape


def private(protocol: SecureABY3, held: Sequence[tuple[Any, Any]]) -> Any:
    """Return the private value with these shares, each already on the server that holds it."""
    wrap = protocol.default_factory.tensor
    shares = [[wrap(share, encode=False) for share in pair] for pair in held]
    return ABY3PrivateTensor(protocol, shares, True, ShareType.ARITHMETIC)


def shared_again(protocol: SecureABY3, share_at_0: Any, share_at_1: Any, masks: Masks) -> Held:
    """Return the replicated shares of a value of which servers 0 and 1 have a share each, that sum to it: one round.

    Server 0 receives the share of server 1 under y2, which servers 1 and 2 draw, server 1 that of server 0 under y0.
    """
    y0_at_0, y0_at_2 = masks.take((0, 2), share_at_0.shape)
    y2_at_1, y2_at_2 = masks.take((1, 2), share_at_1.shape)
    with on(protocol, 0):
        sent_0 = share_at_0 - y0_at_0
    with on(protocol, 1):
        sent_1 = share_at_1 - y2_at_1
    with on(protocol, 0):
        middle_at_0 = sent_0 + sent_1
    with on(protocol, 1):
        middle_at_1 = sent_0 + sent_1
    return [(y0_at_0, middle_at_0), (middle_at_1, y2_at_1), (y2_at_2, y0_at_2)]


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
        """Return the next words of two servers, in any order: the same tensor on the first and on the second.

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
    """Return uniform int64 of a key, never the largest value, so the distance from uniform is 2^-64 a word."""
    return secure_random.seeded_random_uniform(
        list(shape), minval=tf.int64.min, maxval=tf.int64.max, dtype=tf.int64, seed=seed
    )
