"""The sums of a run's seconds by folder."""

from __future__ import annotations

import pytest

from tools.suite_time import by_folder

OUTPUT = """
============================= slowest durations ==============================
12.50s call     tests/dp/test_a.py::test_one[a b::c]
0.25s setup    tests/dp/test_b.py::TestKind::test_two
0.005s teardown tests/test_c.py::test_three
1.00s call of another kind
2 passed in 14.00s
"""


def test_seconds_are_summed_by_folder() -> None:
    found = by_folder(OUTPUT.splitlines())
    assert found == pytest.approx({"tests/dp": 12.75, "tests": 0.005})
