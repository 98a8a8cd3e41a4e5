"""The process that imports TFX and executes one run.

    python -m privacy_pipeline.pipelines.execution.worker RUN_DIR FD PARENT

Its standard streams go to the run's log; events go to the descriptor FD.
"""

from __future__ import annotations

import gc
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from privacy_pipeline.errors import BadInputError
from privacy_pipeline.files.read_once import reading_once
from privacy_pipeline.processes import programs
from privacy_pipeline.processes.die_with_parent import die_with_parent
from privacy_pipeline.text.secret_text import Log

if TYPE_CHECKING:
    from privacy_pipeline.pipelines.workspace.run_state import RunSpec


@reading_once()
def main(run_dir: str, fd: int, parent: int) -> int:
    """Execute the run whose spec lies in `run_dir`.

    Args:
        run_dir: folder of the run.
        fd: descriptor for events.
        parent: process id of the command; the worker ends with it.

    Returns:
        0 if every node succeeded, else 1.
    """
    die_with_parent(parent)
    sys.stdout, sys.stderr = Log(sys.stdout), Log(sys.stderr)
    began = time.monotonic()
    gc.disable()  # the imports make a million objects and no garbage
    from privacy_pipeline.components.progress import PROGRESS_FD

    os.environ[PROGRESS_FD] = str(fd)
    from privacy_pipeline.accounting.plan import Relation
    from privacy_pipeline.backends import registry
    from privacy_pipeline.pipelines.execution import scheduler

    emit = scheduler.fd_emitter(fd)
    from privacy_pipeline.pipelines.execution import own_ports
    from privacy_pipeline.pipelines.execution.events import Loaded
    from privacy_pipeline.pipelines.graph import tfx_cache
    from privacy_pipeline.pipelines.graph.compiled import compile_run
    from privacy_pipeline.pipelines.workspace.workspace import RunFolder

    folder = RunFolder(Path(run_dir))
    spec = folder.read_spec()
    done = frozenset(n for n, s in folder.read_state().nodes.items() if s.status in ("done", "cached"))
    with scheduler.failure_told("", emit):
        programs.isolate_spawned()
        programs.isolate_beam()
        own_ports.close(spec.config.beam.args)
        _require_same_code(spec)
        pipeline = compile_run(spec)
        tfx_cache.install(tfx_cache.CacheKeys.of(spec))
    # Never collect the objects of the imports, so that the forked nodes neither scan nor copy them.
    gc.freeze()
    gc.enable()
    emit(Loaded(seconds=time.monotonic() - began))
    counts = registry.relation_of(spec.config) is not Relation.ADD_OR_REMOVE_ONE
    succeeded = scheduler.run_nodes(pipeline=pipeline, done=done, workers=os.cpu_count() or 1, emit=emit, counts=counts)
    return 0 if succeeded else 1


def _require_same_code(spec: RunSpec) -> None:
    """Read the user's code for this process and its forked children, and refuse code that differs from the checked one.

    Raises:
        BadInputError: the code changed.
    """
    from privacy_pipeline.pipelines.graph import cache_keys

    if cache_keys.code_hash(spec.config) != spec.code:
        raise BadInputError(
            "the code of the framework or the model, or a file under model.files, changed while the run started; "
            "nothing is charged",
            fix="run again",
        )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
