"""Progress of a node, sent as one JSON message to the socket that the runner left in the environment."""

from __future__ import annotations

import json
import os

PROGRESS_FD = "PRIVACY_PIPELINE_PROGRESS_FD"


def report(*, node: str, done: int, total: int, unit: str) -> None:
    """Report to the runner how far a node is; do nothing where no runner listens (Airflow, Kubeflow)."""
    fd = os.environ.get(PROGRESS_FD)
    if fd is None:
        return
    event = {"event": "progress", "node": node, "done": done, "total": total, "unit": unit}
    os.write(int(fd), json.dumps(event).encode())
