"""ReLU of ring elements, at both ends of its range and around zero: signs.py. Prints JSON.

By how a value came about: "opened" is a sum of shares as it is, "truncated" comes out of a product. What is counted are
elements where the result differs from max(x, 0); a truncated x may be one off, and is compared with its own shares.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import tensorflow as tf

from privacy_pipeline.encrypted.worker.comparison import relu
from privacy_pipeline.encrypted.worker.predictor import local_config
from privacy_pipeline.encrypted.worker.secure_aby3 import activate
from privacy_pipeline.encrypted.worker.shares import held_of, private
from privacy_pipeline.encrypted.worker.truncation import truncated

# How many bits are cut, 0 for a value that is opened as it is; and what |x| stays below.
KINDS = {
    "opened": (0, 1 << 47),
    "truncated": (16, 1 << 45),
    "truncated by more": (33, 1 << 28),
    "by most": (46, 1 << 15),
}


def elements(largest: int) -> np.ndarray:
    """Every power of two and its neighbours, both signs, and random elements of every size."""
    random = np.random.default_rng(7)
    powers = [1 << bit for bit in range(largest.bit_length() - 1)]
    edges = [value + step for value in (0, *powers) for step in (-1, 0, 1)]
    sizes = 2.0 ** random.uniform(0, np.log2(largest), 2000)
    found = np.array([*edges, largest - 1, *sizes.astype(np.int64)])
    return np.concatenate([found, -found])


def cut(value: np.ndarray, count: int = 3) -> list[Any]:
    random = np.random.default_rng()
    shares = random.integers(np.iinfo(np.int64).min, np.iinfo(np.int64).max, (count - 1, *value.shape), endpoint=True)
    with np.errstate(over="ignore"):
        return [tf.constant(one) for one in (*shares, value - shares.sum(0))]


def summed(value: Any) -> np.ndarray:
    found: np.ndarray = sum(pair[0] for pair in held_of(value)).numpy()
    return found


def main() -> None:
    protocol = activate(local_config())
    found = {}
    for kind, (amount, largest) in KINDS.items():
        x = elements(largest)
        wrong, off = 0, 0
        for _ in range(20):
            if amount:
                value = truncated(protocol, cut((x << amount) + 12345), amount=amount)
                seen = summed(value)
                off = max(off, int(np.abs(seen - x).max()))
            else:
                a, b, c = cut(x)
                value, seen = private(protocol, [(a, b), (b, c), (c, a)]), x
            wrong += int((summed(relu(protocol, value)) != np.maximum(seen, 0)).sum())
        found[kind] = {"elements": 20 * len(x), "wrong": wrong, "off": off}
    a, b, c = cut(elements(1 << 48))
    beyond = summed(relu(protocol, private(protocol, [(a, b), (b, c), (c, a)])))
    found["beyond the range"] = {"wrong": int((beyond != np.maximum(elements(1 << 48), 0)).sum())}
    print(json.dumps(found))


main()
