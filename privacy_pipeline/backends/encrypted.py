"""The encrypted backend: another backend trains, and its model is converted for private prediction.

The converted network lies in the SavedModel's folder for further files, so that it is pushed and served with it; beside
it lies what clients need, without any weight.
"""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from privacy_pipeline import backends
from privacy_pipeline.backends.base import Audits, Backend, Executed, Specs, TrainingInputs
from privacy_pipeline.backends.models import user_code
from privacy_pipeline.config.models.pipeline import PipelineConfig
from privacy_pipeline.data.schema.encoded import FEATURES, range_of

if TYPE_CHECKING:
    from privacy_pipeline.accounting.plan import MechanismPlan
    from privacy_pipeline.data.schema.features import FeaturePlan
    from privacy_pipeline.dp.rowwise.verdict import Verdict
    from privacy_pipeline.encrypted.model.model_format import PrivateModel

# The SavedModel format leaves this folder to the program that saves one; its loader does not read it.
PRIVATE_MODEL = Path("assets.extra") / "private_model"
PUBLISHED = Path("assets.extra") / "published"


class EncryptedBackend:
    """Trains with `training.encrypted.train_with`, and converts."""

    name = "encrypted"

    def plan(self, *, config: PipelineConfig, units: int | None) -> MechanismPlan | None:
        """Return the mechanism of the backend that trains: encryption adds no guarantee of its own.

        Raises:
            BadInputError: as that backend does.
        """
        return _trainer(config).plan(config=config, units=units)

    def examine(
        self, *, config: PipelineConfig, features: FeaturePlan, plan: MechanismPlan, specs: Specs
    ) -> Verdict | None:
        """Return what the backend that trains finds; and the model can be converted, before anything is charged.

        Raises:
            BadInputError: a layer cannot be converted; else as that backend does.
        """
        rehearse(backends.keras_io.model_of(config, features=features, specs=specs()), config, features)
        return _trainer(config).examine(config=config, features=features, plan=plan, specs=specs)

    def verify(self, inputs: TrainingInputs) -> Audits:
        """Return what the backend that trains finds.

        Raises:
            PipelineError: as that backend does.
        """
        return _trainer(inputs.config).verify(inputs)

    def train(self, inputs: TrainingInputs) -> Executed:
        """Train, convert the trained model and write both below `inputs.model_dir`.

        Raises:
            BadInputError: a layer cannot be converted (before any data is read); else as the backend that trains does.
        """
        trainer = _trainer(inputs.config)
        claims = inputs.config.training.claims_guarantee
        if inputs.plan is not None or not claims:  # else the trainer refuses to go on without a plan
            rehearse(backends.keras_io.build_model(inputs, trained=False), inputs.config, inputs.features)
        executed = trainer.train(inputs)
        private = add_private_model(inputs)
        return dataclasses.replace(executed, inference_error=private.logit_error)


def converted(model: Any, config: PipelineConfig, features: FeaturePlan) -> PrivateModel:
    """Return the network for the parties, within the ranges of the features that the schema allows.

    Args:
        model: the Keras model.
        config: states what makes its inputs, and how large one may be where that is your own code.
        features: the columns and their public domains.

    Raises:
        BadInputError: a layer cannot be converted, or reaches what no scale holds.
    """
    from privacy_pipeline.encrypted.model.conversion.convert import convert

    section = config.training.encrypted
    if section is None:
        raise ValueError("the config has no training.encrypted")
    own = user_code.preprocessing_of(config.model.use) != user_code.FRAMEWORK_PREPROCESSING
    known = {} if own or config.dataset.schema_path == "infer" else {FEATURES: range_of(features.columns)}
    return convert(model, ranges=known, others=section.input_range)


def rehearse(model: Any, config: PipelineConfig, features: FeaturePlan) -> None:
    """Convert a model that is not trained as it would be after its training: saved, and read again.

    Raises:
        BadInputError: as `converted`.
    """
    converted(model, config, features)
    with tempfile.TemporaryDirectory(prefix="privacy-pipeline-") as folder:
        model.save(folder, include_optimizer=False)
        converted(load_trained(Path(folder)), config, features)


def add_private_model(inputs: TrainingInputs) -> PrivateModel:
    """Convert the SavedModel below `inputs.model_dir`, and write what servers and clients need beside it.

    Raises:
        BadInputError: a layer cannot be converted, or reaches what no scale holds.
    """
    from privacy_pipeline.encrypted.model import model_format, published

    private = converted(load_trained(inputs.model_dir), inputs.config, inputs.features)
    model_format.save(private, inputs.model_dir / PRIVATE_MODEL)
    published.publish(
        private_model=inputs.model_dir / PRIVATE_MODEL,
        features=inputs.features,
        transform_graph=inputs.transform_graph,
        folder=inputs.model_dir / PUBLISHED,
    )
    return private


def load_trained(model_dir: Path) -> Any:
    """Return the Keras model inside a SavedModel that a backend wrote."""
    import tensorflow as tf

    return tf.keras.models.load_model(str(model_dir), compile=False)


def _trainer(config: PipelineConfig) -> Backend:
    from privacy_pipeline.backends import listed

    return listed.load(config.training.trainer)
