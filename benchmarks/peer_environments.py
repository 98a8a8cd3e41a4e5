"""Environments of the peers in the benchmarks, below `benchmarks/.envs`; each is made once."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

HERE = Path(__file__).parent
ENVIRONMENTS = HERE / ".envs"
OPACUS = ("opacus==1.6.0", "torch==2.14.1", "numpy==2.2.6")


def interpreter(
    peer: str, packages: Sequence[str], *, python: str = "==3.10.*", variables: Mapping[str, str] | None = None
) -> Path:
    """Return the Python of a peer's environment, which is made if it is missing or holds other packages.

    Args:
        peer: name of its folder.
        packages: requirements.
        python: a version in uv's notation.
        variables: environment variables for the installation, if a package needs some.
    """
    folder = ENVIRONMENTS / peer
    done = folder / "packages"
    if not done.exists() or done.read_text() != " ".join(packages):
        own = HERE.parent / ".tools/uv/bin/uv"
        uv = str(own) if own.exists() else shutil.which("uv")
        if uv is None:
            raise SystemExit("uv is needed for the peers' environments: `make setup` fetches it")
        print(f"making {folder} (once)", file=sys.stderr)
        made = [uv, "venv", "--quiet", "--clear", "--python", python, str(folder)]
        subprocess.run(made, check=True, cwd=HERE.parent)
        install = [uv, "pip", "install", "--quiet", "--python", str(folder / "bin/python"), *packages]
        subprocess.run(install, check=True, env={**os.environ, **(variables or {})})
        done.write_text(" ".join(packages))
    return folder / "bin" / "python"
