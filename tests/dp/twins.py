"""Eight broken twins of the engine, each the real one with a single part exchanged, and the checks that tell them.

The checks see what an attacker sees: the sequence of updates. The model gives each unit a coordinate of its own, and
the noise is small, so that an update shows who was in the batch, with which weight, and the noise of the rest.

Each check gives the chance (or a bound on it) that a sound engine looks as odd as what was seen. A run fails a check
whose value is below `LEVEL`; with eleven checks, a sound run fails once in about a million.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import tensorflow as tf
from scipy import stats

from privacy_pipeline.dp import PrivacyPlan, make_private
from privacy_pipeline.dp.attacks.canaries import linear_loss, orthogonal_model
from privacy_pipeline.dp.checks import noise_check
from privacy_pipeline.dp.clipping.gradients import BookKeeping
from privacy_pipeline.dp.noise.noise import GaussianNoise
from privacy_pipeline.dp.sampling.sampler import Sampler
from privacy_pipeline.dp.training.program import Program

LEVEL = 1e-7
UNITS, STEPS, BATCH, NOISE, NORM = 300, 600, 3, 0.05, 0.5
HALF = STEPS // 2


def plan(**change: Any) -> PrivacyPlan:
    """Batches of 3 expected units, so that 5 % of them are empty."""
    given = {
        "units": UNITS,
        "expected_batch_size": BATCH,
        "steps": STEPS,
        "noise_multiplier": NOISE,
        "delta": 1e-5,
        "clipping_norm": NORM,
    }
    return PrivacyPlan.calibrated(**{**given, **change})


class Recorder(tf.keras.callbacks.Callback):
    """Keeps the weights after each step; can break the run off."""

    def __init__(self, *, stop_after: int | None = None) -> None:
        super().__init__()
        self.weights: list[np.ndarray] = []
        self._stop_after = stop_after

    def on_train_begin(self, logs: Any = None) -> None:
        if not self.weights:
            self._keep()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._keep()
        if len(self.weights) - 1 == self._stop_after:
            self.model.stop_training = True

    def _keep(self) -> None:
        self.weights.append(np.concatenate([weight.ravel() for weight in self.model.get_weights()]))

    def updates(self) -> np.ndarray:
        """What each step took from the weights, float64 [steps, weights]."""
        return -np.diff(np.array(self.weights, np.float64), axis=0)


def run(*, resumed: Path | None = None, plan: PrivacyPlan | None = None, **options: Any) -> np.ndarray:
    """Updates of a whole run, float64 [steps, units], in clipping norms of one unit; steps that do nothing left out.

    Args:
        resumed: break the run off in the middle, and go on from the state in this folder with a new model.
        plan: another plan than `plan()`.
        options: of `make_private`.
    """
    made = plan or globals()["plan"]()
    x, y = np.arange(UNITS, dtype=np.int32), np.ones((UNITS, 1), np.float32)
    seen = Recorder(stop_after=HALF if resumed else None)
    for _ in range(2 if resumed else 1):
        model = orthogonal_model(UNITS)
        optimizer = tf.keras.optimizers.SGD(1.0)
        private = make_private(model, made, optimizer=optimizer, loss=linear_loss(NORM), state_dir=resumed, **options)
        execution = private.fit(x, y, callbacks=[seen])
    assert execution.steps == STEPS
    assert execution.resumed_at == (HALF if resumed else None)
    updates = -seen.updates() * BATCH / NORM
    return updates[np.any(updates != 0, axis=1)]


# --- checks -----------------------------------------------------------------------------------------------------


def _two_sided(below: float, above: float) -> float:
    return min(1.0, 2 * min(below, above))


def _chi_square(values: np.ndarray) -> float:
    """Chance that standard normal numbers have a mean square so far from 1."""
    total, count = float(np.square(values).sum()), values.size
    return _two_sided(stats.chi2.cdf(total, count), stats.chi2.sf(total, count))


def _dispersion(counts: np.ndarray, trials: int, probability: float) -> float:
    """Chance that independent binomial counts vary so much, or so little, about their mean; exact, by convolution."""
    values = np.arange(int(stats.binom.isf(1e-16, trials, probability)) + 2)
    mean = round(trials * probability)
    squares = np.bincount((values - mean) ** 2, stats.binom.pmf(values, trials, probability))
    size = 1 << int(np.ceil(np.log2(counts.size * squares.size)))
    distribution = np.fft.irfft(np.fft.rfft(squares, size) ** counts.size, size)
    found = min(int(np.square(counts - mean).sum()), size - 1)
    return max(0.0, _two_sided(distribution[: found + 1].sum(), distribution[found:].sum()))


def _likeness(rows: np.ndarray) -> float:
    """Bound on the chance that, among rows of standard normal numbers, two are as alike as the two most alike are."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    unit = rows / np.maximum(lengths, 1e-30)
    cosines = np.abs(np.triu(unit @ unit.T, 1)).max()
    freedom = rows.shape[1] - 1
    t = cosines * np.sqrt(freedom / max(1e-30, 1 - cosines**2))
    return float(min(1.0, rows.shape[0] ** 2 * stats.t.sf(t, freedom)))


