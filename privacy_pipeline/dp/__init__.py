"""The DP-SGD engine: plan, sampler, clipping, noise, validator and a Keras-like trainer.

    plan = PrivacyPlan.calibrated(units=60_000, expected_batch_size=256, epochs=15, epsilon=1.0, delta=1e-5,
                                  clipping_norm=1.0)
    private = make_private(model, plan, optimizer="adam", loss="sparse_categorical_crossentropy")
    execution = private.fit(x, y)

Names load on first use: a plan can be made, and its epsilon read, without TensorFlow.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from privacy_pipeline.dp.checks.validator import Problem, validate
    from privacy_pipeline.dp.clipping.registry import register_rule
    from privacy_pipeline.dp.history.history import PrivacyHistory
    from privacy_pipeline.dp.history.saved_models import load_model, load_weights
    from privacy_pipeline.dp.plan import AdaptiveClipping, Clipping, Noise, PrivacyPlan, UserBound
    from privacy_pipeline.dp.sampling.store import ExampleStore
    from privacy_pipeline.dp.sampling.users import UserIndex
    from privacy_pipeline.dp.training.engine import make_private
    from privacy_pipeline.dp.training.execution import Execution
    from privacy_pipeline.dp.training.private_model import PrivateModel
    from privacy_pipeline.dp.training.run_state import RunState, StateMismatch, destroy_state, has_state

__all__ = [
    "AdaptiveClipping",
    "Clipping",
    "ExampleStore",
    "Execution",
    "Noise",
    "PrivacyHistory",
    "PrivacyPlan",
    "PrivateModel",
    "Problem",
    "RunState",
    "StateMismatch",
    "UserBound",
    "UserIndex",
    "destroy_state",
    "has_state",
    "load_model",
    "load_weights",
    "make_private",
    "register_rule",
    "validate",
]

_HOME = {
    "AdaptiveClipping": "plan",
    "Clipping": "plan",
    "ExampleStore": "sampling.store",
    "Execution": "training.execution",
    "Noise": "plan",
    "PrivacyHistory": "history.history",
    "PrivacyPlan": "plan",
    "PrivateModel": "training.private_model",
    "Problem": "checks.validator",
    "RunState": "training.run_state",
    "StateMismatch": "training.run_state",
    "UserBound": "plan",
    "UserIndex": "sampling.users",
    "destroy_state": "training.run_state",
    "has_state": "training.run_state",
    "load_model": "history.saved_models",
    "load_weights": "history.saved_models",
    "make_private": "training.engine",
    "register_rule": "clipping.registry",
    "validate": "checks.validator",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
