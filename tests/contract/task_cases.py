"""What the contracts of the tasks share: which backends train, on which inputs, and what a private one owes."""

from __future__ import annotations

from pathlib import Path

from privacy_pipeline.backends import keras_io, listed
from privacy_pipeline.backends.base import Executed, TrainingInputs
from privacy_pipeline.config.models.pipeline import PipelineConfig
from privacy_pipeline.dp.rowwise.verdict import PROVEN
from tests.backends.conftest import Split
from tests.contract.test_backend_contract import ROWS, SECTIONS, backend_of, is_private

TRAINED = [name for name in SECTIONS if backend_of(name) != "encrypted"]
OFTEN = ("plain", "dp_sgd", "federated.private")


def inputs_of(config: PipelineConfig, split: Split, folder: Path) -> TrainingInputs:
    """Inputs under the plan of the config's backend."""
    return split.inputs(config, folder, plan=listed.load(config.training.backend).plan(config=config, units=ROWS))


def require_as_planned(name: str, inputs: TrainingInputs, executed: Executed) -> None:
    """What ran has an event where the backend claims a guarantee, and it is the planned one."""
    assert is_private(name) == (executed.event is not None)
    if inputs.plan is not None:
        assert executed.event == inputs.plan.event


def require_rows_apart(inputs: TrainingInputs) -> None:
    """The backend proves that no row reaches another one in training."""
    verdict = listed.load(inputs.config.training.backend).examine(
        config=inputs.config,
        features=inputs.features,
        plan=inputs.plan,
        specs=lambda: keras_io.input_specs(inputs.transform_graph),
    )
    assert verdict is not None and verdict.kind == PROVEN
