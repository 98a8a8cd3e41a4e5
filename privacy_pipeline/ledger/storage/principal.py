"""Who acts on the ledger."""

from __future__ import annotations

import getpass
import os

USER = "PRIVACY_PIPELINE_USER"


def principal() -> str:
    """Return PRIVACY_PIPELINE_USER, or the user of the operating system: a name, not a proof of identity."""
    if named := os.environ.get(USER):
        return named
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return f"uid-{os.getuid()}"
