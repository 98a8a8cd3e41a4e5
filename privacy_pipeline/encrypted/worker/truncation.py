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
from privacy_pipeline.encrypted.worker.shares import Masks, Opened, on, private, uniform_words

LIFT = 1 << 62


def truncated(protocol: SecureABY3, thirds: Sequence[Any]) -> Any:
    """Replicated shares of x / 2^16, where x is the sum of three tensors that one server each has.

    Servers 0 and 1 open c = x + 2^62 + r. Server 2 alone knows r = a0 + a1 + a2; with r's bits above the 16th, s, and
    its top bit, t, x / 2^16 is c's bits minus s plus 2^47 (c's top bit xor t). Server 2 shares the last two terms, for
    both values of c's top bit, among servers 0 and 1, who choose by the bit that they know.

    Who sees what, every mask being fresh, uniform and used once:

    - Server 2 receives nothing.
    - Server 0 receives server 1's third under a1 and its share of the result under y2, which servers 1 and 2 draw, and
      server 2's third under a2, which server 2 alone draws.
    - Server 1 receives server 0's third under a0 and its share of the result under y0, and two values of server 2 under
      masks that servers 0 and 2 draw, and server 2's third under a2.

    So what each receives is uniform, whatever x is. As in the paper, the result's last bit is rounded at random, by r.

    Args:
        protocol: the current protocol.
        thirds: int64, third i on server i, all of the same static shape; |x| < 2^62.
    """
    amount = protocol.fixedpoint_config.precision_fractional
    shape = thirds[0].shape.as_list()
    count, kept = math.prod(shape), (1 << (63 - amount)) - 1
    masks = Masks(protocol, {(0, 2): 4 * count, (1, 2): 2 * count})
    (a0_at_0, a0_at_2), (a1_at_1, a1_at_2) = masks.take((0, 2), shape), masks.take((1, 2), shape)
    chosen_0, dealt = masks.take((0, 2), [2, *shape])
    (y0_at_0, y0_at_2), (y2_at_1, y2_at_2) = masks.take((0, 2), shape), masks.take((1, 2), shape)
    with on(protocol, 2):
        a2 = uniform_words(shape, secure_random.secure_seed())
        sent_2 = thirds[2] + a2
        r = a0_at_2 + a1_at_2 + a2
        s, top = _above(r, amount, kept), tf.bitwise.right_shift(r, _word(63)) & _word(1)
        carried = top * (kept + 1)
        chosen_1 = tf.stack([carried - s, (kept + 1) - carried - s]) - dealt
    with on(protocol, 0):
        sent_0 = thirds[0] + a0_at_0
    with on(protocol, 1):
        sent_1 = thirds[1] + a1_at_1
    with on(protocol, 0):
        c_at_0 = tf.identity(sent_0 + sent_1 + sent_2 + LIFT, name="opened")
        share_0 = _above(c_at_0, amount, kept) - (LIFT >> amount) + _choose(c_at_0, chosen_0) - y0_at_0
    with on(protocol, 1):
        c_at_1 = tf.identity(sent_0 + sent_1 + sent_2 + LIFT, name="opened")
        share_1 = _choose(c_at_1, chosen_1) - y2_at_1
    with on(protocol, 0):
        middle_at_0 = share_0 + share_1
    with on(protocol, 1):
        middle_at_1 = share_0 + share_1
    opened = Opened(c_at_0=c_at_0, c_at_1=c_at_1, r_at_2=r)
    return private(protocol, [(y0_at_0, middle_at_0), (middle_at_1, y2_at_1), (y2_at_2, y0_at_2)], opened)


def _above(value: Any, amount: int, kept: int) -> Any:
    """Bits `amount` to 62, moved down."""
    return tf.bitwise.right_shift(value, _word(amount)) & _word(kept)


def _choose(c: Any, both: Any) -> Any:
    """both[0] where c's top bit is 0, else both[1]."""
    return tf.where(c < 0, both[1], both[0])


def _word(value: int) -> Any:
    return tf.constant(value, tf.int64)
