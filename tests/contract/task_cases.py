"""What the contracts of the tasks share: the inputs of a backend, of a config and a split."""

from __future__ import annotations

from pathlib import Path

from privacy_pipeline.backends import listed
from privacy_pipeline.backends.base import TrainingInputs
from privacy_pipeline.config.models.pipeline import PipelineConfig
from tests.backends.conftest import Split
from tests.contract.test_backend_contract import ROWS, SECTIONS, backend_of

TRAINED = [name for name in SECTIONS if backend_of(name) != "encrypted"]
OFTEN = ("plain", "dp_sgd", "federated.private")


def inputs_of(config: PipelineConfig, split: Split, folder: Path) -> TrainingInputs:
    """Inputs that train on a split, and watch it."""
    return TrainingInputs(
        train_files=split.files,
        eval_files=split.files,
        transform_graph=split.transform_graph,
        features=split.features,
        config=config,
        plan=listed.load(config.training.backend).plan(config=config, units=ROWS),
        work_dir=folder / "work",
        model_dir=folder / "model",
        log_dir=folder / "logs",
        report_progress=lambda done, total, unit: None,
    )
