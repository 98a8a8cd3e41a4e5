"""What is installed: the framework's own sources, and the packages and interpreter beside it, as digests.

A result that is used again is bound to both: it comes from this code under these versions.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import platform
import sysconfig
from importlib import metadata
from pathlib import Path

from privacy_pipeline.errors import PipelineError

_DISTRIBUTION = "privacy-pipeline"
_PACKAGES = ("privacy_pipeline", "federated")


@functools.cache
def hash_of_framework() -> str:
    """Return the SHA-256 over the sources of both packages (`framework_sources`); read once a process.

    Raises:
        PipelineError: another distribution has one of the packages (`require_own_packages`).
    """
    require_own_packages()
    return digest_of(framework_sources(Path(__file__).parents[2]))


def require_own_packages() -> None:
    """Refuse to go on where Python would import another `federated` than the one that belongs to this framework.

    `federated` is a top-level package with a common name. A second distribution of that name writes its files over
    ours, or lies before it on the path: then the code that runs is not the code that is hashed.

    Raises:
        PipelineError: the other folder or distribution, by name.
    """
    root = Path(__file__).resolve().parents[2]
    listing = [(one, tops) for one in metadata.distributions() if (tops := _top_levels(one))]
    for package in _PACKAGES:
        names = {str(one.metadata["Name"]) for one, tops in listing if package in tops}
        others = sorted(name for name in names if name.replace("_", "-") != _DISTRIBUTION)
        spec = importlib.util.find_spec(package)
        origin = None if spec is None or spec.origin is None else Path(spec.origin).resolve().parent
        if origin != root / package:
            raise PipelineError(
                f"Python finds the package {package} in {origin}, not in {root}",
                fix="remove that folder from PYTHONPATH, or install privacy-pipeline in an environment of its own",
            )
        if others:
            raise PipelineError(
                f"the distribution {', '.join(others)} has a package {package} too, and the two overwrite each other",
                fix=f"pip uninstall {others[0]}, then install privacy-pipeline again",
            )


def _top_levels(distribution: metadata.Distribution) -> set[str]:
    """Return the packages of ours that a distribution lists among its own."""
    listed = (distribution.read_text("top_level.txt") or "").split()
    record = distribution.read_text("RECORD") or ""
    return {package for package in _PACKAGES if package in listed or f"\n{package}/" in f"\n{record}"}


def framework_sources(root: Path) -> dict[str, bytes]:
    """All that the framework is made of: whatever a node imports is in it, also by a name in a string or variable.

    A list of what shapes a model would have to be kept by hand, and one was wrong before. The imports of a node reach
    nearly everything, the command line too, which the parties of encrypted inference are started by.

    Args:
        root: folder that both packages lie in.

    Returns:
        Contents by path below `root`, without what Python compiles.
    """
    paths = [path for package in _PACKAGES for path in (root / package).rglob("*") if path.is_file()]
    kept = (path for path in paths if "__pycache__" not in path.parts)
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in kept}


def digest_of(sources: dict[str, bytes]) -> str:
    """Return the SHA-256 over named contents, 64 hexadecimal digits."""
    total = hashlib.sha256()
    for name, content in sorted(sources.items()):
        total.update(f"{name}\0{len(content)}\0".encode())  # lengths keep two files from sharing a boundary
        total.update(content)
    return total.hexdigest()


def environment_hash() -> str:
    """Return the SHA-256 over the version of Python and the names and versions of all installed distributions."""
    found = [f"python-{platform.python_version()}", *distributions(Path(sysconfig.get_paths()["purelib"]))]
    return hashlib.sha256("\n".join(found).encode()).hexdigest()


def distributions(site_packages: Path) -> list[str]:
    """Return the names and versions of the distributions in a folder of packages, sorted."""
    return sorted(path.name for path in site_packages.glob("*.dist-info"))
