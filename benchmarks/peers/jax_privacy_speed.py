"""Measure examples a second of JAX-Privacy and of plain JAX, in the environment that `dp_sgd.py` makes.

    python jax_privacy_speed.py '{"models": ["mlp"], "batch": [256], "threads": 2, "seconds": 1.0, "repeats": 3}'

Writes one JSON object per line. Modes are microbatch sizes of `clipped_grad`; the whole batch at once takes seconds a
step on a CPU. Batches hold exactly the expected number of examples, drawn again in each step: padding to a fixed shape,
which Poisson sampling would need, is left out in JAX-Privacy's favour.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax_privacy import clipping, noise_addition

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

from dp_sgd_shapes import HEADS, INNER, TASKS, UNITS, VOCABULARY, WIDTH
from peer_timing import compare

MICROBATCHES = (1, 4, 32)
Params = Any


def _dense(random: Any, *shape: int) -> dict[str, Any]:
    scale = 1 / np.sqrt(np.prod(shape[:-1]))
    return {"w": random.normal(size=shape, scale=scale).astype(np.float32), "b": np.zeros(shape[-1], np.float32)}


def perceptron(*units: int) -> tuple[Params, Callable[[Params, Any], Any]]:
    random = np.random.default_rng(0)

    def apply(params: Params, x: Any) -> Any:
        for layer in params[:-1]:
            x = jax.nn.relu(x @ layer["w"] + layer["b"])
        return x @ params[-1]["w"] + params[-1]["b"]

    return [_dense(random, a, b) for a, b in pairwise(units)], apply


def cnn() -> tuple[Params, Callable[[Params, Any], Any]]:
    random = np.random.default_rng(0)
    params = [
        _dense(random, 8, 8, 1, 16),
        _dense(random, 4, 4, 16, 32),
        _dense(random, 512, 32),
        _dense(random, 32, 10),
    ]

    def convolved(x: Any, layer: Any, padding: str) -> Any:
        out = jax.lax.conv_general_dilated(x, layer["w"], (2, 2), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))
        out = jax.nn.relu(out + layer["b"])
        return jax.lax.reduce_window(out, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 1, 1, 1), "VALID")

    def apply(params: Params, x: Any) -> Any:
        x = convolved(convolved(x, params[0], "SAME"), params[1], "VALID").reshape(x.shape[0], -1)
        x = jax.nn.relu(x @ params[2]["w"] + params[2]["b"])
        return x @ params[3]["w"] + params[3]["b"]

    return params, apply


def transformer() -> tuple[Params, Callable[[Params, Any], Any]]:
    random = np.random.default_rng(0)
    size = WIDTH // HEADS

    def block() -> Params:
        norm = {"g": np.ones(WIDTH, np.float32), "b": np.zeros(WIDTH, np.float32)}
        names = {name: _dense(random, WIDTH, WIDTH) for name in ("q", "k", "v", "o")}
        inner = {"in": _dense(random, WIDTH, INNER), "out": _dense(random, INNER, WIDTH)}
        return {**names, **inner, "n1": norm, "n2": {name: value.copy() for name, value in norm.items()}}

    def linear(layer: Params, x: Any) -> Any:
        return x @ layer["w"] + layer["b"]

    def normal(layer: Params, x: Any) -> Any:
        x = x - x.mean(-1, keepdims=True)
        return layer["g"] * x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-3) + layer["b"]

    def apply(params: Params, tokens: Any) -> Any:
        x = params["e"][tokens]
        for layer in params["blocks"]:
            q, k, v = (linear(layer[n], x).reshape(*x.shape[:2], HEADS, size) for n in ("q", "k", "v"))
            scores = jax.nn.softmax(jnp.einsum("bthd,bshd->bhts", q, k) / np.sqrt(size).astype(np.float32))
            x = normal(layer["n1"], x + linear(layer["o"], jnp.einsum("bhts,bshd->bthd", scores, v).reshape(x.shape)))
            x = normal(layer["n2"], x + linear(layer["out"], jax.nn.relu(linear(layer["in"], x))))
        return linear(params["head"], x.mean(1))

    embedding = random.normal(size=(VOCABULARY, WIDTH), scale=0.05).astype(np.float32)
    return {"e": embedding, "blocks": [block(), block()], "head": _dense(random, WIDTH, 10)}, apply


MAKERS: dict[str, Callable[[], tuple[Params, Callable[[Params, Any], Any]]]] = {
    "mnist-cnn": cnn,
    "mlp": lambda: perceptron(784, 256, 256, 10),
    "adult": lambda: perceptron(432, 64, 32, 1),
    "transformer": transformer,
}


VECTORS = {name: len(task.shape) == 1 and not task.tokens for name, task in TASKS.items()}


def step_of(name: str, mode: Any, x: Any, y: Any, batch: int) -> Callable[[], int]:
    """Return a function that makes one step on a random batch and returns its size; `mode` None is JAX without
    privacy.
    """
    params, apply = MAKERS[name]()
    binary = TASKS[name].classes == 1

    def loss(params: Params, values: Any, labels: Any) -> Any:
        out = apply(params, values)
        if binary:
            return optax.sigmoid_binary_cross_entropy(out, labels).mean()
        return optax.softmax_cross_entropy_with_integer_labels(out, labels).mean()

    optimizer = optax.sgd(0.01)
    if mode is None:
        gradient: Any = jax.grad(loss)
        privatizer = optax.identity()
    else:
        gradient = clipping.clipped_grad(
            loss,
            l2_clip_norm=1.0,
            batch_argnums=(1, 2),
            normalize_by=batch,
            microbatch_size=mode,
            keep_batch_dim=not VECTORS[name],  # vectors without an axis of length 1 are much faster
        )
        privatizer = noise_addition.gaussian_privatizer(stddev=1.0 / batch, prng_key=jax.random.key(0))

    @jax.jit
    def update(params: Params, state: Any, noise_state: Any, values: Any, labels: Any) -> Any:
        found, noise_state = privatizer.update(gradient(params, values, labels), noise_state)
        changes, state = optimizer.update(found, state)
        return optax.apply_updates(params, changes), state, noise_state

    held = [jax.device_put(params), optimizer.init(params), privatizer.init(params)]
    random = np.random.default_rng(0)

    def step() -> int:
        index = np.sort(random.integers(0, UNITS, batch))
        held[:] = update(*held, x[index], y[index])
        jax.block_until_ready(held[0])
        return batch

    return step


def main() -> None:
    given = json.loads(sys.argv[1])
    for name in given["models"]:
        x, y = TASKS[name].data()

        def make(mode: Any, batch: int, name: str = name, x: Any = x, y: Any = y) -> Callable[[], int]:
            return step_of(name, mode, x, y, batch)

        compare(name, make, ("plain JAX", "JAX-Privacy"), MICROBATCHES, given)


if __name__ == "__main__":
    main()
