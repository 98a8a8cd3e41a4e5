"""A slice of the slow tests: as many as fit a time, in an order that the date decides (`make test-slow-slice`).

    python -m pytest -p tests.slow_slice --slice-seconds 1200 -m slow tests

A test that states a `timeout` longer than the whole slice is left to `make test-slow`. One that has not ended at the
limit is reported as skipped: whether it passes remains open. A failing one fails the run.
"""

from __future__ import annotations

import datetime
import hashlib
import time
from collections.abc import Iterator

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("slice of the slow tests")
    group.addoption("--slice-seconds", type=float, required=True, help="seconds until no further test starts")
    today = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    group.addoption("--slice-date", default=today, help="the date that decides the order; default: today (UTC)")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Slice(date=config.getoption("slice_date"), seconds=config.getoption("slice_seconds")))


class Slice:
    """The tests of one date, and the time that they have; it counts from the start, with the collection."""

    def __init__(self, *, date: str, seconds: float) -> None:
        self._date, self._seconds = date, seconds
        self._end = time.monotonic() + seconds
        self._cut: set[str] = set()
        self._ran: list[str] = []
        self._found = 0

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Order the slow tests by the hash of date and name, and leave those out that no slice can promise to end."""
        slow = [item for item in items if item.get_closest_marker("slow")]
        self._found = len(slow)
        items[:] = sorted((item for item in slow if _stated(item, 0.0) <= self._seconds), key=self._place)

    def _place(self, item: pytest.Item) -> str:
        return hashlib.sha256(f"{self._date} {item.nodeid}".encode()).hexdigest()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> bool | None:
        """Start a test while there is time, and end it at the limit."""
        left = self._end - time.monotonic()
        if left <= 0:
            return True
        self._ran.append(item.nodeid)
        if left < _stated(item, float(item.config.getini("timeout") or "inf")):
            self._cut.add(item.nodeid)
            item.add_marker(pytest.mark.timeout(left), append=False)
        return None

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Iterator[None]:  # pluggy sends the report
        """Report a test that the limit ended as skipped."""
        report = yield
        ended = item.nodeid in self._cut and time.monotonic() >= self._end
        if ended and report.failed and call.excinfo is not None and "Timeout" in str(call.excinfo.value):
            report.outcome = "skipped"
            path, line, _ = item.location
            report.longrepr = (path, line or 0, "Skipped: the time of the slice ended before the test did")
        return report

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print which tests ran."""
        terminalreporter.section(f"slice of {self._date}: {len(self._ran)} of {self._found} slow tests")
        for name in self._ran:
            terminalreporter.write_line(name)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """End well where the time was too short for any test."""
        if exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED and self._found:
            session.exitstatus = pytest.ExitCode.OK


def _stated(item: pytest.Item, default: float) -> float:
    """Return the seconds after which a test that states them is ended, 0 for no end; the default for any other."""
    mark = item.get_closest_marker("timeout")
    if mark is None:
        return default
    return float((*mark.args, *mark.kwargs.values())[0]) or float("inf")
