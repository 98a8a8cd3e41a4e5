"""Marks that say which cases of a test the fast suite runs."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator

import pytest

from privacy_pipeline.files import read_once


@pytest.fixture(scope="session", autouse=True)
def _own_histories(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep privacy histories of weights that tests train out of the user's folder."""
    os.environ["PRIVACY_PIPELINE_HISTORIES"] = str(tmp_path_factory.mktemp("histories"))
    os.environ["XDG_DATA_HOME"] = str(tmp_path_factory.mktemp("data"))  # of links to folders with odd names


@pytest.fixture(scope="session", autouse=True)
def _distributions_once() -> Iterator[None]:
    """Compute each privacy loss distribution once; modules that import the accountant themselves keep the library's."""
    from dp_accounting import pld

    from tests.pld_cache import RememberingAccountant

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(pld, "PLDAccountant", RememberingAccountant)
        yield


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark as slow all cases of a test but those that its `slow_but` names.

    Raises:
        pytest.UsageError: a mark names a case that does not exist.
    """
    left = defaultdict(set)
    for item in items:
        mark = item.get_closest_marker("slow_but")
        if mark is None:
            continue
        case = item.callspec.id if isinstance(item, pytest.Function) and hasattr(item, "callspec") else ""
        of_all = item.nodeid.split("[")[0]
        left[of_all, mark.args].add(case)
        if case not in mark.args:
            item.add_marker(pytest.mark.slow)
    if any("::" in given for given in config.args):
        return
    for (test, named), cases in left.items():
        if not cases.issuperset(named):
            raise pytest.UsageError(f"{test} has no case {', '.join(sorted(set(named) - cases))}")


@pytest.fixture(autouse=True)
def nothing_is_held() -> Iterator[None]:
    """A process that took over what another one read keeps it to its end, which is not the end of a test."""
    yield
    read_once._held = None
