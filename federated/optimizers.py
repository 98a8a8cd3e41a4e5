"""Optimizers with TFF 0.87's exact formulas, on NumPy arrays (server) and on tensors with a client axis (clients).

Source: tensorflow_federated/python/learning/optimizers/{sgdm,adam,yogi,adagrad}.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from privacy_pipeline.config.models.federated import OptimizerSection, ScheduleSection

State = dict[str, Any]
_EPSILON = {"adam": 1e-7, "yogi": 1e-3, "adagrad": 1e-7, "sgd": 0.0}
_INITIAL = {"adam": 0.0, "yogi": 1e-6, "adagrad": 0.1, "sgd": 0.0}


class Optimizer:
    """Formulas of one optimizer; holds no state.

    Args:
        section: what the config asks for.
        namespace: `numpy`, or `tensorflow.math`: anything with `sqrt`, `square` and `sign`.
    """

    def __init__(self, section: OptimizerSection, namespace: Any = np) -> None:
        self.section = section
        self._ops = namespace
        self.epsilon = _EPSILON[section.name] if section.epsilon is None else section.epsilon
        self.initial = _INITIAL[section.name] if section.initial_accumulator is None else section.initial_accumulator

    @property
    def slots(self) -> tuple[str, ...]:
        """Names of the arrays kept for each weight."""
        if self.section.name == "sgd":
            return ("momentum",) if self.section.momentum else ()
        return ("preconditioner",) if self.section.name == "adagrad" else ("momentum", "preconditioner")

    @property
    def counts_steps(self) -> bool:
        """Whether the state holds the number of steps."""
        return self.section.name in ("adam", "yogi")

    def initial_state(self, shapes: Sequence[tuple[int, ...]]) -> State:
        """Return the state before the first step, NumPy: `step` int32 [] and `<slot>/<i>` float32 like weight i."""
        state: State = {"step": np.zeros((), np.int32)} if self.counts_steps else {}
        for slot in self.slots:
            value = self.initial if slot == "preconditioner" else 0.0
            state.update({f"{slot}/{i}": np.full(shape, value, np.float32) for i, shape in enumerate(shapes)})
        return state

    def step(
        self, state: State, weights: Sequence[Any], gradients: Sequence[Any], learning_rate: Any
    ) -> tuple[State, list[Any]]:
        """Make one step.

        Args:
            state: as `initial_state`, with a client axis [c] in front of all of it or of nothing.
            weights: float32, perhaps with a client axis in front.
            gradients: like the weights.
            learning_rate: float32 scalar.

        Returns:
            The next state and weights.
        """
        after: State = {}
        rate = learning_rate
        if self.counts_steps:
            after["step"] = state["step"] + np.int32(1)
            rate = learning_rate * self._bias_correction(after["step"])
        updated = []
        for i, (weight, gradient) in enumerate(zip(weights, gradients, strict=True)):
            mine = {slot: state[f"{slot}/{i}"] for slot in self.slots}
            change, mine = self._change(mine, gradient)
            updated.append(weight - _per_client(rate, change) * change)
            after.update({f"{slot}/{i}": value for slot, value in mine.items()})
        return after, updated

    def _bias_correction(self, step: Any) -> Any:
        count = step.astype(np.float32) if self._ops is np else _as_float(step)
        one, first, second = np.float32(1), np.float32(self.section.beta_1), np.float32(self.section.beta_2)
        return self._ops.sqrt(one - second**count) / (one - first**count)

    def _change(self, slots: State, gradient: Any) -> tuple[Any, State]:
        section, ops = self.section, self._ops
        epsilon = np.float32(self.epsilon)
        if section.name == "sgd":
            if not self.slots:
                return gradient, slots
            momentum = np.float32(section.momentum) * slots["momentum"] + gradient
            return momentum, {"momentum": momentum}
        squared = ops.square(gradient)
        if section.name == "adagrad":
            total = slots["preconditioner"] + squared
            return gradient / ops.sqrt(total + epsilon), {"preconditioner": total}
        one = np.float32(1)
        momentum = slots["momentum"] + (gradient - slots["momentum"]) * (one - np.float32(section.beta_1))
        before, share = slots["preconditioner"], one - np.float32(section.beta_2)
        if section.name == "adam":
            second = before + (squared - before) * share
        else:
            second = before + share * ops.sign(squared - before) * squared
        return momentum / (ops.sqrt(second) + epsilon), {"momentum": momentum, "preconditioner": second}


def _per_client(rate: Any, change: Any) -> Any:
    if isinstance(rate, (float, np.ndarray, np.floating)) or rate.shape.rank == 0:
        return rate
    import tensorflow as tf

    return tf.reshape(rate, [-1] + [1] * (change.shape.rank - 1))


def _as_float(step: Any) -> Any:
    import tensorflow as tf

    return tf.cast(step, tf.float32)


def learning_rate(section: OptimizerSection, round_number: int) -> float:
    """Return the rate of a round that counts from 0."""
    return section.learning_rate * (1.0 if section.schedule is None else _factor(section.schedule, round_number))


def _factor(schedule: ScheduleSection, round_number: int) -> float:
    if round_number < schedule.warmup_rounds:
        return (round_number + 1) / schedule.warmup_rounds
    done = (round_number - schedule.warmup_rounds) / schedule.rounds
    if schedule.kind == "exponential":
        return float(schedule.decay**done)
    if schedule.kind == "step":
        return float(schedule.decay ** math.floor(done))
    if schedule.kind == "inverse_time":
        return 1.0 / (1.0 + schedule.decay * done)
    return schedule.decay + (1 - schedule.decay) * (1 + math.cos(math.pi * min(1.0, done))) / 2
