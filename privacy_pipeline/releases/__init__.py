"""Noisy counts, sums, means, ranges and vocabularies of one split, under one budget.

    release = plan_release([Counts(...), Moments(...)], ...)    # the noise, and what is charged
    answers = release.noised(sums)                              # each call is a release, and costs the plan's event

Names load on first use (`__init__.pyi` lists them).
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