def checks(updates: np.ndarray, *, noise: float = NOISE) -> dict[str, float]:
    """Value of each check on the updates of a run.

    Power: noise x 0.9 lies 57 standard deviations of the mean square away; a contribution that is off by a tenth lies
    2 standard deviations of its noise away, and there are some 1,800 of them; without empty batches the one in twenty
    that should be empty are missing (0.95^600 = 4e-14); two steps with the same noise have a cosine of 1, where 0.45
    is the most that chance gives.
    """
    probability = BATCH / UNITS
    inside = updates > 0.5
    left = (updates - inside) / noise
    sizes, counts = inside.sum(1), inside.sum(0)
    together = np.triu(inside.T.astype(int) @ inside, 1).max()
    again = inside[1:] & inside[:-1]
    empty = int((sizes == 0).sum())
    return {
        "noise scale": _chi_square(left),
        "noise shape": float(stats.kstest(left.ravel(), "norm").pvalue),
        "independent steps": _likeness(left),
        "independent coordinates": _likeness(left.T),
        "contribution": _chi_square(left[inside]),
        "sampling probability": float(stats.binomtest(int(inside.sum()), inside.size, probability).pvalue),
        "batch sizes": _dispersion(sizes, UNITS, probability),
        "unit counts": _dispersion(counts, len(updates), probability),
        "pairs": min(1.0, UNITS**2 / 2 * float(stats.binom.sf(together - 1, len(updates), probability**2))),
        "next step": float(stats.binomtest(int(again.sum()), again.size, probability**2).pvalue),
        "empty batches": float(stats.binomtest(empty, len(updates), (1 - probability) ** UNITS).pvalue),
    }


def failed(updates: np.ndarray, *, noise: float = NOISE) -> set[str]:
    """Names of the checks that a run fails."""
    return {name for name, value in checks(updates, noise=noise).items() if not value >= LEVEL}


# --- twins ------------------------------------------------------------------------------------------------------

Twin = Callable[[], Any]


@contextmanager
def _instead(owner: Any, name: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Iterator[None]:
    """While open, a method is what `make` makes of it."""
    with mock.patch.object(owner, name, make(getattr(owner, name))):
        yield


def _noise_times(factor: float) -> Any:
    """Noise at another scale, unseen by the engine's own check, so that the checks here have to find it."""

    def make(flat: Any) -> Any:
        return lambda self, *a, **k: np.float32(factor) * flat(self, *a, **k)

    stack = ExitStack()
    stack.enter_context(mock.patch.object(noise_check, "require_noise", lambda plans: ()))
    stack.enter_context(_instead(GaussianNoise, "flat", make))
    return stack


def no_noise() -> Any:
    return _noise_times(0.0)


def noise_times_0_9() -> Any:
    return _noise_times(0.9)


def _raw_sum(clipper: BookKeeping, x: Any, y: Any, weights: Any, scale: float = 1.0) -> list[Any]:
    """Weighted sum of gradients that nothing bounds."""
    return [scale * part.weighted_sum(weights) for part in clipper.parts(x, y, training=True)]


def _clipped_sum(change: Callable[..., list[Any]]) -> Any:
    """Exchanges the clipped sum for `change(clipper, x, y, weights, original, scale)`."""

    def make(original: Any) -> Any:
        def changed(self: Any, x: Any, y: Any, **more: Any) -> tuple[list[Any], Any]:
            weights = tf.cast(more["present"], tf.float32)
            scale = more.get("scale", 1.0)
            counts: list[Any] = []

            def sums(present: Any) -> list[Any]:
                found, count = original(self, x, y, **{**more, "present": present})
                counts.append(count)
                return list(found)

            return change(self, x, y, weights, sums, scale), counts[0] if counts else tf.constant(0.0)

        return changed

    return _instead(BookKeeping, "clipped", make)


def clipping_after_averaging(expected: float = BATCH) -> Any:
    """Clips the mean gradient of the batch to the norm that each example's should be clipped to."""

    def change(self: Any, x: Any, y: Any, weights: Any, original: Any, scale: Any) -> list[Any]:
        count = tf.reduce_sum(weights)
        mean = [value / count for value in _raw_sum(self, x, y, weights)]
        clipped, _ = tf.clip_by_global_norm(mean, self._groups.sensitivity)
        return [value * expected * scale for value in clipped]

    return _clipped_sum(change)


def realised_batch(expected: float = BATCH) -> Any:
    """Divides by the number of examples that were drawn."""

    def change(self: Any, x: Any, y: Any, weights: Any, original: Any, scale: Any) -> list[Any]:
        return [value * expected / tf.reduce_sum(weights) for value in original(weights > 0)]

    return _clipped_sum(change)


def one_unclipped() -> Any:
    """Leaves the first example of each virtual batch as it is."""

    def change(self: Any, x: Any, y: Any, weights: Any, original: Any, scale: Any) -> list[Any]:
        first = tf.cast(tf.range(tf.size(weights)) == 0, tf.float32) * weights
        others = original((weights - first) > 0)
        return [a + b for a, b in zip(others, _raw_sum(self, x, y, first, scale), strict=True)]

    return _clipped_sum(change)


def skips_empty_batches() -> Any:
    def make(original: Any) -> Any:
        def changed(self: Any, x: Any, y: Any, present: Any, *more: Any) -> None:
            if np.any(present):
                original(self, x, y, present, *more)

        return changed

    return _instead(Program, "run", make)


def shuffling() -> Any:
    """Deals each epoch's batches from a permutation, and calls that Poisson sampling."""
    dealt = plan(sampling="shuffled")

    def make(original: Any) -> Any:
        return lambda self, step: original(Sampler(dealt, self.key, self.units), step)

    return _instead(Sampler, "batch", make)


@contextmanager
def reused_after_resume() -> Iterator[None]:
    """Counts steps from 0 again after the resume, under the same key: samples and noise come back."""

    def restarted(original: Any) -> Any:
        return lambda self, step, *a, **k: original(self, step % HALF, *a, **k)

    with _instead(GaussianNoise, "flat", restarted), _instead(Sampler, "batch", restarted):
        yield
