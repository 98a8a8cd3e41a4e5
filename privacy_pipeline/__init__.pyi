from .api.check import check
from .api.configs import load_config
from .api.register import register
from .api.report import report
from .api.run import run
from .api.runs import runs
from .dp.plan import PrivacyPlan
from .dp.training.engine import make_private
from .ledger.ledger import Ledger
from .version import __version__

__all__ = [
    "Ledger",
    "PrivacyPlan",
    "__version__",
    "check",
    "load_config",
    "make_private",
    "register",
    "report",
    "run",
    "runs",
]
