"""Empirical lower bounds on epsilon: what an attacker with canaries can show about the mechanism that ran.

One-run auditing (Steinke, Nasr and Jagielski 2023, "Privacy Auditing with One (1) Training Run", arXiv 2305.08846):
many canaries, each included or not by a fair coin of its own; from what the mechanism released, the attacker guesses
some of the coins. Under (epsilon, delta)-DP there is a limit to how many guesses are right. More right ones disprove
the epsilon, with the confidence that the bound states. A lower bound below the claimed epsilon proves nothing.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from privacy_pipeline.accounting.accountants import epsilon_of
from privacy_pipeline.accounting.plan import Relation
from privacy_pipeline.dp.attacks.guessing_bounds import GuessedBound, bound_from_scores
from privacy_pipeline.dp.mechanism.sampling import FixedPartition, PoissonSampling, Sampling
from privacy_pipeline.dp.plan import PrivacyPlan
from privacy_pipeline.errors import BadInputError, PipelineError

if TYPE_CHECKING:
    from dp_accounting import DpEvent

# Small, so that a fault of each virtual batch shows often enough to be distinguished from chance.
_VIRTUAL_BATCH = 32
_CORRELATED_STEPS = 8
MECHANISM_CANARIES = 100_000
RUN_CANARIES = 10_000  # of the audit that a run makes by itself, before its budget is started; a second or two
TRAINING_CANARIES = 1000

_WHITE_BOX = (
    "The engine with the plan's clipping and noise, without sampling, on made-up canaries with a coordinate each; no "
    "private data is read. A lower bound above the upper bound shows a fault, with its confidence; one below it proves "
    "nothing."
)
_BLACK_BOX = (
    "A training on made-up rows under the run's plan, seen through the losses of its final model; no private data is "
    "read. Such an audit catches gross faults only: a lower bound below the upper bound proves nothing."
)


@dataclass(frozen=True, kw_only=True)
class AuditResult:
    """An empirical lower bound beside the claimed upper bound.

    Attributes:
        kind: "mechanism" (white-box) or "training" (black-box).
        lower_bound: epsilon at `delta` that the mechanism has at least, with `confidence`.
        confidence: chance that a sound mechanism's epsilon is not below the lower bound.
        upper_bound: epsilon at `delta` that the accountant claims for what was audited.
        delta: delta of both.
        canaries: how many there were.
        guesses: how many were guessed, in the choice of guesses that gave the bound.
        correct: how many of those guesses were right.
        statement: what was done, and what it can show.
        seconds: how long it took.
    """

    kind: str
    lower_bound: float
    confidence: float
    upper_bound: float
    delta: float
    canaries: int
    guesses: int
    correct: int
    statement: str
    seconds: float = 0.0

    @property
    def sound(self) -> bool:
        """Whether the two bounds agree."""
        return self.lower_bound <= self.upper_bound

    def to_json(self) -> dict[str, str | int | float]:
        """Return the audit as it is stored in a privacy record."""
        return dataclasses.asdict(self)

    def require_sound(self) -> None:
        """Refuse a contradiction.

        Raises:
            PipelineError: the lower bound lies above the upper bound.
        """
        if not self.sound:
            raise PipelineError(
                f"{self.kind} audit: epsilon is at least {self.lower_bound:.3f} (confidence {self.confidence:g}), but "
                f"at most {self.upper_bound:.3f} was claimed, both at delta {self.delta:g}: the guarantee is wrong",
                fix="do not use the model, and report the fault of the engine or its installation",
            )


def mechanism_plan(plan: PrivacyPlan, *, canaries: int) -> PrivacyPlan:
    """Return a plan's clipping and noise in a short run in which every canary takes part once: nothing is sampled.

    One step; with correlated noise an epoch of a few steps, and as few canaries less as fill no batch.

    Args:
        plan: the plan of a run.
        canaries: units that take part.
    """
    steps, units = 1, canaries
    short: Sampling = PoissonSampling(probability=1.0, expected=float(canaries))
    if plan.noise.correlation != "none":
        steps = min(plan.steps_per_epoch, max(_CORRELATED_STEPS, plan.noise.bands or 1), canaries)
        units = canaries // steps * steps
        short = FixedPartition(batch_size=units // steps, units=units, cyclic=True)
    return dataclasses.replace(plan, relation=Relation.ZERO_OUT, units=units, sampling=short, steps=steps)


def audit_mechanism(plan: PrivacyPlan, *, canaries: int = MECHANISM_CANARIES, confidence: float = 0.95) -> AuditResult:
    """Audit the plan's clipping and noise through the engine, on made-up canaries; see `mechanism_plan`.

    The canaries' gradients are orthogonal and far longer than the clipping norm; each is zeroed out with probability
    1/2. The attacker sees the weights. The bounds are those of this short run without sampling, not of the plan's.

    Args:
        plan: the plan of a run; its clipping, noise and bound on users are used, its sampling is not.
        canaries: made-up examples; 100,000 take some seconds. A user has as many of them as the plan allows.
        confidence: of the lower bound.

    Raises:
        BadInputError: fewer than 2 canaries.
        AccountingError: no epsilon is known for the plan.
    """
    import tensorflow as tf

    from privacy_pipeline.dp.attacks.canaries import coin_flips, linear_loss, orthogonal_model
    from privacy_pipeline.dp.training.engine import make_private

    began = time.perf_counter()
    each = 1 if plan.users is None else plan.users.max_examples
    short = mechanism_plan(plan, canaries=max(1, canaries // each))
    units = short.units or 0
    included = coin_flips(units)
    model = orthogonal_model(units)
    private = make_private(
        model,
        short,
        optimizer=tf.keras.optimizers.SGD(1.0),
        loss=linear_loss(short.clipping.norm),
        virtual_batch_size=_VIRTUAL_BATCH,
        history="public",
        remember=False,
    )
    owners = np.repeat(np.arange(units, dtype=np.int32), each)
    labels = included[owners][:, None].astype(np.float32)
    execution = private.fit(owners, labels, users=None if plan.users is None else owners)
    scores = np.asarray(model.get_weights()[0], np.float64)[:, 0]
    return _result(
        "mechanism",
        bound=bound_from_scores(scores, included, delta=plan.delta, confidence=confidence),
        plan=short,
        event=execution.event,
        canaries=units,
        confidence=confidence,
        statement=_WHITE_BOX,
        began=began,
    )


def _result(
    kind: str,
    *,
    bound: GuessedBound,
    plan: PrivacyPlan,
    event: DpEvent,
    canaries: int,
    confidence: float,
    statement: str,
    began: float,
) -> AuditResult:
    return AuditResult(
        kind=kind,
        lower_bound=bound.lower_bound,
        confidence=confidence,
        upper_bound=epsilon_of(event, delta=plan.delta, relation=plan.relation),
        delta=plan.delta,
        canaries=canaries,
        guesses=bound.guesses,
        correct=bound.correct,
        statement=statement,
        seconds=time.perf_counter() - began,
    )


@dataclass(frozen=True, kw_only=True)
class AuditedModel:
    """What a training audit trains.

    Attributes:
        build: makes the model, uncompiled, with fresh weights.
        optimizer: makes the optimizer.
        loss: function of (labels [batch, 1], outputs) that gives the loss of each example, [batch].
        rows: makes inputs for a number of made-up rows: a nest of arrays, [rows, ...].
    """

    build: Callable[[], Any]
    optimizer: Callable[[], Any]
    loss: Callable[[Any, Any], Any]
    rows: Callable[[int], Any]


def audit_training(
    subject: AuditedModel, *, plan: PrivacyPlan, canaries: int = TRAINING_CANARIES, confidence: float = 0.95
) -> AuditResult:
    """Train under the run's plan on made-up rows, some of them canaries, and attack the final model by its losses.

    Every label is random, so that a canary's loss falls only by its own presence. Rows that are not canaries are
    all in. The attacker compares each canary's loss before the training (whose weights are public) and after it.

    Args:
        subject: the model and its made-up data.
        plan: the plan of the run, under zero-out, for single examples.
        canaries: how many, at most the plan's units.
        confidence: of the lower bound.

    Raises:
        BadInputError: a plan without a public number of units, or more canaries than units.
    """
    from privacy_pipeline.dp.attacks.canaries import coin_flips, weighted_loss
    from privacy_pipeline.dp.training.engine import make_private

    began = time.perf_counter()
    units = _units(plan, canaries)
    random = np.random.default_rng()
    x = subject.rows(units)
    labels = random.integers(0, 2, (units, 1)).astype(np.float32)
    included = coin_flips(canaries)
    weights = np.ones((units, 1), np.float32)
    weights[:canaries, 0] = included
    model = subject.build()
    before = _losses(subject, model, x, labels, canaries)
    loss = weighted_loss(subject.loss)
    private = make_private(model, plan, optimizer=subject.optimizer(), loss=loss, history="public", remember=False)
    execution = private.fit(x, np.concatenate([labels, weights], axis=1))
    scores = before - _losses(subject, model, x, labels, canaries)
    return _result(
        "training",
        bound=bound_from_scores(scores, included, delta=plan.delta, confidence=confidence),
        plan=plan,
        event=execution.event,
        canaries=canaries,
        confidence=confidence,
        statement=_BLACK_BOX,
        began=began,
    )


def _units(plan: PrivacyPlan, canaries: int) -> int:
    if plan.units is None:
        raise BadInputError("a training audit needs a plan with a public number of units", fix="use zero-out")
    if plan.unit != "example":
        raise BadInputError(f"a training audit has canaries of one example, not of one {plan.unit}")
    if not 2 <= canaries <= plan.units:
        raise BadInputError(f"{canaries} canaries do not fit into {plan.units} units", fix="give 2 or more, and fewer")
    return plan.units


def _losses(subject: AuditedModel, model: Any, x: Any, labels: NDArray[np.float32], count: int) -> Any:
    """Return the losses of the first `count` rows, float64 [count]."""
    import tensorflow as tf

    rows = tf.nest.map_structure(lambda array: tf.convert_to_tensor(array[:count]), x)
    losses = subject.loss(tf.convert_to_tensor(labels[:count]), model(rows, training=False))
    return np.asarray(losses.numpy(), np.float64)
