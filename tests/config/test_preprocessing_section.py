"""The block `preprocessing`."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from tests.reports.records import make_config

BLOCK: dict[str, Any] = {"epsilon": 0.5, "delta": 1e-6}


def test_nothing_is_released_without_the_block() -> None:
    assert make_config().preprocessing.dp is None


def test_the_block() -> None:
    section = make_config(preprocessing={"dp": BLOCK}).preprocessing.dp
    assert section is not None and (section.epsilon, section.delta) == (0.5, 1e-6)


@pytest.mark.parametrize(
    "wrong", [{"epsilon": 0}, {"epsilon": -1}, {"delta": 0}, {"delta": 1}, {"share": 0.1}, {"epsilon": None}], ids=str
)
def test_numbers_out_of_range_and_unknown_keys_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=r"preprocessing\.dp"):
        make_config(preprocessing={"dp": {**BLOCK, **wrong}})


def test_a_plain_run_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"preprocessing\.dp goes with backend dp_sgd"):
        make_config("plain", preprocessing={"dp": BLOCK})
