"""Finds the functions that shape a model: the framework's, or those of a module the config names."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from privacy_pipeline.backends import tabular
from privacy_pipeline.backends.tabular import ModelContext
from privacy_pipeline.errors import BadInputError

TABULAR = "tabular"

_PREPROCESSING = "preprocessing_fn"
_BUILD = "build_model"
FRAMEWORK_PREPROCESSING = "privacy_pipeline.components.transform.preprocessing.preprocessing_fn"


@dataclass(frozen=True, kw_only=True)
class ModelCode:
    """The two functions that shape a model.

    Attributes:
        preprocessing_fn: dotted path of the function that tf.Transform traces.
        build_model: makes the uncompiled Keras model; its output is a logit, float32, [batch, 1].
    """

    preprocessing_fn: str
    build_model: Callable[[ModelContext], Any]


def resolve(use: str) -> ModelCode:
    """The functions that `model.use` names; what a user's module does not define is the framework's.

    The current folder is put on `sys.path`, since a config names modules that lie beside it.

    Args:
        use: `tabular`, or a dotted module name.

    Raises:
        BadInputError: the module cannot be imported, or defines neither function.
    """
    if use == TABULAR:
        return ModelCode(preprocessing_fn=FRAMEWORK_PREPROCESSING, build_model=tabular.build_model)
    module = _import(use)
    own = {name: getattr(module, name) for name in (_PREPROCESSING, _BUILD) if callable(getattr(module, name, None))}
    if not own:
        raise BadInputError(
            f"model: module '{use}' defines neither `{_PREPROCESSING}(inputs, custom_config)` nor `{_BUILD}(context)`",
            fix="define one of them, or set model: tabular",
        )
    return ModelCode(
        preprocessing_fn=f"{use}.{_PREPROCESSING}" if _PREPROCESSING in own else FRAMEWORK_PREPROCESSING,
        build_model=own.get(_BUILD, tabular.build_model),
    )


def _import(dotted: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    importlib.invalidate_caches()  # the module may be younger than this process
    try:
        return importlib.import_module(dotted)
    except SyntaxError as error:
        where = f"{Path(error.filename).name}, line {error.lineno}" if error.filename else "its source"
        raise BadInputError(
            f"model: module '{dotted}' has a syntax error in {where}: {error.msg}", fix="correct the module"
        ) from error
    except ImportError as error:
        raise BadInputError(
            f"model: module '{dotted}' cannot be imported: {error}",
            fix="use `tabular`, or a module that is importable from the folder the command runs in",
        ) from error
