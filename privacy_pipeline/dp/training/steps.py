"""The steps of a private training, one by one: what `PrivateModel.fit` and the silos of a federation both make."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from privacy_pipeline.dp.clipping.groups import make_groups
from privacy_pipeline.dp.graphs.randomness import RunKey
from privacy_pipeline.dp.graphs.tracing import ran
from privacy_pipeline.dp.plan import PrivacyPlan
from privacy_pipeline.dp.sampling.feeding import Batch, Participation, Reader
from privacy_pipeline.dp.sampling.store import ExampleStore
from privacy_pipeline.dp.training.choice import Clipper, choose_clipper
from privacy_pipeline.dp.training.from_keras.keras_step import build_optimizer
from privacy_pipeline.dp.training.program import Program, specs_of

Losses = Callable[[Any, Any, bool], Any]


def clipper_of(*, model: Any, losses: Losses, plan: PrivacyPlan, x: Any, y: Any, memory_cap: int) -> Clipper:
    """Return what clips the units of a plan; data of the same shapes can share it.

    Args:
        model: built Keras model.
        losses: (inputs, labels, training) to the loss of each example, [batch].
        plan: the plan.
        x: nest of `tf.TensorSpec` of the inputs; no data is looked at.
        y: nest of `tf.TensorSpec` of the labels.
        memory_cap: bytes for per-example gradients of layers without a clipping rule.

    Raises:
        BadInputError: examples are not independent, or the model keeps state.
    """
    clipping, users = plan.clipping, plan.users
    norm = clipping.norm if users is None else users.norm(clipping.norm)
    return choose_clipper(
        model=model,
        losses=losses,
        groups=make_groups(model, model.trainable_variables, norm=norm, per_layer=clipping.per_layer),
        x=x,
        y=y,
        memory_cap=memory_cap,
        rows=1 if users is None else users.rows,
    )


def program_of(
    *, model: Any, clipper: Clipper, optimizer: Any, plan: PrivacyPlan, store: ExampleStore, largest: int, norm: Any
) -> Program:
    """Return the compiled steps of a plan, which move the model's trainable variables; see `Program`."""
    x, y = specs_of(store)
    variables = model.trainable_variables
    build_optimizer(optimizer, variables)
    return Program(
        model=model,
        clipper=clipper,
        variables=variables,
        optimizer=optimizer,
        plan=plan,
        x=x,
        y=y,
        largest=largest,
        norm=norm,
    )


@dataclass(frozen=True)
class PrivateSteps:
    """Steps of a plan under a key: samples and noise of each are a function of both and of the step's number.

    Attributes:
        program: makes a step.
        reader: draws its batch and its noise.
        watcher: counts who took part.
    """

    program: Program
    reader: Reader
    watcher: Participation

    @classmethod
    def of(cls, *, program: Program, plan: PrivacyPlan, store: ExampleStore, key: RunKey, model: Any) -> PrivateSteps:
        """Return the steps of a plan.

        Raises:
            BadInputError: the data does not hold the plan's number of units, or does not state whose an example is.
            PipelineError: the step's graph is not the one that was proven.
        """
        shapes = [tuple(variable.shape) for variable in model.trainable_variables]
        program.require_as_proven()
        reader = Reader.of(plan, store, key, shapes)
        return cls(program, reader, Participation(plan, reader.sampler.units))

    def make(self, step: int, batch: Batch) -> None:
        """Make a step.

        Raises:
            PipelineError: a unit is used more often than is accounted for; or an op does not take the data's values,
                whose own message, which may show them, is not passed on.
        """
        self.watcher.observe(step, batch.index)
        given = batch.x, batch.y, batch.present, batch.noise, batch.seed
        ran(lambda: self.program.run(*given), where=f"step {step + 1}")

    def run(self, steps: range) -> None:
        """Make some steps, in order.

        Raises:
            BadInputError: the plan has no such step.
        """
        for step, batch in self.reader.from_step(steps.start, until=steps.stop):
            self.make(step, batch)
