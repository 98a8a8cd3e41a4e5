"""Imported where children of tests are forked from: what each of them would import and compute anew."""

from __future__ import annotations

import pytest  # noqa: F401

from privacy_pipeline.ledger.state.entries import price
from tests.ledger.conftest import make_plan

for noise in (5.0, 50.0):
    price(make_plan(noise).event, make_plan(noise).relation)
