"""Finds the functions that shape a model: the framework's, or those of a module the config names.

`defined_by` reads a module, and `resolve` imports it: where there is no data, or beside it once it was reviewed.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from privacy_pipeline.backends.models import held_modules, tabular
from privacy_pipeline.backends.models.code_hash import sources_of
from privacy_pipeline.backends.models.tabular import ModelContext
from privacy_pipeline.errors import BadInputError

TABULAR = "tabular"

_PREPROCESSING = "preprocessing_fn"
BUILD = "build_model"
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
    """Return the functions that `model.use` names, imported; what a user's module does not define is the framework's.

    The current folder is looked in, since a config names modules that lie beside it.

    Args:
        use: `tabular`, or a dotted module name.

    Raises:
        BadInputError: the module cannot be imported, or defines neither function.
    """
    if use == TABULAR:
        return ModelCode(preprocessing_fn=FRAMEWORK_PREPROCESSING, build_model=tabular.build_model)
    module = _import(use)
    own = {name: getattr(module, name) for name in (_PREPROCESSING, BUILD) if callable(getattr(module, name, None))}
    if not own:
        raise _defines_neither(use)
    return ModelCode(
        preprocessing_fn=f"{use}.{_PREPROCESSING}" if _PREPROCESSING in own else FRAMEWORK_PREPROCESSING,
        build_model=own.get(BUILD, tabular.build_model),
    )


def preprocessing_of(use: str) -> str:
    """Return the dotted path of the `preprocessing_fn` that `model.use` stands for; nothing is imported.

    Raises:
        BadInputError: as `defined_by`.
    """
    return f"{use}.{_PREPROCESSING}" if _PREPROCESSING in defined_by(use) else FRAMEWORK_PREPROCESSING


def defined_by(use: str) -> frozenset[str]:
    """Return which of the two functions a module defines, read from its source: nothing is imported.

    Args:
        use: `tabular`, or a dotted module name.

    Raises:
        BadInputError: there is no such source, or it defines neither.
    """
    if use == TABULAR:
        return frozenset()
    tree = ast.parse(sources_of(use, root=Path.cwd())[use].content)
    found = frozenset({_PREPROCESSING, BUILD} & set(_bound(tree.body)))
    if not found:
        raise _defines_neither(use)
    return found


def require_as_read(code: ModelCode, *, use: str, defined: Collection[str]) -> None:
    """Refuse a module that defines other functions than its source shows.

    Args:
        code: its functions.
        use: its name.
        defined: what `defined_by` found.

    Raises:
        BadInputError: it does.
    """
    own = {BUILD: code.build_model is not tabular.build_model, _PREPROCESSING: code.preprocessing_fn.startswith(use)}
    if {name for name, is_own in own.items() if is_own} != set(defined):
        raise BadInputError(
            f"model: module '{use}' defines {' or '.join(own)} in a way that its source does not show",
            fix="define them with `def`, an assignment or an import at the top level of the module",
        )


def _bound(body: Sequence[ast.stmt]) -> Iterator[str]:
    """Yield the names that statements of a module bind, also inside of `if`, `try` and `with`."""
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from (alias.asname or alias.name for alias in node.names)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (one.id for target in targets for one in ast.walk(target) if isinstance(one, ast.Name))
        elif isinstance(node, (ast.If, ast.Try, ast.With)):
            for part in ("body", "orelse", "finalbody"):
                yield from _bound(getattr(node, part, []))
            for handler in getattr(node, "handlers", []):
                yield from _bound(handler.body)


def _defines_neither(use: str) -> BadInputError:
    return BadInputError(
        f"model: module '{use}' defines neither `{_PREPROCESSING}(inputs, custom_config)` nor `{BUILD}(context)`",
        fix="define one of them, or set model: tabular",
    )


def _import(dotted: str) -> ModuleType:
    try:
        return held_modules.import_held(dotted, root=Path.cwd())
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
