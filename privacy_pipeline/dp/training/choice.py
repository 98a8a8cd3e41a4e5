"""Choose how a model's per-example gradients are clipped, by what is proven of its rows.

Proven rows take the fast way. A layer, or a loss, with an op that no rule covers runs on one example at a time. A model
that mixes rows is refused: trained on single examples it would not be the model that is served in batches.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import tensorflow as tf

from privacy_pipeline.dp.checks.made_up import Kind, MadeUp
from privacy_pipeline.dp.checks.probe import Probe
from privacy_pipeline.dp.clipping.fallback import NeedsWholeModelError
from privacy_pipeline.dp.clipping.gradients import BookKeeping, Losses, Vectorised
from privacy_pipeline.dp.clipping.groups import Groups
from privacy_pipeline.dp.clipping.intercept import warn_of_fallback
from privacy_pipeline.dp.graphs.graph_state import require_stateless
from privacy_pipeline.dp.graphs.tracing import Traced
from privacy_pipeline.dp.noise.masks import keyed_masks
from privacy_pipeline.dp.rowwise.owners import LOSS, Owners, refusal
from privacy_pipeline.dp.rowwise.proof import Proof, note_targets, prove, targets_of
from privacy_pipeline.dp.rowwise.values import Offence
from privacy_pipeline.dp.rowwise.verdict import NOT_PROVEN, PROVEN, WHOLE_MODEL, SlowPart, Verdict
from privacy_pipeline.dp.training.from_keras.model_losses import ModelLosses
from privacy_pipeline.errors import BadInputError, PipelineError

Clipper = BookKeeping | Vectorised
_MOST_TRIES = 6
_TIMED_ROWS, _TIMED_STEPS = 64, 3


def choose_clipper(
    *, model: Any, losses: Losses, groups: Groups, x: Any, y: Any, memory_cap: int, rows: int = 1
) -> Clipper:
    """Return what clips the units of a model, with the verdict on its rows; see the attribute `verdict` of the result.

    Args:
        model: built model.
        losses: gives the loss of each example.
        groups: clipping groups.
        x, y: nests of `tf.TensorSpec` of the inputs, and of the labels.
        memory_cap: bytes for per-example gradients where they are formed by the fallback.
        rows: examples of a unit, which are clipped as one.

    Raises:
        BadInputError: examples are not independent, or the model keeps state.
    """
    choice = _Choice(
        model=model,
        losses=losses,
        groups=groups,
        x=x,
        y=y,
        memory_cap=memory_cap,
        rows=rows,
        probe=Probe(model=model, losses=losses, x=x, y=y),
    )
    return choice.made()


@dataclass(frozen=True, kw_only=True)
class _Choice:
    """See `choose_clipper`."""

    model: Any
    losses: Losses
    groups: Groups
    x: Any
    y: Any
    memory_cap: int
    rows: int
    probe: Probe
    probed: list[bool] = field(default_factory=list)  # grows when the probe has run

    def made(self) -> Clipper:
        self.probe.require_no_state()
        kept, reason = self._by_layers()
        if kept is None:
            self._refuse_mixing_forward()
        self._refuse_shown_mixing()
        variables = self.model.trainable_variables
        if kept is not None:
            wrong = self._disagreement(*kept)
            if wrong is None:
                for layer in kept[0].targets.slow:
                    warn_of_fallback(f"layer {layer}", "it has no clipping rule")
                return kept[0]
            reason = wrong
        warn_of_fallback(f"model '{self.model.name}'", reason)
        return self._whole_model(reason, variables)

    def _by_layers(self) -> tuple[tuple[BookKeeping, Traced] | None, str]:
        """Return book-keeping and what was traced of it, or why the model's layers do not allow it."""
        try:
            return self._kept_apart(), ""
        except NeedsWholeModelError as error:
            return None, str(error)

    def _disagreement(self, keeping: BookKeeping, trained: Traced) -> str | None:
        """Return why book-keeping is not right for the model; None if it is."""
        try:
            wrong = self.probe.disagreement(keeping, self.model.trainable_variables, trained=trained)
        except NeedsWholeModelError as error:
            return str(error)
        return None if wrong is None else f"'{wrong}' is used in a way that its layer's rule does not cover"

    def _refuse_mixing_forward(self) -> None:
        """Trace the forward pass alone, of a model whose layers do not allow book-keeping."""

        def run(x: Any, y: Any, present: Any, seed: Any) -> Any:
            with keyed_masks(self.model, seed):
                losses = self.losses(x, y, True)
            note_targets([losses])
            return losses

        self._refuse(self._proof(run))

    def _refuse(self, proof: Proof) -> None:
        if proof.mixing:
            message, fix = refusal(self.model, proof.mixing[0])
            raise BadInputError(message, fix=fix)

    def _refuse_shown_mixing(self, offence: Offence | None = None) -> None:
        """Refuse a model that the probe shows to mix; `offence` is what kept it from being proven."""
        if self.probed:
            return
        self.probed.append(True)
        found = self.probe.finding()
        if found is not None:
            op = (
                ""
                if offence is None
                else f"; no rule shows that op '{offence.op}' ({offence.type}) keeps examples apart"
            )
            raise BadInputError(f"{found.reason}{op}", fix=found.fix)

    def _traced(self, function: Any) -> Traced:
        present, seed = tf.TensorSpec([None], tf.bool), tf.TensorSpec([2], tf.int64)
        return Traced(function, self.x, self.y, present, seed)

    def _proof(self, function: Any) -> Proof:
        return self._proof_of(self._traced(function))

    def _proof_of(self, traced: Traced) -> Proof:
        # Code may look at the size of a batch: what runs row by row is looked at as it runs.
        require_stateless(traced.concrete.graph, model=self.model, part="its private step")
        return proof_of(traced.concrete.graph, x=self.x, y=self.y, unit=self.rows)

    def _kept_apart(self) -> tuple[BookKeeping, Traced]:
        """Return book-keeping that runs every unproven part on one example at a time, and what was traced.

        Raises:
            NeedsWholeModelError: the part that is not proven is the whole model.
            BadInputError: a rule shows that rows are mixed.
        """
        owners, slow = Owners(self.model), dict[str, SlowPart]()
        isolated: frozenset[int] = frozenset()
        losses: Any = self.losses
        for _ in range(_MOST_TRIES):
            keeping = self._keeping(losses, isolated)
            traced = self._traced(self._results_of(keeping))
            proof = self._proof_of(traced)
            self._refuse(proof)
            if proof.proven:
                try:
                    keeping.verdict = self._verdict(proof, slow, keeping)
                except tf.errors.InvalidArgumentError:
                    raise NeedsWholeModelError("a layer without a rule makes several rows of one") from None
                return keeping, traced
            self._refuse_shown_mixing(proof.offences[0])
            found = {owners.of(offence.op): offence for offence in reversed(proof.offences)}
            new = {owner: one for owner, one in found.items() if owner is not None and owner.name not in slow}
            if not new or None in found:
                raise NeedsWholeModelError(_reason(found.get(None, proof.offences[0])))
            for owner, offence in new.items():
                slow[owner.name] = _slow_part(owner.name, offence)
                if owner is LOSS:
                    if not isinstance(losses, ModelLosses):
                        raise NeedsWholeModelError(_reason(offence))
                    losses = losses.isolated()
                else:
                    isolated |= {id(owner.layer)}
        raise NeedsWholeModelError(_reason(proof.offences[0]))

    def _keeping(self, losses: Losses, isolated: frozenset[int]) -> BookKeeping:
        return BookKeeping(
            model=self.model,
            losses=losses,
            variables=self.model.trainable_variables,
            groups=self.groups,
            memory_cap=self.memory_cap,
            rows=self.rows,
            isolated=isolated,
        )

    def _results_of(self, keeping: BookKeeping) -> Any:
        def run(x: Any, y: Any, present: Any, seed: Any) -> Any:
            with keyed_masks(self.model, seed):
                return keeping.norms_and_sums(x, y, training=True, present=present)

        return run

    def _norms_of(self, clipper: Clipper) -> Any:
        def run(x: Any, y: Any, present: Any, seed: Any) -> Any:
            with keyed_masks(self.model, seed):
                return clipper.squared_norms(x, y, training=True, present=present)

        return run

    def _whole_model(self, reason: str, variables: Sequence[Any]) -> Vectorised:
        """Return gradients of the whole model for each unit, vectorised where that is proven and right."""

        def whole(one_by_one: bool) -> Vectorised:
            return Vectorised(
                losses=self.losses,
                variables=variables,
                groups=self.groups,
                memory_cap=self.memory_cap,
                rows=self.rows,
                one_by_one=one_by_one,
            )

        clipper = whole(False)
        proof = self._proof(self._norms_of(clipper))
        if proof.proven and self.probe.vectorises(clipper, variables):
            clipper.verdict = Verdict(kind=PROVEN, vectorised=True, ops=proof.ops)
            return clipper
        clipper = whole(True)
        part = SlowPart(name=WHOLE_MODEL, op="", reason=reason)
        clipper.verdict = Verdict(kind=NOT_PROVEN, slow=(part,))
        self._require_no_leak(clipper)
        return clipper

    def _require_no_leak(self, clipper: Vectorised) -> None:
        """One unit at a time is apart by construction, unless the model's code reaches for a tensor of the batch."""
        proof = self._proof(self._norms_of(clipper))
        if not proof.proven:
            raise BadInputError(
                f"model '{self.model.name}': its code reaches for the whole batch from the pass of one example",
                fix="compute each example's loss from the arguments of the layer's `call` alone",
            )

    def _verdict(self, proof: Proof, slow: dict[str, SlowPart], keeping: BookKeeping) -> Verdict:
        if not slow:
            return Verdict(kind=PROVEN, ops=proof.ops)
        verdict = Verdict(kind=NOT_PROVEN, slow=tuple(slow.values()), ops=proof.ops)
        fast = self._seconds(self._keeping(self.losses, frozenset()))
        verdict = replace(verdict, times_slower=max(1.0, self._seconds(keeping) / fast))
        warn_of_fallback(f"model '{self.model.name}'", str(verdict))
        return verdict

    def _seconds(self, keeping: BookKeeping) -> float:
        """Return the seconds that the norms of some made-up examples take."""
        count = -(-_TIMED_ROWS // self.rows) * self.rows
        made = MadeUp(model=self.model, x=self.x, y=self.y)
        x, y = made.batch([made.row(number, Kind()) for number in range(count)])
        arguments = (x, y, tf.ones([count], tf.bool), tf.constant([1, 2], tf.int64))
        run = self._traced(self._norms_of(keeping))
        run(*arguments)
        taken = []
        for _ in range(_TIMED_STEPS):
            start = time.perf_counter()
            run(*arguments)
            taken.append(time.perf_counter() - start)
        return min(taken)


def _reason(offence: Offence) -> str:
    return f"op '{offence.op}' ({offence.type}): {offence.reason}"


def _slow_part(name: str, offence: Offence) -> SlowPart:
    return SlowPart(name=name, op=f"'{offence.op}' ({offence.type})", reason=offence.reason)


def proof_of(graph: Any, *, x: Any, y: Any, unit: int) -> Proof:
    """Return the proof of the tensors that were noted in a graph, whose first inputs are a batch: x, y and what is
    present.
    """
    batch = graph.inputs[: len(tf.nest.flatten((x, y))) + 1]
    return prove(graph, batch=batch, targets=targets_of(graph), unit=unit)


def require_as_proven(graph: Any, clipper: Clipper, *, x: Any, y: Any) -> None:
    """Check the graph that runs against what was proven of the graph that was examined.

    Raises:
        PipelineError: code of the model computes something else each time it is traced.
    """
    targets: Sequence[Any] = targets_of(graph)
    if targets and not proof_of(graph, x=x, y=y, unit=clipper.rows).proven:
        raise PipelineError(
            "the graph of a step is not the one that was proven to keep examples apart",
            fix="let layers and losses compute the same whenever they are called",
        )
