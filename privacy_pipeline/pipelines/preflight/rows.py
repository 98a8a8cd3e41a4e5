"""Examine a model's rows before a run, from config and schema alone. Imports TensorFlow only for that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from privacy_pipeline import backends
from privacy_pipeline.backends import registry
from privacy_pipeline.backends.models import user_code
from privacy_pipeline.config.models.pipeline import PipelineConfig

if TYPE_CHECKING:
    from privacy_pipeline.backends.models.tabular import InputSpec
    from privacy_pipeline.data.schema.features import FeaturePlan
    from privacy_pipeline.dp.rowwise.verdict import Verdict
    from privacy_pipeline.pipelines.preflight.checked import Checked


@dataclass(frozen=True)
class Examined:
    """The result of the examination.

    Attributes:
        verdict: what is proven; None where nothing is clipped by the example, or for the reason in `later`.
        later: why the model can be examined only when the run starts; empty where it was examined.
    """

    verdict: Verdict | None
    later: str = ""

    def __str__(self) -> str:
        """One line; empty where there is nothing to report."""
        if self.later:
            return f"examples stay apart: examined when the run starts, before any budget is reserved; {self.later}"
        return "" if self.verdict is None else str(self.verdict)

    def to_json(self) -> dict[str, Any] | None:
        """Return plain values for scripts."""
        if self.later:
            from privacy_pipeline.dp.rowwise.verdict import NOT_EXAMINED

            return {**NOT_EXAMINED.to_json(), "later": self.later}
        return None if self.verdict is None else self.verdict.to_json()


def examine(config: PipelineConfig, checked: Checked) -> Examined:
    """Build and trace the model of a config, where that is possible without data.

    Args:
        config: the config.
        checked: what `preflight.check` found for it.

    Raises:
        BadInputError: an example of the model reaches another one, or the model cannot be trained privately.
    """
    features, plan = checked.features, checked.plan
    if plan is None:
        _build(config, features)
        return Examined(None)
    if features is None:
        return Examined(None, "the columns are known only then")
    if config.preprocessing.dp is not None and features.unknown:
        return Examined(None, f"DP statistics fill in {', '.join(features.unknown)} first")
    if not _is_framework_preprocessing(config.model.use):
        return Examined(None, "what your preprocessing_fn makes is known only then")
    backend = registry.of(config)
    return Examined(backend.examine(config=config, features=features, plan=plan, specs=lambda: _specs(features)))


def _build(config: PipelineConfig, features: FeaturePlan | None) -> None:
    """Build a user's model that needs no proof, where its inputs are known."""
    known = features is not None and _is_framework_preprocessing(config.model.use)
    if features is None or not known or user_code.BUILD not in user_code.defined_by(config.model.use):
        return
    backends.keras_io.model_of(config, features=features, specs=_specs(features))


def _is_framework_preprocessing(use: str) -> bool:
    return user_code.preprocessing_of(use) == user_code.FRAMEWORK_PREPROCESSING


def _specs(features: FeaturePlan) -> Mapping[str, InputSpec]:
    """Return what the framework's `preprocessing_fn` makes of these columns."""
    from privacy_pipeline.backends.models.tabular import InputSpec
    from privacy_pipeline.data.schema.encoded import FEATURES, width_of

    width = sum(width_of(column) for column in features.columns)
    return {FEATURES: InputSpec(shape=(width,), dtype="float32")}
