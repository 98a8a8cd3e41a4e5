"""The version of the installed package.

>>> import privacy_pipeline as pp
>>> pp.__version__
'0.1.0'
"""

from __future__ import annotations

from importlib import metadata


def _installed() -> str:
    try:
        return metadata.version("privacy_pipeline")
    except metadata.PackageNotFoundError:
        return "not installed"


__version__ = _installed()
