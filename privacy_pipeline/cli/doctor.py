"""What a machine needs, what it has, and the command that closes the gap."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from privacy_pipeline.encrypted.sandbox import environment
from privacy_pipeline.environments.place import how_to_set_up
from privacy_pipeline.errors import PipelineError
from privacy_pipeline.processes.installed import require_own_packages

_GIB = 2**30
_PIPELINE_PACKAGES = ("tfx", "tensorflow", "tensorflow-privacy", "apache-beam", "ml-metadata")


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    what: str
    ok: bool
    detail: str
    fix: str = ""
    required: bool = True


def diagnose() -> list[Finding]:
    """Check interpreter, packages, data, disk, memory and the encrypted environment; change nothing."""
    return [_python(), *_packages(), _own_packages(), _demo_data(), _disk(), _memory(), _encrypted(), _randomness()]


def _python() -> Finding:
    version = ".".join(str(part) for part in sys.version_info[:3])
    return Finding(
        "Python", sys.version_info[:2] == (3, 10), version, f"install Python 3.10, then `{how_to_set_up('pipeline')}`"
    )


def _packages() -> Iterator[Finding]:
    for package in _PIPELINE_PACKAGES:
        try:
            yield Finding(package, True, metadata.version(package))
        except metadata.PackageNotFoundError:
            yield Finding(
                package, False, "not installed: runs need it, budgets and reports do not", how_to_set_up("pipeline")
            )


def _own_packages() -> Finding:
    try:
        require_own_packages()
    except PipelineError as error:
        return Finding("package federated", False, error.message, error.fix or "")
    return Finding("package federated", True, "of privacy-pipeline alone")


def _demo_data() -> Finding:
    if Path("data/adult/provenance.json").exists():
        return Finding("demo data", True, "data/adult", required=False)
    return Finding("demo data", False, "data/adult does not exist", "privacy-pipeline data adult", required=False)


def _disk() -> Finding:
    free = shutil.disk_usage(".").free
    return Finding("disk", free > _GIB, f"{free / _GIB:.1f} GiB free here", "free at least 1 GiB")


def _memory() -> Finding:
    from privacy_pipeline.pipelines.preflight.memory import limit

    total = limit()
    return Finding("memory", total > 3 * _GIB, f"{total / _GIB:.1f} GiB", "runs need at least 4 GiB")


def _encrypted() -> Finding:
    there = environment.found()
    detail = str(there) if there else "not made yet (needed for encrypted inference only)"
    return Finding("encrypted environment", there is not None, detail, how_to_set_up("encrypted"), required=False)


def _randomness() -> Finding:
    return Finding("operating system randomness", len(os.urandom(16)) == 16, "available")
