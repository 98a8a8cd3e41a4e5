from .audit.receipts import read_receipts
from .audit.records import JournalRecord
from .audit.verify import Verification
from .charging.grants import Grant, ResumeToken
from .charging.shares import ShareStatus
from .charging.unprotected import UnprotectedRun
from .ledger import Ledger
from .state.entries import Budgets, BudgetStatus, Entry, Forecast, State
from .state.policy import Policy, load_policy
from .state.registration import Division, Registration, SplitCount
from .storage.journal import Receipt
from .storage.schema import LedgerError

__all__ = [
    "BudgetStatus",
    "Budgets",
    "Division",
    "Entry",
    "Forecast",
    "Grant",
    "JournalRecord",
    "Ledger",
    "LedgerError",
    "Policy",
    "Receipt",
    "Registration",
    "ResumeToken",
    "ShareStatus",
    "SplitCount",
    "State",
    "UnprotectedRun",
    "Verification",
    "load_policy",
    "read_receipts",
]
