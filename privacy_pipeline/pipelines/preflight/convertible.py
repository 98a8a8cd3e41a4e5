"""Check before any data is read whether the config's model can be converted for private prediction."""

from __future__ import annotations

from privacy_pipeline.backends.models import user_code
from privacy_pipeline.config.models.pipeline import PipelineConfig
from privacy_pipeline.data.schema.encoded import FEATURES, width_of
from privacy_pipeline.data.schema.features import FeaturePlan
from privacy_pipeline.encrypted.evaluation import evaluation
from privacy_pipeline.encrypted.sandbox import environment
from privacy_pipeline.errors import BadInputError


def require_convertible(config: PipelineConfig, features: FeaturePlan | None) -> None:
    """Refuse a config of the encrypted backend that could not be evaluated privately after its training.

    Where only your own `preprocessing_fn` determines the model's inputs, the trainer checks it before it reads data.

    Args:
        config: a config with `training.encrypted`.
        features: the columns; None where the schema is inferred.

    Raises:
        BadInputError: a layer cannot be converted, the environment is not set up, or no way to
            evaluate privately is stated or usable.
    """
    section = config.training.encrypted
    if section is None:
        return
    evaluation.require_way(section)
    if config.evaluation.dp is not None:
        raise BadInputError(
            "evaluation.dp: private predictions are compared with plain ones exactly, which its budget does not cover",
            fix="remove evaluation.dp, or train with another backend",
        )
    environment.interpreter()
    if config.model.use == user_code.TABULAR or features is None:
        return  # Dense and ReLU alone
    _convert(config, features)


def _convert(config: PipelineConfig, features: FeaturePlan) -> None:
    if user_code.preprocessing_of(config.model.use) != user_code.FRAMEWORK_PREPROCESSING:
        return
    from privacy_pipeline.backends import encrypted, keras_io
    from privacy_pipeline.backends.models.tabular import InputSpec

    specs = {FEATURES: InputSpec(shape=(sum(map(width_of, features.columns)),), dtype="float32")}
    encrypted.rehearse(keras_io.model_of(config, features=features, specs=specs), config, features)
