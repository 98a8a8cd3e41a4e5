"""What is installed: the framework's own sources, and the packages and interpreter beside it, as digests.

A result that is used again is bound to both: it comes from this code under these versions.
"""

from __future__ import annotations

import functools
import hashlib
import platform
import sysconfig
from pathlib import Path

_PACKAGES = ("privacy_pipeline", "federated")


@functools.cache
def hash_of_framework() -> str:
    """Return the SHA-256 over the sources of both packages (`framework_sources`); read once a process."""
    return digest_of(framework_sources(Path(__file__).parents[2]))


def framework_sources(root: Path) -> dict[str, bytes]:
    """All that the framework is made of: whatever a node imports is in it, be it named in a string or in a variable.

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
