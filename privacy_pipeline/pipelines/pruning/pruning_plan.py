"""Which runs to prune, and what a pruning removes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Criteria:
    """Which runs to prune; a run must meet all criteria that are given.

    Attributes:
        runs: ids, or prefixes of them.
        dataset: name of the dataset that they read.
        older_than: days since they ended.
        keep_pushed: leaves pushed models where they are.
    """

    runs: tuple[str, ...] = ()
    dataset: str | None = None
    older_than: float | None = None
    keep_pushed: bool = False


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """A run to prune."""

    run_id: str
    pipeline: str
    dataset: str
    status: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a pruning removes.

    Attributes:
        runs: the runs that were chosen.
        paths: files and folders that go.
        size: bytes in them.
        shared: folders that chosen runs made and that stay, with the other runs that use them.
        left: what else stays and a person should know of.
    """

    runs: tuple[Chosen, ...]
    paths: tuple[Path, ...]
    size: int
    shared: dict[Path, tuple[str, ...]]
    left: tuple[str, ...]
