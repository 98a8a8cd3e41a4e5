"""ReLU on replicated shares: the sign by a carry tree over bit planes, then one product with a shared bit.

The tree is ABY3's (Mohassel and Rindal, CCS 2018, section 5.3). Planes hold one bit of 64 elements in a word, so that
no bit of a word is wasted however far the tree has narrowed, and its halves are slices.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import tensorflow as tf

from privacy_pipeline.encrypted.worker.secure_aby3 import SecureABY3
from privacy_pipeline.encrypted.worker.shares import Held, Masks, Opened, Pair, Truncated, held_of, on, private
from privacy_pipeline.encrypted.worker.truncation import LIFT

_WORD = 64
# Rows of the tree: position 0 holds the top bit, which has no carry to give, position i the bit i - 1. Positions are
# stored in the order of their reversed bits, so that the neighbours 2i and 2i + 1 are in the lower and upper half, at
# every level.
_ORDER = [(int(f"{row:06b}"[::-1], 2) - 1) % _WORD for row in range(_WORD)]
_SWAPS = tuple((1 << step, sum(1 << bit for bit in range(_WORD) if not bit >> step & 1)) for step in range(5, -1, -1))


def relu(protocol: SecureABY3, x: Any) -> Any:
    """Replicated shares of max(x, 0).

    The sign is the top bit of a sum of two words: one that a single server, the owner o, knows, and one that the other
    two know. That is x_0 + x_1, of server 0, and x_2; or, where x comes from a truncation, -r, of server 2, and the c
    that was opened, whose sum is there before x is: bit 62 of x + 2^62 says that x, not yet truncated, is at least 0.
    Every message is masked by words that its receiver does not know, each used once:

    - The owner's word u is shared as m, which it draws with server o - 1, and u ^ m, which server o + 1 receives. The
      other word, y, is a share as it is. So u ^ y is shared, as (m, u ^ m, y).
    - u & y = (u ^ m) & y ^ m & y, the terms known to servers o + 1 and o + 2, who exchange them under masks that the
      other lacks: f', which o and o + 1 draw, and f, which o and o - 1 draw. So it is shared, as (f, f', the rest).
    - Every level of the tree re-shares its products under a fresh sharing of zero, as ABY3 does.
    - The sign is k' ^ k_1, where server 2 knows k' and servers 0 and 1 know k_1. Server 2 shares k' and (x_0 + x_2) k'
      among servers 0 and 1 (server 1 receives both under masks that servers 0 and 2 draw), who so have shares of
      x k' = (x_0 + x_2) k' + x_1 k', and from it, because they know k_1, of the result. They exchange these under y_0
      and y_2, drawn by servers 0 and 2, and by servers 1 and 2.

    Args:
        protocol: the current protocol.
        x: a private value of static shape; |x| < 2^63 in the ring.
    """
    shape = x.shape if isinstance(x.shape, list) else x.shape.as_list()
    columns = -(-math.prod(shape) // _WORD)
    held: Held = []
    for server, pair in enumerate(held_of(x)):
        with on(protocol, server):
            held.append((_grid(pair[0], columns), _grid(pair[1], columns)))
    owner = 2 if isinstance(x, Truncated) else 0
    masks = Masks(protocol, _words(owner, columns))
    summands = _opened(protocol, x.opened, columns) if isinstance(x, Truncated) else _as_shared(protocol, held)
    sign = _top_bit(protocol, owner, summands, masks, columns)
    cut: Held = []
    for server, pair in enumerate(_kept(protocol, held, sign, masks, columns)):
        with on(protocol, server):
            cut.append((_ungrid(pair[0], shape), _ungrid(pair[1], shape)))
    return private(protocol, cut)


def _words(owner: int, columns: int) -> dict[Pair, int]:
    """How many words each two servers draw."""
    tree = sum(_rows(half) for half in _halves()) * columns
    words = {(0, 1): tree, (0, 2): tree + 3 * _WORD * columns, (1, 2): tree + _WORD * columns}
    for other, count in (((owner - 1) % 3, 2), ((owner + 1) % 3, 1)):
        words[min(owner, other), max(owner, other)] += count * _WORD * columns
    return words


def _as_shared(protocol: SecureABY3, x: Held) -> list[Any]:
    """By server: planes of x_0 + x_1 at server 0, of x_2 at servers 1 and 2."""
    with on(protocol, 0):
        owned = planes(x[0][0] + x[0][1])
    with on(protocol, 1):
        known_at_1 = planes(x[1][1])
    with on(protocol, 2):
        known_at_2 = planes(x[2][0])
    return [owned, known_at_1, known_at_2]


def _opened(protocol: SecureABY3, opened: Opened, columns: int) -> list[Any]:
    """By server: planes of c at servers 0 and 1, of -r at server 2, each moved up by one, with c's bit 62 turned over.

    So the top bit of their sum is 1 where x is negative.
    """
    found = []
    for server, c in enumerate((opened.c_at_0, opened.c_at_1)):
        with on(protocol, server):
            found.append(planes(2 * (_grid(c, columns) ^ tf.constant(LIFT, tf.int64))))
    with on(protocol, 2):
        found.append(planes(-2 * _grid(opened.r_at_2, columns)))
    return found


def _halves() -> list[int]:
    """Rows of a half at each level of the tree."""
    return [32, 16, 8, 4, 2, 1]


def _rows(half: int) -> int:
    """Rows that a level multiplies: carries and propagations; the last needs carries alone."""
    return 2 * half if half > 1 else 1


def _top_bit(protocol: SecureABY3, owner: int, summands: list[Any], masks: Masks, columns: int) -> Held:
    """Boolean shares, [1, columns], of the top bit of the sum of what `owner` knows and what the two others know."""
    shape = [_WORD, columns]
    after, last = (owner + 1) % 3, (owner + 2) % 3
    m_at_owner, m_at_last = masks.take((owner, last), shape)
    f_at_owner, f_at_last = masks.take((owner, last), shape)
    g_at_owner, g_at_after = masks.take((owner, after), shape)
    with on(protocol, owner):
        hidden_at_owner = summands[owner] ^ m_at_owner
    with on(protocol, after):
        hidden_at_after = tf.identity(hidden_at_owner)
        term_after = (hidden_at_after & summands[after]) ^ g_at_after
    with on(protocol, last):
        term_last = (m_at_last & summands[last]) ^ f_at_last
        rest_at_last = term_after ^ term_last
    with on(protocol, after):
        rest_at_after = term_after ^ term_last
    propagate: Held = [(None, None)] * 3
    generate: Held = [(None, None)] * 3
    propagate[owner], generate[owner] = (m_at_owner, hidden_at_owner), (f_at_owner, g_at_owner)
    propagate[after], generate[after] = (hidden_at_after, summands[after]), (g_at_after, rest_at_after)
    propagate[last], generate[last] = (summands[last], m_at_last), (rest_at_last, f_at_last)
    # Position 0 gives no carry, and its propagation is that of the sum's top bit.
    top, carries = [], []
    for server in range(3):
        with on(protocol, server):
            top.append((propagate[server][0][:1], propagate[server][1][:1]))
            carries.append((_without_first(generate[server][0]), _without_first(generate[server][1])))
    for half in _halves():
        carries, propagate = _level(protocol, carries, propagate, masks, half)
    found: Held = []
    for server in range(3):
        with on(protocol, server):
            found.append((top[server][0] ^ carries[server][0], top[server][1] ^ carries[server][1]))
    return found


def _level(protocol: SecureABY3, carries: Held, propagate: Held, masks: Masks, half: int) -> tuple[Held, Held]:
    """Joins neighbours: the upper's carry, or the lower's if the upper propagates; both propagate."""
    shape = [_rows(half), carries[0][0].shape[1]]
    zeros: list[list[Any]] = [[], [], []]
    for pair in ((0, 1), (0, 2), (1, 2)):
        for server, words in zip(pair, masks.take(pair, shape), strict=True):
            zeros[server].append(words)
    sent, upper = [], []
    for server in range(3):
        with on(protocol, server):
            (g0, first), (g1, second) = (tf.split(share, 2) for share in carries[server])
            (p0, h0), (p1, h1) = (tf.split(share, 2) for share in propagate[server])
            upper.append((first, second))
            products = [(h0 & (g0 ^ g1)) ^ (h1 & g0)]
            if half > 1:
                products.append((h0 & (p0 ^ p1)) ^ (h1 & p0))
            sent.append(tf.concat(products, axis=0) ^ zeros[server][0] ^ zeros[server][1])
    next_carries, next_propagate = [], []
    for server in range(3):
        with on(protocol, server):
            own, other = sent[server], tf.identity(sent[(server + 1) % 3])
            first, second = upper[server]
            if half == 1:
                next_carries.append((first ^ own, second ^ other))
                continue
            (own_carries, own_propagate), (other_carries, other_propagate) = tf.split(own, 2), tf.split(other, 2)
            next_carries.append((first ^ own_carries, second ^ other_carries))
            next_propagate.append((own_propagate, other_propagate))
    return next_carries, next_propagate


def _kept(protocol: SecureABY3, x: Held, sign: Held, masks: Masks, columns: int) -> Held:
    """Shares of x where the sign bit is 0, of 0 elsewhere."""
    shape = [_WORD, columns]
    dealt_at_0, dealt_at_2 = masks.take((0, 2), [2, *shape])
    y0_at_0, y0_at_2 = masks.take((0, 2), shape)
    y2_at_1, y2_at_2 = masks.take((1, 2), shape)
    with on(protocol, 2):
        known = _bits(sign[2][0] ^ sign[2][1])
        dealt_to_1 = tf.stack([known, (x[2][0] + x[2][1]) * known]) - dealt_at_2
    with on(protocol, 0):
        share_0 = _selected(x[0][0] + x[0][1], x[0][1], dealt_at_0, sign[0][1]) - y0_at_0
    with on(protocol, 1):
        share_1 = _selected(x[1][1], x[1][0], dealt_to_1, sign[1][0]) - y2_at_1
    with on(protocol, 0):
        middle_at_0 = share_0 + share_1
    with on(protocol, 1):
        middle_at_1 = share_0 + share_1
    return [(y0_at_0, middle_at_0), (middle_at_1, y2_at_1), (y2_at_2, y0_at_2)]


def _selected(own: Any, x1: Any, dealt: Any, sign: Any) -> Any:
    """A share of x - x (k' ^ k_1), from `own`, one of x, and from what server 2 dealt, of k' and of (x_0 + x_2) k'."""
    product = x1 * dealt[0] + dealt[1]  # of x k'
    positive = 1 - _bits(sign)
    return product + positive * (own - 2 * product)


def planes(x: Any) -> Any:
    """[64, columns] elements as [64, columns] bit planes in the order of the tree.

    Bit r of a plane's word c is that of element [r, c]. The transposition is that of Warren, "Hacker's Delight",
    section 7-3.
    """
    columns = x.shape[1]
    for size, mask in _SWAPS:
        split = tf.reshape(x, [_WORD // (2 * size), 2, size, columns])
        low, high = tf.unstack(split, axis=1)
        shift = tf.constant(size, tf.int64)
        swapped = (tf.bitwise.right_shift(low, shift) ^ high) & tf.constant(mask, tf.int64)
        low, high = low ^ tf.bitwise.left_shift(swapped, shift), high ^ swapped
        x = tf.reshape(tf.stack([low, high], axis=1), [_WORD, columns])
    return tf.gather(x, _ORDER)


def _bits(plane: Any) -> Any:
    """One plane, [1, columns], as 0 or 1 for each element, [64, columns]."""
    return tf.bitwise.right_shift(plane, np.arange(_WORD, dtype=np.int64)[:, None]) & tf.constant(1, tf.int64)


def _without_first(planes_of: Any) -> Any:
    return tf.concat([tf.zeros_like(planes_of[:1]), planes_of[1:]], axis=0)


def _grid(share: Any, columns: int) -> Any:
    """A share as [64, columns]; zeros, which are public, fill the last words."""
    flat = tf.reshape(share, [-1])
    missing = _WORD * columns - flat.shape[0]
    return tf.reshape(tf.pad(flat, [(0, missing)]) if missing else flat, [_WORD, columns])


def _ungrid(grid: Any, shape: list[int]) -> Any:
    return tf.reshape(tf.reshape(grid, [-1])[: math.prod(shape)], shape)
