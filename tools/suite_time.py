"""Sum the seconds of a test run by folder, from the output of `pytest --durations=0 -vv`.

    python -m pytest -m "not slow" --durations=0 -vv tests | python -m tools.suite_time

pytest prints the set-up, call and tear-down of each test, not their sums. With `-vv` it leaves out none.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import PurePosixPath

_LINE = re.compile(r"^\s*(\d+\.\d+)s (?:setup|call|teardown)\s+(\S+\.py)::")


def by_folder(lines: Iterable[str]) -> dict[str, float]:
    """Sum the seconds of the durations in an output of pytest by the folder of each test's file."""
    found: defaultdict[str, float] = defaultdict(float)
    for line in lines:
        if match := _LINE.match(line):
            found[str(PurePosixPath(match[2]).parent)] += float(match[1])
    return found


def main() -> int:
    """Print the table; return exit code 1 where the input has no durations."""
    found = by_folder(sys.stdin)
    for folder, seconds in sorted(found.items(), key=lambda pair: -pair[1]):
        sys.stdout.write(f"{seconds:10.1f}  {folder}\n")
    sys.stdout.write(f"{sum(found.values()):10.1f}  in all\n")
    return 0 if found else 1


if __name__ == "__main__":
    sys.exit(main())
