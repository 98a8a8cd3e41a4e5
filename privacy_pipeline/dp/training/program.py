"""The TensorFlow graph of a private step: clipped sum, noise, division by the expected batch, optimizer update."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from privacy_pipeline.dp.graphs.buffers import to_tensor
from privacy_pipeline.dp.graphs.tracing import Traced
from privacy_pipeline.dp.noise.masks import keyed_masks
from privacy_pipeline.dp.noise.noise import split_flat, total_size
from privacy_pipeline.dp.plan import PrivacyPlan
from privacy_pipeline.dp.sampling.store import ExampleStore
from privacy_pipeline.dp.training.choice import Clipper, require_as_proven
from privacy_pipeline.errors import PipelineError

_ROWS = 64  # rows of one byte that fill a stretch of `buffers.ALIGNMENT`
_NORM_RANGE = 1e6  # an adaptive norm stays within this factor of its first value, so that it is never 0 or infinite


def specs_of(store: ExampleStore, *, rows: int | None = None) -> tuple[Any, Any]:
    """Return nests of `tf.TensorSpec` of a batch's x and y; shapes and dtypes are public."""

    def make(nest: Any) -> Any:
        if isinstance(nest, dict):
            return {name: make(part) for name, part in nest.items()}
        if isinstance(nest, tuple):
            return tuple(make(part) for part in nest)
        return tf.TensorSpec([rows, *nest.shape[1:]], nest.dtype)

    return make(store.x), make(store.y)


def finite_norm(model: Any, steps: int) -> float:
    """Return the L2 norm of the trainable weights after a number of steps; the noise protects it.

    Raises:
        PipelineError: it is not finite.
    """
    norm = float(tf.linalg.global_norm(model.trainable_variables))
    if not math.isfinite(norm):
        raise PipelineError(
            f"the weights are no longer finite after {steps} steps", fix="lower the learning rate or the noise"
        )
    return norm


