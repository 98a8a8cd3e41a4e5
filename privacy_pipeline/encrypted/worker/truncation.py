"""A product is opened to two servers under a mask, and comes back truncated: two rounds.

The truncation is that of Dalskov, Escudero and Keller ("Secure Evaluation of Quantized Neural Networks", PoPETs 2020,
section 5.1.2) for values whose top bit is 0, which 2^62 added to the value sees to. Here it takes the three thirds of a
product as they are, without a re-sharing in between.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from tf_encrypted.operations import secure_random

from privacy_pipeline.encrypted.worker.secure_aby3 import SecureABY3
from privacy_pipeline.encrypted.worker.shares import (
    Hidden,
    Known,
    Masks,
    Opened,
    on,
    private,
    shared_again,
    uniform_words,
)

_LIFT = 1 << 62


class Truncated:
    """A truncated product. Its shares are made when they are first asked for: a ReLU needs none.

    Args:
        protocol: the current protocol.
        opened: how it was opened, in terms of the truncated value.
    """

    def __init__(self, protocol: SecureABY3, opened: Opened) -> None:
        self.opened, self.shape = opened, opened.shape
        self._protocol = protocol
        self._private: Any = None

    @property
    def unwrapped(self) -> Any:
        """Replicated shares, as those of TF-Encrypted's private tensors."""
        if self._private is None:
            self._private = _shared(self._protocol, self.opened)
        return self._private.unwrapped


def truncated(protocol: SecureABY3, thirds: Sequence[Any], *, amount: int) -> Truncated:
    """Return the sum x of three tensors that one server each has, divided by 2^m, where m is `amount`.

    Servers 0 and 1 open c = x + 2^62 + r. Server 2 alone holds r = a0 + a1 + a2. With s and t, r's bits above the m-th
    and its top bit, x / 2^m is c's bits above the m-th, minus 2^(62-m), minus s, plus 2^(63-m) (c's top bit xor t). As
    in the paper, the result's last bit is rounded at random, by r.

    Who sees what, every mask being fresh, uniform and used once: server 2 receives nothing; server 0 receives server
    1's third under a1, which servers 1 and 2 draw, and server 2's under a2, which server 2 alone draws; server 1 the
    same with a0, which servers 0 and 2 draw. So what each receives is uniform, whatever x is.

    Args:
        protocol: the current protocol.
        thirds: int64, third i on server i, all of the same static shape; |x| < 2^61.
        amount: bits that are cut off, at least 16, so that a ReLU of the result has no others to look at.
    """
    shape = thirds[0].shape.as_list()
    count = math.prod(shape)
    masks = Masks(protocol, {(0, 2): count, (1, 2): count})
    (a0_at_0, a0_at_2), (a1_at_1, a1_at_2) = masks.take((0, 2), shape), masks.take((1, 2), shape)
    with on(protocol, 2):
        a2 = uniform_words(shape, secure_random.secure_seed())
        sent_2 = thirds[2] + a2
        r = a0_at_2 + a1_at_2 + a2
        hidden = Hidden(_above(r, amount), tf.bitwise.right_shift(r, _word(63)) & _word(1), -_cleared(r, amount))
    with on(protocol, 0):
        sent_0 = thirds[0] + a0_at_0
    with on(protocol, 1):
        sent_1 = thirds[1] + a1_at_1
    known = []
    for server in (0, 1):
        with on(protocol, server):
            known.append(_known(tf.identity(sent_0 + sent_1 + sent_2 + _LIFT, name="opened"), amount))
    return Truncated(protocol, Opened(known=(known[0], known[1]), hidden=hidden))


def _known(c: Any, amount: int) -> Known:
    """Return what c gives: with its top bit u, and K = 2^(63 - amount), K (u xor t) is K u + K (1 - 2 u) t."""
    carry = 1 << (63 - amount)
    negative = c < 0
    value = _above(c, amount) + tf.where(negative, _word(carry - (_LIFT >> amount)), _word(-(_LIFT >> amount)))
    return Known(value, tf.where(negative, _word(-carry), _word(carry)), _cleared(c, amount) - _LIFT)


def _shared(protocol: SecureABY3, opened: Opened) -> Any:
    """Return replicated shares of an opened value: server 2 deals its values to servers 0 and 1, which share again.

    Server 1 receives that under masks that servers 0 and 2 draw.
    """
    shape = opened.shape.as_list()
    count = math.prod(shape)
    masks = Masks(protocol, {(0, 2): 3 * count, (1, 2): count})
    dealt_at_0, dealt_at_2 = masks.take((0, 2), [2, *shape])
    with on(protocol, 2):
        dealt_to_1 = tf.stack([opened.hidden.value, opened.hidden.top]) - dealt_at_2
    shares = []
    for server, dealt in enumerate((dealt_at_0, dealt_to_1)):
        with on(protocol, server):
            value, factor, _ = opened.known[server]
            share = factor * dealt[1] - dealt[0]
            shares.append(value + share if server == 0 else share)
    return private(protocol, shared_again(protocol, shares[0], shares[1], masks))


def _above(value: Any, amount: int) -> Any:
    """Return bits `amount` to 62, moved down."""
    return tf.bitwise.right_shift(value, _word(amount)) & _word((1 << (63 - amount)) - 1)


def _cleared(value: Any, amount: int) -> Any:
    """Return a value without the bits below `amount`."""
    return value & _word(-(1 << amount))


def _word(value: int) -> Any:
    return tf.constant(value, tf.int64)
