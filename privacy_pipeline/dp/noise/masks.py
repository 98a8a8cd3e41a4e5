"""Dropout masks, and all that random layers draw, as functions of the run's key and the step.

Keras' own generators keep state in the process, so that a run which resumes would draw other masks. While a model runs
under `keyed_masks`, its random layers draw from stateless generators (Philox) seeded with a tensor, and so do
`tf.random.normal`, `truncated_normal` and `uniform`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import MethodType
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow.python.ops import gen_random_ops
from tensorflow.python.ops.control_flow_v2_func_graphs import CondBranchFuncGraph

from privacy_pipeline.dp.graphs.graph_state import refused_ops
from privacy_pipeline.dp.graphs.randomness import RunKey
from privacy_pipeline.dp.rowwise.proof import note_key


def mask_seed(key: RunKey, step: int) -> NDArray[np.int64]:
    """Return the seed of a step's masks, int64, [2]."""
    return np.frombuffer(key.derive(f"masks of step {step}", 16), np.int64)


@dataclass
class _Source:
    """Gives a seed to each random call, in the order in which they are traced.

    Attributes:
        seed: int64 tensor, [2].
        graph: where the seed holds for one pass. In a loop, and in a function that is traced once for several seeds, a
            call would draw the same numbers again.
        calls: how many there were.
    """

    seed: Any
    graph: Any
    calls: int = 0

    @property
    def holds(self) -> bool:
        """Whether the seed holds for one pass in the graph that is traced now."""
        graph = _graph()
        while isinstance(graph, CondBranchFuncGraph) and graph is not self.graph:
            graph = graph.outer_graph
        return graph is self.graph

    def following(self) -> Any:
        self.calls += 1
        return _folded(self.seed, self.calls)


_ACTIVE: list[_Source] = []


def _folded(seed: Any, number: Any) -> Any:
    """Return a seed made of a secret one and a public number. 64 bits of the secret last: as many as the number's type
    has.
    """
    return tf.random.experimental.stateless_fold_in(seed, tf.cast(number, tf.int64))


def _graph() -> Any:
    return tf.compat.v1.get_default_graph()


# What `tf.random.normal`, `uniform` and `truncated_normal` call, and with them Keras' `backend.random_normal` and kin.
_FLOATS = {
    "random_standard_normal": tf.random.stateless_normal,
    "truncated_normal": tf.random.stateless_truncated_normal,
    "random_uniform": tf.random.stateless_uniform,
}
_INTEGERS = "random_uniform_int"


def _floats(source: _Source, name: str) -> Callable[..., Any]:
    """Return a function of TensorFlow's that draws from the source; a seed that the code gives is not needed."""
    own, drawn = getattr(gen_random_ops, name), _FLOATS[name]

    def call(shape: Any, dtype: Any, seed: int = 0, seed2: int = 0, name: Any = None) -> Any:
        if not source.holds:
            return own(shape, dtype, seed=seed, seed2=seed2, name=name)
        return drawn(shape, source.following(), dtype=dtype, name=name)

    return call


def _integers(source: _Source) -> Callable[..., Any]:
    """Return the same for whole numbers of a range."""
    own = getattr(gen_random_ops, _INTEGERS)

    def call(shape: Any, minval: Any, maxval: Any, seed: int = 0, seed2: int = 0, name: Any = None) -> Any:
        if not source.holds:
            return own(shape, minval, maxval, seed=seed, seed2=seed2, name=name)
        dtype = tf.convert_to_tensor(minval).dtype
        return tf.random.stateless_uniform(shape, source.following(), minval, maxval, dtype, name)

    return call


@contextmanager
def keyed_masks(model: Any, seed: Any) -> Iterator[None]:
    """While open, random layers of a model draw from a seed. Not for use by two threads.

    Args:
        model: the model.
        seed: int64 tensor, [2].
    """
    source = _Source(seed, _graph())
    note_key(seed)
    layers = {id(layer): layer for layer in model._flatten_layers()}.values()
    generators = {id(g): g for layer in layers if (g := getattr(layer, "_random_generator", None))}
    compiled = [layer for layer in layers if isinstance(type(layer).call, tf.types.experimental.GenericFunction)]
    for layer in compiled:  # a `tf.function` keeps what it traced before, and with it another seed
        layer.__dict__["call"] = MethodType(type(layer).call.python_function, layer)
    before = {place: dict(vars(generator)) for place, generator in generators.items()}
    # Past Keras, which would track what is set.
    for generator in generators.values():
        vars(generator).update(_rng_type="stateless", _built=True, make_seed_for_stateless_op=source.following)
    functions = {name: getattr(gen_random_ops, name) for name in (*_FLOATS, _INTEGERS)}
    keyed = {name: _floats(source, name) for name in _FLOATS}
    vars(gen_random_ops).update(keyed, **{_INTEGERS: _integers(source)})
    _ACTIVE.append(source)
    try:
        yield
    finally:
        _ACTIVE.pop()
        vars(gen_random_ops).update(functions)
        for layer in compiled:
            layer.__dict__.pop("call", None)
        for place, generator in generators.items():
            vars(generator).clear()
            vars(generator).update(before[place])


@contextmanager
def masks_of_row(row: Any) -> Iterator[None]:
    """Inside `keyed_masks`, where rows run one by one: gives a row masks of its own.

    Args:
        row: integer scalar.
    """
    if not _ACTIVE:
        yield
        return
    source = _ACTIVE[-1]
    outer = source.seed, source.graph
    source.seed, source.graph = _folded(source.seed, row), _graph()
    try:
        yield
    finally:
        source.seed, source.graph = outer


def draws() -> int:
    """Return number of random calls so far inside `keyed_masks`; a function that changes it would draw other masks
    again.
    """
    return _ACTIVE[-1].calls if _ACTIVE else 0


def draw_again(draws: int) -> None:
    """Inside `keyed_masks`: go back to an earlier number of random calls; what was traced since must not be used."""
    if _ACTIVE:
        _ACTIVE[-1].calls = draws


def unkeyed_randomness(graph: Any) -> list[str]:
    """Return the names of a graph's ops that draw something that the key does not decide.

    What keeps state is refused before, by the same list: `privacy_pipeline.dp.graphs.graph_state`.

    Args:
        graph: graph of a function.
    """
    return sorted({op.name for op in refused_ops(graph) if op.kind == "draws"})
