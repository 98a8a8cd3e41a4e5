"""TFX's handle of ML Metadata, over a store that holds every text."""

from __future__ import annotations

import errno
import random
import time

from tfx.orchestration import metadata

from privacy_pipeline.errors import PipelineError
from privacy_pipeline.pipelines.workspace.stored_text import store_of

_TRIES = 10
DISK_IS_FULL = "disk is full"  # SQLite's words


class Handle(metadata.Metadata):
    """TFX's own handle, but over `stored_text`: TFX's opens its store directly."""

    def __enter__(self) -> Handle:
        """Open the store.

        Raises:
            OSError: the disk of the store is full.
            PipelineError: the store cannot be opened.
        """
        error: RuntimeError | None = None
        for _ in range(_TRIES):  # several nodes may open a new store at once, and one of them makes its tables
            try:
                self._store = store_of(self._connection_config)
            except RuntimeError as failed:
                if DISK_IS_FULL in str(failed):
                    raise OSError(errno.ENOSPC, f"ML Metadata: {failed}") from failed
                error = failed
                time.sleep(random.random())
            else:
                self._users += 1
                return self
        raise PipelineError(f"ML Metadata cannot be opened: {error}", fix="check `metadata` in the config") from error