class Program:
    """Compiled private steps for batches of any size.

    A batch of up to `largest` examples is one call; a larger one is cut into virtual batches whose clipped sums are
    added up, which changes nothing but the order of summation. Cuts are between units. Noise is added once a step, also
    to no examples.

    Args:
        model: the model, whose random layers draw from the seed of the step.
        clipper: gives clipped sums.
        variables: what is trained.
        optimizer: built Keras optimizer; it sees noisy mean gradients alone.
        plan: the plan.
        x: nest of `tf.TensorSpec` of the inputs.
        y: nest of `tf.TensorSpec` of the labels.
        largest: examples of a virtual batch at most.
        norm: float32 variable that holds an adaptive clipping norm.
    """

    def __init__(
        self,
        *,
        model: Any,
        clipper: Clipper,
        variables: Sequence[Any],
        optimizer: Any,
        plan: PrivacyPlan,
        x: Any,
        y: Any,
        largest: int,
        norm: Any = None,
    ) -> None:
        self._model = model
        self._clipper = clipper
        self.variables = list(variables)
        self._optimizer = optimizer
        self._specs = (x, y)
        self._expected = plan.expected_batch_size
        self._largest = max(1, largest // clipper.rows) * clipper.rows
        self._sums: list[Any] = []
        self._adaptive = plan.clipping.adaptive
        self._first_norm = plan.clipping.norm
        # The clipping norm, where it changes.
        self.norm = norm
        self._count = tf.Variable(0.0, trainable=False)
        present = tf.TensorSpec([None], tf.bool)
        shapes = [variable.shape for variable in self.variables] + [tf.TensorShape([])] * (self.norm is not None)
        self._shapes = [tuple(shape) for shape in shapes]
        noise = tf.TensorSpec([total_size(self._shapes)], tf.float32)
        seed = tf.TensorSpec([2], tf.int64)
        self._step = Traced(self._whole, x, y, present, noise, seed)
        self._add = Traced(self._accumulate, x, y, present, seed)
        self._finish = Traced(self._from_sums, noise)
        self._clear = Traced(self._zero)

    @property
    def graph(self) -> Any:
        """Graph of a whole step."""
        return self._step.concrete.graph

    def require_as_proven(self, traced: Traced | None = None) -> None:
        """Hold a graph of this program, that of a whole step if none is given, to what was proven of the model.

        Raises:
            PipelineError: the model computes something else than what was examined.
        """
        x, y = self._specs
        require_as_proven((traced or self._step).concrete.graph, self._clipper, x=x, y=y)

    @property
    def state(self) -> list[Any]:
        """Variables that steps change beside those of model and optimizer."""
        return [] if self.norm is None else [self.norm]

    def _clipped(self, x: Any, y: Any, present: Any, seed: Any) -> tuple[Sequence[Any], Any]:
        """Return the clipped sum over the expected batch size, and count; the factors are divided, not the sums."""
        with keyed_masks(self._model, seed):
            return self._clipper.clipped(
                x, y, training=True, present=present, norm=self.norm, scale=1.0 / self._expected
            )

    def _whole(self, x: Any, y: Any, present: Any, noise: Any, seed: Any) -> None:
        self._update(*self._clipped(x, y, present, seed), noise)

    def _accumulate(self, x: Any, y: Any, present: Any, seed: Any) -> None:
        sums, count = self._clipped(x, y, present, seed)
        for held, value in zip(self._sums, sums, strict=True):
            held.assign_add(value)
        self._count.assign_add(count)

    def _from_sums(self, noise: Any) -> None:
        self._update([held.read_value() for held in self._sums], self._count.read_value(), noise)

    def _update(self, means: Sequence[Any], count: Any, noise: Any) -> None:
        """Clipped sum over the expected batch size, plus noise, into the optimizer."""
        normals = [tf.reshape(part, shape) for part, shape in split_flat(noise, self._shapes)]
        if self.norm is not None:  # adaptive noise comes for a norm of 1
            norm = self.norm.read_value()
            normals = [*(norm * normal for normal in normals[:-1]), normals[-1]]
        gradients = [value + tf.cast(normal, value.dtype) for value, normal in zip(means, normals, strict=False)]
        self._optimizer.apply_gradients(zip(gradients, self.variables, strict=True))
        if self._adaptive is not None:
            share = (count + normals[-1]) / self._expected + 0.5
            factor = tf.exp(-self._adaptive.learning_rate * (share - self._adaptive.quantile))
            low, high = self._first_norm / _NORM_RANGE, self._first_norm * _NORM_RANGE
            self.norm.assign(tf.clip_by_value(norm * factor, low, high))

    def _zero(self) -> None:
        for held in self._sums:
            held.assign(tf.zeros_like(held))
        self._count.assign(0.0)

    def run(
        self,
        x: Any,
        y: Any,
        present: NDArray[np.bool_],
        noise: NDArray[np.float32],
        seed: NDArray[np.int64],
    ) -> None:
        """One optimizer update.

        Args:
            x: nest of arrays, [batch, ...]; the batch may be empty.
            y: nest of arrays.
            present: bool [batch], False for rows of padding.
            noise: noise on the mean gradient, float32, laid out as `GaussianNoise.flat` does; with adaptive clipping
                for a norm of 1, and then the noise on the count.
            seed: seed of the masks of random layers, int64, [2].
        """
        rows = present.shape[0]
        # Converted one by one: a compiled function takes several times as long to convert arrays by itself.
        normal = to_tensor(noise)
        if 0 < rows <= self._largest:
            self._step(*tf.nest.map_structure(to_tensor, (x, y, present)), normal, tf.constant(seed))
            return
        if not self._sums:
            self._sums = [tf.Variable(tf.zeros_like(v), trainable=False) for v in self.variables]
            self.require_as_proven(self._add)
        self._clear()
        size = self._size(rows)
        for start in range(0, rows, size):
            cut = slice(start, start + size)
            # Each virtual batch has masks of its own.
            own = tf.constant(seed + np.array([0, start], np.int64))
            self._add(*tf.nest.map_structure(lambda array, cut=cut: to_tensor(array[cut]), (x, y, present)), own)
        self._finish(normal)

    def _size(self, rows: int) -> int:
        """Return the rows of a virtual batch: few, of about one size, and where their memory can be used in place."""
        step = math.lcm(_ROWS, self._clipper.rows)
        pieces = -(-rows // self._largest) or 1
        return min(self._largest, -(-rows // (pieces * step)) * step or step)
