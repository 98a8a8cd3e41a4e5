"""The carry of a sum of two words: one is known to both of two servers, of the other they get tables under masks.

Everything here is local to a server, on planes; `comparison` has what is sent.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

_DROPPED = 16  # lowest bits of the words whose sum's sign is asked for: they are 0
# The 47 bits between them and the sign, and one below that is 0, are 16 digits of three bits. The carry out of four
# neighbours is found at once, then that out of four such groups. A digit's place: within its group, then of the group.
BITS, GROUP = 3, 4
DIGITS = GROUP**2
_PLANES = [
    _DROPPED - 1 + BITS * (GROUP * group + place) + bit
    for bit in range(BITS)
    for place in range(GROUP)
    for group in range(GROUP)
]
# Who generates a carry and who propagates it, from the highest place: g3 ^ p3 g2 ^ p3 p2 g1 ^ p3 p2 p1 g0 is generated,
# p3 p2 p1 p0 propagated. g3 is in no product.
FACTORS = ("p3", "p2", "p1", "g2", "g1", "g0", "p0")
_GENERATED = (("p3", "g2"), ("p3", "p2", "g1"), ("p3", "p2", "p1", "g0"))
_PROPAGATED = ("p3", "p2", "p1", "p0")


def moved_up(word: Any) -> Any:
    """Return a value of 48 bits as the highest bits of a word."""
    return tf.bitwise.left_shift(word, tf.constant(_DROPPED, tf.int64))


def factors_of(*, last: bool) -> tuple[str, ...]:
    """Return the names of the bits that are opened; at the end what is propagated is not needed."""
    return FACTORS[:-1] if last else FACTORS


def subsets(factors: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the factors whose products of masks are needed, each once, two before three before four."""
    products = [product for product in (*_GENERATED, _PROPAGATED) if set(product) <= set(factors)]
    found = {
        chosen
        for product in products
        for size in range(2, len(product) + 1)
        for chosen in itertools.combinations(product, size)
    }
    return sorted(found, key=lambda chosen: (len(chosen), chosen))


def products(masks: Any) -> Any:
    """Return the products of masks, [products, groups, columns], in the order of `subsets`."""
    factors = factors_of(last=masks.shape[1] == 1)
    known: dict[tuple[str, ...], Any] = {(name,): mask for name, mask in zip(factors, tf.unstack(masks), strict=True)}
    chosen = subsets(factors)
    for names in chosen:
        known[names] = known[names[:-1]] & known[names[-1:]]
    return tf.stack([known[names] for names in chosen])


def joined(factors: Sequence[str], opened: dict[str, Any], base: Any, highest: Any) -> tuple[Any, Any]:
    """Return shares of what is generated and propagated.

    A product of bits o ^ m, of which o is known and m a mask, is the xor over all subsets of it of the masks' product
    over the subset and the known bits' product over the rest.

    Args:
        factors: names of the bits.
        opened: known bits, by name, each [groups, columns].
        base: shares of 1, of the masks and of their products, along the first axis.
        highest: share of g3.
    """
    names: list[tuple[str, ...]] = [(), *((name,) for name in factors), *subsets(factors)]
    places = {one: place for place, one in enumerate(names)}
    above: dict[tuple[str, ...], Any] = {(): tf.fill([1, *opened["p3"].shape], tf.constant(-1, tf.int64))}

    def rests(product: tuple[str, ...]) -> Any:
        """Return known products of what is outside a subset, by its number, whose lowest bit is the first factor."""
        if product not in above:
            before = rests(product[:-1])
            above[product] = tf.concat([before & opened[product[-1]], before], axis=0)
        return above[product]

    def subset(product: tuple[str, ...], number: int) -> tuple[str, ...]:
        return tuple(name for place, name in enumerate(product) if number >> place & 1)

    def summed(products: Sequence[tuple[str, ...]]) -> Any:
        rows = [places[subset(product, number)] for product in products for number in range(1 << len(product))]
        return _xored(tf.concat([rests(product) for product in products], axis=0) & tf.gather(base, rows))

    propagated = summed([_PROPAGATED]) if "p0" in factors else None
    return summed(_GENERATED) ^ highest, propagated


def _xored(rows: Any) -> Any:
    """Return the xor of all rows."""
    while rows.shape[0] > 1:
        half = rows.shape[0] // 2
        joined = rows[:half] ^ rows[half : 2 * half]
        rows = tf.concat([joined, rows[2 * half :]], axis=0) if rows.shape[0] % 2 else joined
    return rows[0]


def table(planes_of: Any) -> Any:
    """Return, for each digit d, whether v + d = 7: rows v = 0 to 7, v's lowest bit being the row number's highest."""
    table = tf.fill([1, DIGITS, planes_of.shape[1]], tf.constant(-1, tf.int64))
    for bit in reversed(tf.unstack(digits(planes_of))):
        table = tf.concat([table & bit, table & ~bit], axis=0)
    return table


def looked_up(table: Any, digits: Any) -> tuple[Any, Any]:
    """Return shares of v + d > 7 and of v + d = 7, from a share of `table`, whose rows below v add up to the former."""
    equal, below, greater = table, table, tf.zeros_like(table)
    for bit in tf.unstack(digits):
        (equal_0, equal_1), (below_0, below_1) = tf.split(equal, 2), tf.split(below, 2)
        greater_0, greater_1 = tf.split(greater, 2)
        equal = equal_0 ^ bit & (equal_0 ^ equal_1)
        greater = greater_0 ^ bit & (greater_0 ^ greater_1 ^ below_0)
        below = below_0 ^ below_1
    return greater[0], equal[0]


def digits(planes_of: Any) -> Any:
    """Return [3, 16, columns]: the lowest bit of all digits, the next, the highest."""
    return tf.reshape(tf.gather(planes_of, _PLANES), [BITS, DIGITS, planes_of.shape[1]])
