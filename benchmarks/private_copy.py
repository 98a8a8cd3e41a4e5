"""Measure disk and time of the private copy of a run's data, compared with the reading that a run does anyway.

    python -m benchmarks.private_copy                       # 5 GB of CSV
    python -m benchmarks.private_copy --gigabytes 1
    python -m benchmarks.private_copy --folder /mnt/xfs     # on another file system

`digest` only reads the files, as a run did before there was a copy, and still does to find that nothing changed;
`copy` makes the copy and its digest; `survey` reads each row of the copy, as a run does before it starts. The disk is
the decrease of free space by `statvfs` while the copy exists, and after it is gone. The files are removed at the end.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from privacy_pipeline.data.files import ResolvedSource
from privacy_pipeline.data.private_copy import taken
from privacy_pipeline.data.reading.csv_table import mapped

_LINE = b"%d,Private,77516,Bachelors,13,Never-married,Adm-clerical,Not-in-family,White,Male,2174,0,40,Cuba,<=50K\n"
_HEADER = b"age,workclass,fnlwgt,education,num,marital,occupation,relation,race,sex,gain,loss,hours,country,income\n"
_FILES = 4


def main() -> None:
    """Print one line for each step."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--gigabytes", type=float, default=5.0)
    parser.add_argument("--folder", type=Path, default=None, help="where data and copy lie")
    parser.add_argument("--no-survey", action="store_true", help="leave out the reading of the rows")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        measure(Path(name), size=int(given.gigabytes * 1e9), survey=not given.no_survey)


def measure(folder: Path, *, size: int, survey: bool) -> None:
    """Write CSV files of `size` bytes in total, and measure how long it takes to copy them."""
    files = tuple(_write(folder / f"rows-{number}.csv", size // _FILES) for number in range(_FILES))
    os.sync()
    source = ResolvedSource(span=None, version=None, patterns={"train": "*.csv"}, files={"train": files})
    total = sum(file.stat().st_size for file in files)
    _say(f"{total / 1e9:.2f} GB of CSV in {len(files)} files")
    digest, seconds = _timed(source.plain_digest)
    _say(f"digest: {seconds:.1f} s, {total / 1e6 / seconds:,.0f} MB/s")
    free, began = _free(folder), time.perf_counter()
    with taken(source, below=folder / ".reading") as copy:
        seconds, used = time.perf_counter() - began, free - _free(folder)
        if copy.source.plain_digest() != digest:
            raise ValueError("the copy has another digest than the files")
        how = "clones" if copy.cloned else "plain copies"
        _say(f"copy: {seconds:.1f} s, {total / 1e6 / seconds:,.0f} MB/s, {how}, {used / 1e9:.2f} GB of disk")
        if survey:
            rows, took = _timed(lambda: _rows(copy.source.files["train"]))
            _say(f"survey: {took:.1f} s for {rows:,} rows; the copy is {seconds / took:.1%} of that")
    _say(f"after: {(free - _free(folder)) / 1e9:.2f} GB of disk")


def _write(file: Path, size: int) -> Path:
    block = b"".join(_LINE % (17 + number % 70) for number in range(100_000))
    with file.open("wb") as stream:
        stream.write(_HEADER)
        for _ in range(max(1, size // len(block))):
            stream.write(block)
    return file


def _rows(files: tuple[Path, ...]) -> int:
    return sum(number for file in files for number in mapped(lambda cells: cells.num_rows, file=file))


def _timed(function: Callable[[], object]) -> tuple[object, float]:
    began = time.perf_counter()
    return function(), time.perf_counter() - began


def _free(folder: Path) -> int:
    os.sync()
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    main()
