"""User code of the stock pipeline: the same preprocessing, network and training as the plain backend's."""

from __future__ import annotations

from pathlib import Path

from privacy_pipeline.backends.base import TrainingInputs
from privacy_pipeline.backends.plain import PlainBackend
from privacy_pipeline.components.transform.preprocessing import preprocessing_fn  # noqa: F401 (TFX calls it)
from privacy_pipeline.config.models.pipeline import PipelineConfig
from privacy_pipeline.data.schema.features import FeaturePlan


def run_fn(fn_args) -> None:  # type: ignore[no-untyped-def]
    """Train; the stock Trainer calls it."""
    custom = fn_args.custom_config
    PlainBackend().train(
        TrainingInputs(
            train_files=tuple(fn_args.train_files),
            eval_files=tuple(fn_args.eval_files),
            transform_graph=Path(fn_args.transform_output),
            features=FeaturePlan.model_validate_json(custom["features"]),
            config=PipelineConfig.model_validate_json(custom["config"]),
            plan=None,
            work_dir=Path(fn_args.model_run_dir),
            model_dir=Path(fn_args.serving_model_dir),
            log_dir=Path(fn_args.model_run_dir),
            report_progress=lambda done, total, unit: None,
        )
    )
