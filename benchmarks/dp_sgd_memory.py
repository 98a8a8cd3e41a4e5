"""Print the peak resident memory, in bytes, of 20 steps of an engine in this process, one per call of `dp_sgd.py`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from benchmarks.dp_sgd_models import ENGINES
from benchmarks.dp_sgd_shapes import TASKS


def main() -> None:
    engine, name, batch = sys.argv[1], sys.argv[2], int(sys.argv[3])
    x, y = TASKS[name].data(25 * batch)
    ENGINES[engine](name, x, y, batch)(20)
    # Do not use getrusage: its figure outlives exec, so that it may be the parent's.
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    print(int(peak.split()[1]) * 1024)


if __name__ == "__main__":
    main()
