"""The budget ledger: what each registered dataset may spend over all runs, and the signed journal of what it spent.

    ledger = Ledger.open("sqlite:///ledger/ledger.db")
    ledger.status()

Names load on first use (`__init__.pyi` lists them).
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
