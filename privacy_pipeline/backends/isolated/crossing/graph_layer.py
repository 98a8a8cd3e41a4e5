"""A layer whose computation crossed as graphs: for each of its calls one for training and one for inference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from privacy_pipeline.backends.isolated.crossing.replay import Program, run
from privacy_pipeline.dp.graphs.tracing import unconverted
from privacy_pipeline.errors import BadInputError


@dataclass(frozen=True)
class _MadeOf:
    """Keras would wrap lists and dicts that are attributes of a layer."""

    calls: tuple[Mapping[str, Any], ...]
    variables: tuple[Mapping[str, Any], ...]
    programs: tuple[Mapping[str, Program], ...]


@tf.keras.saving.register_keras_serializable(package="privacy_pipeline")
class GraphLayer(tf.keras.layers.Layer):
    """Stands for a layer of a user's, whose Python stays where there is no data.

    Args:
        calls: for each place the layer is called at its programs by phase, "training" and "inference".
        variables: its weights: name, shape, dtype, and whether they are trained.
        stands_for: name of the class that it stands for.
        options: as for any layer.
    """

    def __init__(
        self,
        *,
        calls: Sequence[Mapping[str, Any]],
        variables: Sequence[Mapping[str, Any]],
        stands_for: str,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.stands_for = str(stands_for)
        what = f"layer '{self.name}' ({self.stands_for})"
        phases = ("training", "inference")
        programs = tuple({phase: Program.parsed(call[phase], what=what) for phase in phases} for call in calls)
        self._made_of = _MadeOf(tuple(calls), tuple(variables), programs)

    def build(self, input_shape: Any) -> None:
        """Make the weights."""
        self._own = [
            self.add_weight(
                name=str(one["name"]),
                shape=[int(size) for size in one["shape"]],
                dtype=str(one["dtype"]),
                initializer="zeros",
                trainable=bool(one["trainable"]) and self.trainable,
                experimental_autocast=False,
            )
            for one in self._made_of.variables
        ]
        super().build(input_shape)

    @unconverted
    def call(self, inputs: Any, *, place: int = 0, training: Any = None) -> Any:
        """Return the outputs of one of its calls: a tensor, or a list of them.

        Args:
            inputs: a tensor, or a list of them.
            place: which call.
            training: whether this is training; False without it.
        """
        call, programs = self._made_of.calls[place], self._made_of.programs[place]
        flat = tf.nest.flatten(inputs)

        def of(phase: str) -> list[Any]:
            return run(programs[phase], flat, weights=self._own)

        if training is None or call["training"] == call["inference"]:
            made = of("inference")
        elif tf.is_tensor(training):
            made = list(tf.cond(tf.cast(training, tf.bool), lambda: of("training"), lambda: of("inference")))
        else:
            made = of("training" if training else "inference")
        return made[0] if len(made) == 1 else made

    def get_config(self) -> dict[str, Any]:
        """Return what the layer is made of again."""
        made_of = {"calls": list(self._made_of.calls), "variables": list(self._made_of.variables)}
        own = {**made_of, "stands_for": self.stands_for}
        return {**super().get_config(), **own}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> GraphLayer:
        """Return a layer of a configuration.

        Raises:
            BadInputError: it is none.
        """
        try:
            return cls(**config)
        except (KeyError, TypeError, ValueError):
            raise BadInputError("model: a layer crossed without what it computes", fix="report this") from None
