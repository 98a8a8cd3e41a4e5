"""Which parts of this machine the build of a model sees: Python, the framework, and the packages that models need.

A list of what is shown, not of what is hidden. Packages that hold training files (those of the groups `demo` and
`bench`, and scikit-learn, whose tests carry a part of the Adult census) are needed by none of the roots, so that they
are not on it; nor is anything that somebody installed beside. No TensorFlow is imported.
"""

from __future__ import annotations

import functools
import os
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import privacy_pipeline
from privacy_pipeline.environments.place import how_to_set_up
from privacy_pipeline.errors import PipelineError

FRAMEWORK = ("privacy_pipeline", "federated")
ROOTS = ("privacy-pipeline", "tensorflow", "tensorflow-transform", "tensorflow-probability")
_LIBRARIES = ("/lib64", "/usr/lib64", "/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu")
_SITES = ("site-packages", "dist-packages")


@dataclass(frozen=True, kw_only=True)
class Packages:
    """Packages of the environment that a build sees.

    Attributes:
        names: canonical names of the distributions.
        folder: the folder that they are installed in.
        shown: their files and folders in it.
    """

    names: frozenset[str]
    folder: Path
    shown: tuple[str, ...]


def python() -> str:
    """Return the interpreter outside of any virtual environment, whose packages are named one by one."""
    return os.path.realpath(sys.executable)


def shown() -> list[str]:
    """Return the files and folders of Python and of the C library."""
    base = Path(sys.base_prefix).resolve()
    outside = {"base": sys.base_prefix, "platbase": sys.base_exec_prefix}  # of a virtual environment
    libraries = [sysconfig.get_path(name, vars=outside) for name in ("stdlib", "platstdlib")]
    found = [python(), *(str(Path(path).resolve()) for path in libraries)]
    found += [str(path) for path in sorted((base / "lib").glob("*.so*")) if path.is_file()]
    found += [path for path in _LIBRARIES if Path(path).is_dir()]
    return list(dict.fromkeys(found))


def framework() -> list[str]:
    """Return the folders of the framework's packages."""
    root = Path(privacy_pipeline.__file__).resolve().parents[1]
    return [str(root / name) for name in FRAMEWORK]


def emptied() -> tuple[str, ...]:
    """Return the folders of packages inside of Python's own, which are not shown."""
    return tuple(str(Path(sysconfig.get_path("stdlib")).resolve() / name) for name in _SITES)


@functools.cache
def packages() -> Packages:
    """Return the packages that the framework's base and TensorFlow need, directly or not.

    Raises:
        PipelineError: TensorFlow is not installed.
    """
    folder = Path(sysconfig.get_path("purelib"))
    # Found by TensorFlow's own folder: `sys.prefix` may be that of another environment.
    for path in sys.path:
        if (Path(path) / "tensorflow").is_dir():
            folder = Path(path)
    found = metadata.distributions(path=[str(folder)])
    installed: dict[str, metadata.Distribution] = {canonicalize_name(one.metadata["Name"]): one for one in found}
    if "tensorflow" not in installed:
        raise PipelineError("TensorFlow is not installed, so no model can be built", fix=how_to_set_up("pipeline"))
    names = _needed(installed)
    tops = {top for name in names for top in _tops(installed[name])}
    beside = {top for name in installed.keys() - names for top in _tops(installed[name])}
    both = {top for top in tops & beside if not _is_namespace(top)}
    paths = sorted(str(folder.resolve() / top) for top in tops - both if (folder / top).exists())
    return Packages(names=frozenset(names), folder=folder.resolve(), shown=tuple(paths))


def _needed(installed: dict[str, metadata.Distribution]) -> set[str]:
    waiting = [(name, frozenset[str]()) for name in ROOTS]
    seen = set()
    while waiting:
        name, extras = waiting.pop()
        if (name, extras) in seen or name not in installed:
            continue
        seen.add((name, extras))
        for text in installed[name].requires or []:
            one = Requirement(text)
            if one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in (*extras, "")):
                waiting.append((canonicalize_name(one.name), frozenset(one.extras)))
    return {name for name, _ in seen}


def _tops(distribution: metadata.Distribution) -> Iterator[str]:
    """Yield its files and folders in the folder of packages."""
    for line in (distribution.read_text("RECORD") or "").splitlines():
        top = line.strip('"').partition(",")[0].partition("/")[0]
        if top not in ("..", "__pycache__") and not top.endswith(".pth"):
            yield top


def _is_namespace(top: str) -> bool:
    """Whether packages of several distributions share a folder by design."""
    return top in ("google", "jaraco", "opentelemetry", "backports", "keyrings")
