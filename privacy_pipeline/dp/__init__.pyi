from .checks.validator import Problem, validate
from .clipping.registry import register_rule
from .history.history import PrivacyHistory
from .history.saved_models import load_model, load_weights
from .plan import AdaptiveClipping, Clipping, Noise, PrivacyPlan, UserBound
from .sampling.store import ExampleStore
from .sampling.users import UserIndex
from .training.engine import make_private
from .training.execution import Execution
from .training.private_model import PrivateModel
from .training.run_state import RunState, StateMismatch, destroy_state, has_state

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
