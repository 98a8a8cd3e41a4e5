"""ReLU in five rounds: servers 0 and 1 hold a masked value, server 2 its mask; a carry between the two gives the sign.

Server 2 deals tables of its word's digits, which the other two read at their own digits (Ishai et al., "On the
Power of Correlated Randomness in Secure Computation", TCC 2013), and products of masks, by which several bits are
multiplied in one round (Patra et al., "ABY2.0", USENIX Security 2021). Bits of 64 elements lie in one word: a plane.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from privacy_pipeline.encrypted.worker import carries
from privacy_pipeline.encrypted.worker.planes import WORD, bits_of, grid, planes, ungrid
from privacy_pipeline.encrypted.worker.secure_aby3 import SecureABY3
from privacy_pipeline.encrypted.worker.shares import (
    Hidden,
    Known,
    Masks,
    Opened,
    Pair,
    held_of,
    on,
    private,
    shared_again,
)
from privacy_pipeline.encrypted.worker.truncation import Truncated

Both = tuple[Any, Any]  # on server 0, on server 1


def relu(protocol: SecureABY3, x: Any) -> Any:
    """Return the replicated shares of max(x, 0).

    Server 2 receives nothing. Servers 0 and 1 receive values under masks that are fresh, uniform, used once, and not
    known to the receiver:

    - What server 2 deals (tables of its digits; products of masks; its terms of x, and of x times a bit of its choice)
      is shared between servers 0 and 1: one share is a mask that servers 0 and 2 draw, the other goes to server 1.
    - Servers 0 and 1 open bits, of each of which they hold a share, to each other: each sends its share under a mask,
      which it draws with server 2. Server 2, which holds the sum of both masks, does not see the opened bit.
    - At last each has a share of the result, and they share it again (`shared_again`).

    Args:
        protocol: the current protocol.
        x: a private value, or a truncated product, of static shape; |x| < 2^47 in the ring.
    """
    shape = x.shape.as_list()
    columns = -(-math.prod(shape) // WORD)
    opened = _gridded(protocol, x.opened if isinstance(x, Truncated) else _opened(protocol, x), columns)
    shares = _Dealing(protocol, opened, columns).positive_part()
    held = []
    for server, pair in enumerate(shares):
        with on(protocol, server):
            held.append((ungrid(pair[0], shape), ungrid(pair[1], shape)))
    return private(protocol, held)


def _opened(protocol: SecureABY3, x: Any) -> Opened:
    """Return the sum of x_0, x_1 and x_2 as c - r: servers 0 and 1 send each other x_0 and x_2 under r's two
    summands.
    """
    shape = x.shape.as_list()
    held, count = held_of(x), math.prod(shape)
    masks = Masks(protocol, {(0, 2): count, (1, 2): count})
    (a0_at_0, a0_at_2), (a1_at_1, a1_at_2) = masks.take((0, 2), shape), masks.take((1, 2), shape)
    with on(protocol, 0):
        sent_0 = held[0][0] + a0_at_0
    with on(protocol, 1):
        sent_1 = held[1][1] + a1_at_1
    with on(protocol, 0):
        c_at_0 = tf.identity(sent_0 + held[0][1] + sent_1, name="opened")
        known_at_0 = Known(c_at_0, None, carries.moved_up(c_at_0))
    with on(protocol, 1):
        c_at_1 = tf.identity(sent_0 + held[1][0] + sent_1, name="opened")
        known_at_1 = Known(c_at_1, None, carries.moved_up(c_at_1))
    with on(protocol, 2):
        r = a0_at_2 + a1_at_2
        hidden = Hidden(r, None, carries.moved_up(-r))
    return Opened(known=(known_at_0, known_at_1), hidden=hidden)


class _Dealing:
    """One ReLU of [64, columns] elements: all that server 2 deals for it, and what the others do with that."""

    def __init__(self, protocol: SecureABY3, opened: Opened, columns: int) -> None:
        self._protocol, self._opened, self._columns = protocol, opened, columns
        self._truncated = opened.hidden.top is not None
        self._masks = Masks(protocol, self._words())
        planes_at_2 = self._on(2, lambda: planes(opened.hidden.word))
        self._masks_of_groups = self._pairwise(len(carries.FACTORS), carries.GROUP)
        self._masks_of_all = self._pairwise(len(carries.factors_of(last=True)), 1)
        sign_0, sign_1, sign_at_2 = self._pairwise(1)
        self._masks_of_sign = (sign_0, sign_1)
        with on(protocol, 2):
            guess = bits_of(sign_at_2 ^ planes_at_2[WORD - 1 :])
            terms = [one for one in opened.hidden[:2] if one is not None]
            bits = [
                carries.table(planes_at_2),
                carries.products(self._masks_of_groups[2]),
                carries.products(self._masks_of_all[2]),
            ]
            words = tf.stack([guess, *terms, *(guess * one for one in terms)])
        self._tables, self._of_groups, self._of_all, self._terms = self._dealt(bits, words)

    def positive_part(self) -> list[tuple[Any, Any]]:
        """Return the shares of the result, [64, columns], by server."""
        highest, generate, propagate = [], [], []
        for server in (0, 1):
            with on(self._protocol, server):
                known = planes(self._opened.known[server].word)
                found = carries.looked_up(self._tables[server], carries.digits(known))
                highest.append(known[WORD - 1 :])
                generate.append(found[0])
                propagate.append(found[1])
        for masks, products in ((self._masks_of_groups, self._of_groups), (self._masks_of_all, self._of_all)):
            generate, propagate = self._joined(generate, propagate, masks[:2], products)
        sent = []
        for server in (0, 1):
            with on(self._protocol, server):
                carry = generate[server] ^ highest[0] if server == 0 else generate[server]
                sent.append(carry ^ self._masks_of_sign[server])
        shares = []
        for server in (0, 1):
            with on(self._protocol, server):
                shares.append(self._selected(server, bits_of(sent[0] ^ sent[1])))
        return shared_again(self._protocol, shares[0], shares[1], self._masks)

    def _selected(self, server: int, opened: Any) -> Any:
        """Return a share of x (1 - sign), where sign = opened xor guess: of x (1 - guess) where opened is 0, else x
        guess.
        """
        known, dealt = self._opened.known[server], tf.unstack(self._terms[server])
        guess, count = dealt[0], (len(dealt) - 1) // 2
        whole, guessed = -dealt[1], known.value * guess - dealt[1 + count]
        if server == 0:
            whole += known.value
        if self._truncated:
            whole += known.factor * dealt[2]
            guessed += known.factor * dealt[2 + count]
        return whole + guessed * (2 * opened - 1) - whole * opened

    def _joined(
        self, generate: Sequence[Any], propagate: Sequence[Any], masks: Both, products: Both
    ) -> tuple[Any, Any]:
        """Return shares of what each group of four generates and propagates, [groups, columns], by server: one round.

        Args:
            generate: by server, [4 * groups, columns], as `propagate`; a group's places are `groups` rows apart.
            propagate: never 1 where `generate` is.
            masks: of the factors, [factors, groups, columns].
            products: shares of the masks' products.
        """
        groups = generate[0].shape[0] // carries.GROUP
        factors, sent, highest = carries.factors_of(last=groups == 1), [], []
        for server in (0, 1):
            with on(self._protocol, server):
                given = {
                    name: tf.unstack(tf.reshape(bits[server], [carries.GROUP, groups, self._columns]))
                    for name, bits in (("g", generate), ("p", propagate))
                }
                sent.append(tf.stack([given[name[0]][int(name[1])] for name in factors]) ^ masks[server])
                highest.append(given["g"][carries.GROUP - 1])
        found = []
        for server in (0, 1):
            with on(self._protocol, server):
                opened = dict(zip(factors, tf.unstack(sent[0] ^ sent[1]), strict=True))
                ones = tf.fill([1, groups, self._columns], tf.constant(-1 if server == 0 else 0, tf.int64))
                base = tf.concat([ones, masks[server], products[server]], axis=0)
                found.append(carries.joined(factors, opened, base, highest[server]))
        return [one[0] for one in found], [one[1] for one in found]

    def _dealt(self, bits: Sequence[Any], words: Any) -> list[Both]:
        """Share server 2's values between servers 0 and 1, in one message to server 1; of `words`, they add up."""
        at_0, sent = [], []
        for number, value in enumerate([*bits, words]):
            mask_at_0, mask_at_2 = self._masks.take((0, 2), value.shape)
            at_0.append(mask_at_0)
            with on(self._protocol, 2):
                masked = value ^ mask_at_2 if number < len(bits) else value - mask_at_2
                sent.append(tf.reshape(masked, [-1, self._columns]))
        with on(self._protocol, 2):
            message = tf.concat(sent, axis=0)
        with on(self._protocol, 1):
            parts = tf.split(message, [part.shape[0] for part in sent])
            at_1 = [tf.reshape(part, share.shape) for part, share in zip(parts, at_0, strict=True)]
        return list(zip(at_0, at_1, strict=True))

    def _pairwise(self, *sizes: int) -> tuple[Any, Any, Any]:
        """Return a mask of server 0, one of server 1, and their xor at server 2."""
        first_at_0, first_at_2 = self._masks.take((0, 2), [*sizes, self._columns])
        second_at_1, second_at_2 = self._masks.take((1, 2), [*sizes, self._columns])
        return first_at_0, second_at_1, self._on(2, lambda: first_at_2 ^ second_at_2)

    def _words(self) -> dict[Pair, int]:
        """Return how many words each two servers draw, a column."""
        opened = len(carries.FACTORS) * carries.GROUP + len(carries.factors_of(last=True)) + 1
        products = len(carries.subsets(carries.FACTORS)) * carries.GROUP + len(
            carries.subsets(carries.factors_of(last=True))
        )
        dealt = (1 << carries.BITS) * carries.DIGITS + products + (5 if self._truncated else 3) * WORD
        return {
            (0, 2): (opened + dealt + WORD) * self._columns,
            (1, 2): (opened + WORD) * self._columns,
        }

    def _on(self, server: int, make: Any) -> Any:
        with on(self._protocol, server):
            return make()


def _gridded(protocol: SecureABY3, opened: Opened, columns: int) -> Opened:
    known = []
    for server in (0, 1):
        with on(protocol, server):
            known.append(Known(*(grid(part, columns) for part in opened.known[server])))
    with on(protocol, 2):
        hidden = Hidden(*(grid(part, columns) for part in opened.hidden))
    return Opened(known=(known[0], known[1]), hidden=hidden)
