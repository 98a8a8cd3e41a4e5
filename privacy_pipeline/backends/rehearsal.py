"""What a training needs beside its result, tried before its charge: rows, model, signatures, conversion, room.

Each of these would fail after the training too, when its budget is spent. Nothing is computed from a row here but
whether it can be parsed, and nothing of it is kept.
"""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from federated.privacy.distributed_noise import require_dimension
from federated.silos.records import stated
from privacy_pipeline import backends
from privacy_pipeline.backends import encrypted, tuning
from privacy_pipeline.backends.base import TrainingInputs
from privacy_pipeline.backends.simulation import federated_silos
from privacy_pipeline.config.models.dataset import KeyedUnit
from privacy_pipeline.config.models.pipeline import PipelineConfig
from privacy_pipeline.errors import BadInputError
from privacy_pipeline.files.atomic import require_room
from privacy_pipeline.tasks import registry as tasks

if TYPE_CHECKING:
    from privacy_pipeline.backends.example_data import Owners

_COPIES = 6  # of a model: the artifact's own, the pushed artifact's, the pushed one, checkpoints of the training
_BESIDE = 32 << 20  # bytes for logs, curves and evaluations


def rehearse(inputs: TrainingInputs) -> None:
    """Try all that a training with a guarantee needs, and that can be tried without its result.

    Args:
        inputs: what it would train on; their `plan` plays no part.

    Raises:
        BadInputError: a split has no rows or a row that cannot be used, the silos are not those that are stated, the
            model cannot be built, saved, served or converted, it does not fit into an encoding, or the disk is full.
    """
    inputs = dataclasses.replace(inputs, config=_of_one_trial(inputs.config))
    inputs.work_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=inputs.work_dir) as folder:
        size = _saved(dataclasses.replace(inputs, model_dir=Path(folder) / "model"))
    require_room(inputs.model_dir.parent, _COPIES * size + _BESIDE, fix="free space on the disk of `workspace`")
    _read_all(inputs)


def _of_one_trial(config: PipelineConfig) -> PipelineConfig:
    """Return the config itself, or that of the first trial of a tuning; the others are examined by their backend."""
    if config.training.tuning is None:
        return config
    return tuning.at_point(config, tuning.tuning_of(config).space.points()[0])


def _saved(inputs: TrainingInputs) -> int:
    """Save an untrained model as a trained one would be, and give its bytes on disk."""
    model = backends.keras_io.build_model(inputs, trained=False)
    _require_encodable(inputs.config, model)
    backends.keras_io.save_model(
        model, transform_graph=inputs.transform_graph, features=inputs.features, model_dir=inputs.model_dir
    )
    if inputs.config.training.encrypted is not None:
        encrypted.add_private_model(inputs)
    return sum(path.stat().st_size for path in inputs.model_dir.rglob("*") if path.is_file())


def _require_encodable(config: PipelineConfig, model: Any) -> None:
    """Refuse a model with more weights than distributed noise is accounted for.

    Raises:
        BadInputError: it has more.
    """
    section = config.training.federated
    if section is None or section.privacy is None or section.privacy.distributed is None:
        return
    from privacy_pipeline.backends.simulation.federated_rounds import as_federated

    require_dimension(
        section.privacy.distributed.dimension, weights=as_federated(model, tasks.of(config.dataset)).parameters
    )


def _read_all(inputs: TrainingInputs) -> None:
    """Read both splits as the training would, each as a whole.

    Raises:
        BadInputError: a split has no rows, or a row lacks its label, key or silo; or the silos are others than stated.
    """
    from privacy_pipeline.backends.example_data import read_through

    graph, silos = inputs.transform_graph, inputs.config.training.silo_column is not None
    classes = inputs.features.classes
    keyed = isinstance(inputs.config.dataset.privacy_unit, KeyedUnit)
    trained = read_through(inputs.train_files, transform_graph=graph, keyed=keyed, classes=classes, silos=silos)
    if silos:
        _require_silos(inputs.config, trained)
    read_through(inputs.eval_files, transform_graph=graph, keyed=False, classes=classes)


def _require_silos(config: PipelineConfig, found: Owners) -> None:
    import numpy as np

    section = federated_silos.section_of(config)
    names = np.asarray(found.silos)
    owners = np.arange(found.rows) if found.owners is None else found.owners
    counted = {str(name): int(np.unique(owners[names == name]).size) for name in np.unique(names)}
    if counted != section.silos:
        raise BadInputError(
            "training.federated.silo_privacy.silos: these are not the numbers of units in the training split; nothing "
            "was charged",
            fix=f"silos: {stated(counted)}",
        )
