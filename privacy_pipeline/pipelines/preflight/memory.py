"""Check before a run starts whether it fits into memory: compare a forecast from the size of its data with the limit.

The forecast is above each peak that `benchmarks/memory.py` measured. The peak covers all processes of a run together.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from privacy_pipeline.accounting.plan import Relation
from privacy_pipeline.backends import registry
from privacy_pipeline.config.models.dataset import DatasetConfig
from privacy_pipeline.config.models.pipeline import PipelineConfig
from privacy_pipeline.data.files import ResolvedSource, unreadable
from privacy_pipeline.data.reading.csv_rows import read_header
from privacy_pipeline.data.reading.tfrecord import records
from privacy_pipeline.errors import BadInputError

ENVIRONMENT = "PRIVACY_PIPELINE_MEMORY"
_BASE = 1_500 << 20  # bytes: the worker's imports, and the nodes that run side by side
_PER_ROW = 1_500
_PER_CELL = 450
_OF_AN_EXAMPLE = 20  # bytes, at least, that a tf.Example spends on a feature
_BLOCK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much data a run reads.

    Attributes:
        rows: of all splits; an upper bound, since a line break inside of a cell counts too.
        columns: of each row.
    """

    rows: int
    columns: int


def size_of(source: ResolvedSource, dataset: DatasetConfig) -> Size:
    """Return the size of the files of a run.

    Args:
        source: the files.
        dataset: names their format.

    Raises:
        BadInputError: a file cannot be read.
    """
    files = sorted({file for found in source.files.values() for file in found})
    if dataset.format == "csv":
        columns = max(len(read_header(file=file)) for file in files)
        return Size(rows=sum(_lines(file) for file in files), columns=columns)
    rows, longest = 0, 0
    for file in files:
        for record in records(file=file):
            rows, longest = rows + 1, max(longest, len(record))
    return Size(rows=rows, columns=longest // _OF_AN_EXAMPLE)


def forecast(size: Size) -> int:
    """Return the bytes that a run needs at its peak; rather too many than too few."""
    return _BASE + size.rows * (_PER_ROW + _PER_CELL * size.columns)


def limit(*, proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the bytes that the processes of this machine, or of this process's control groups, may use together.

    Args:
        proc: where the kernel's process and memory files are mounted.
        cgroups: where control groups are mounted, of version 1, 2 or both.
    """
    for line in (proc / "meminfo").read_text().splitlines():
        if line.startswith("MemTotal:"):
            machine = int(line.split()[1]) * 1024
            return min([machine, *_limits(proc, cgroups)])
    raise OSError(f"{proc / 'meminfo'}: no MemTotal")


def require_fits(config: PipelineConfig, source: ResolvedSource, *, most: int | None = None) -> None:
    """Refuse a run that would not fit; data that Beam sends to another machine is not considered.

    Args:
        config: the run's config.
        source: its files.
        most: bytes that it may use; by default the value of the variable `ENVIRONMENT`, else `limit()`.

    Raises:
        BadInputError: the run needs more, or the variable is not a number.
    """
    if any(given.startswith("--runner=") and "Direct" not in given for given in config.beam.args):
        return
    size = size_of(source, config.dataset)
    needed, most = forecast(size), _named() or limit() if most is None else most
    if needed > most:
        told = f"about {_gib(needed)} for {size.rows:,} rows of {size.columns} columns, and its"
        if registry.relation_of(config) is Relation.ADD_OR_REMOVE_ONE:  # how many rows there are is secret
            told = "more memory for its data than its"
        raise BadInputError(
            f"memory: this run needs {told} machine or control group has: {_gib(most)}",
            fix=f"read fewer rows at once (spans), or use a larger machine; nothing was started or charged. "
            f"{ENVIRONMENT}=BYTES sets another limit",
        )


def _named() -> int | None:
    given = os.environ.get(ENVIRONMENT)
    if not given:
        return None
    if not given.isascii() or not given.isdecimal() or int(given) == 0:
        raise BadInputError(
            f"{ENVIRONMENT}: {given!r} is not a number of bytes", fix=f"export {ENVIRONMENT}=8000000000"
        )
    return int(given)


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"


def _lines(file: Path) -> int:
    """Count the lines after the first one; the last may lack a line break."""
    ends, last = 0, b"\n"
    try:
        with file.open("rb") as stream:
            while block := stream.read(_BLOCK):
                ends, last = ends + block.count(b"\n"), block[-1:]
    except OSError as error:
        raise unreadable(file=file, error=error) from None
    return max(0, ends + (last != b"\n") - 1)


def _limits(proc: Path, cgroups: Path) -> Iterator[int]:
    """Yield the limits of this process's control groups and of all groups above them."""
    try:
        lines = (proc / "self/cgroup").read_text().splitlines()
    except FileNotFoundError:
        return
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0":
            roots, name = [cgroups, cgroups / "unified"], "memory.max"
        elif "memory" in controllers.split(","):
            roots, name = [cgroups / "memory"], "memory.limit_in_bytes"
        else:
            continue
        for root in roots:
            group = root / path.strip("/")
            # Inside a container the path may be the host's, and only its root is mounted.
            for folder in (group, *group.parents):
                if folder.is_relative_to(root):
                    yield from _limit_in(folder / name)


def _limit_in(file: Path) -> Iterator[int]:
    try:
        text = file.read_text().strip()
    except OSError:
        return
    if text.isdecimal():
        yield int(text)  # "max" means no limit; version 1 writes a number above the memory of any machine
