"""An optimizer that keeps what it is given, in a variable: the step's graph may not call Python."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf


class Recorder(tf.keras.optimizers.SGD):
    """Moves nothing, and keeps the gradient of the model's one variable at each step.

    Attributes:
        beside: gives a scalar tensor to keep with each gradient.
    """

    def __init__(self, *, steps: int, size: int) -> None:
        super().__init__(0.0)
        self.steps, self.size = steps, size
        self.beside: Callable[[], Any] = lambda: tf.zeros([])
        self._kept: Any = None

    def build(self, var_list: Any) -> None:
        super().build(var_list)
        if self._kept is None:
            shape = [self.steps, self.size + 1]
            self._kept = self.add_variable_from_reference(
                var_list[0], "kept", shape=shape, initial_value=tf.zeros(shape)
            )

    def update_step(self, gradient: Any, variable: Any) -> None:
        row = tf.concat([tf.reshape(gradient, [-1]), [tf.convert_to_tensor(self.beside())]], 0)
        self._kept[tf.cast(self.iterations, tf.int32)].assign(row)

    @property
    def gradients(self) -> np.ndarray:
        """Gradients, float32, [steps, size]."""
        return self._kept.numpy()[:, :-1]

    @property
    def others(self) -> np.ndarray:
        """What `beside` gave, float32, [steps]."""
        return self._kept.numpy()[:, -1]
