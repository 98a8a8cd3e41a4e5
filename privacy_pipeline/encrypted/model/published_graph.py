"""The graph that a client runs on its own rows: somebody else published it, and a graph is code.

It may hold ops that compute, and nothing else: else the rows could be written to a file while they are transformed.
Ops on files stand in the two functions alone that TensorFlow adds to save and restore the graph's variables, which
nothing else calls. The folder holds plain files of a bounded size. TensorFlow is imported on use.
"""

from __future__ import annotations

import contextlib
import shutil
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from privacy_pipeline.computing_ops import ALLOWED
from privacy_pipeline.encrypted.run_folder import run_folder
from privacy_pipeline.errors import BadInputError
from privacy_pipeline.files.bounded import open_plain, read_bounded

_LARGEST_GRAPH, _LARGEST_FOLDER = 64 << 20, 1 << 30  # bytes
_MOST_FILES = 10_000
_ALLOWED = ALLOWED | {
    *("Assert", "HashTableV2", "InitializeTableV2", "LookupTableImportV2"),
    *("ParseExampleV2", "VarHandleOp", "VarIsInitializedOp"),
}
_FILE_OPS = frozenset(("MergeV2Checkpoints", "RestoreV2", "SaveV2", "ShardedFilename"))
_FIX = "publish the model again, and take its public side from a source that you trust"


def require_computing(transform: Path) -> None:
    """Refuse a published transform that could do more than compute.

    Args:
        transform: folder of the tf.Transform output.

    Raises:
        BadInputError: names file and op.
    """
    _require_plain(transform)
    for path in sorted(transform.rglob("saved_model.pb*")):
        if path.suffix != ".pb":
            raise BadInputError(f"{path}: a graph as text is not read", fix=_FIX)
        graphs = _graphs(path)
        if len(graphs) != 1 or not graphs[0].object_graph_def.nodes:
            raise BadInputError(f"{path}: is not a graph of this version", fix=_FIX)
        _require_allowed(graphs[0], path)


@contextlib.contextmanager
def computing_copy(transform: Path) -> Iterator[Path]:
    """Yield a private copy of a published transform, which is what was checked and is to be loaded.

    The published one may be swapped after it was checked. The next command removes the copy of a killed one.

    Args:
        transform: folder of the tf.Transform output.

    Raises:
        BadInputError: it could do more than to compute, or cannot be copied; names file and op.
    """
    _require_plain(transform)
    with run_folder("client") as folder:
        copy = folder / "transform"
        try:
            shutil.copytree(transform, copy, symlinks=True, copy_function=_copied)
            require_computing(copy)
        except OSError as error:
            raise BadInputError(
                f"{transform}: cannot be copied ({error})", fix="check its rights, and free space"
            ) from error
        except BadInputError as error:
            raise BadInputError(error.message.replace(str(copy), str(transform)), fix=error.fix) from None
        yield copy


def _copied(source: str, target: str) -> None:
    with open_plain(Path(source)) as given, open(target, "xb") as made:
        shutil.copyfileobj(given, made)


def _require_plain(folder: Path) -> None:
    size = 0
    for count, path in enumerate(folder.rglob("*")):
        found = path.lstat()
        if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
            raise BadInputError(f"{path}: is neither a file nor a folder", fix=_FIX)
        size += found.st_size
        if size > _LARGEST_FOLDER or count > _MOST_FILES:
            raise BadInputError(f"{folder}: is larger than any transform", fix=_FIX)


def _graphs(path: Path) -> Any:
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import saved_model_pb2

    try:
        return saved_model_pb2.SavedModel.FromString(read_bounded(path, most=_LARGEST_GRAPH)).meta_graphs
    except (DecodeError, OSError) as error:
        raise BadInputError(f"{path}: is not a graph ({type(error).__name__})", fix=_FIX) from error


def _require_allowed(meta: Any, path: Path) -> None:
    functions = {one.signature.name: one.node_def for one in meta.graph_def.library.function}
    on_files = {name for name, nodes in functions.items() if any(node.op in _FILE_OPS for node in nodes)}
    for name, nodes in functions.items():
        _require_ops(nodes, path, _ALLOWED | (_FILE_OPS if name in on_files else frozenset()))
        _require_no_call(nodes, on_files, path)
    _require_ops(meta.graph_def.node, path, _ALLOWED)
    _require_no_call(_reached(meta), on_files, path)
    if on_files & _called_by_objects(meta.object_graph_def):
        raise _refused(path, "files")


def _called_by_objects(found: Any) -> set[str]:
    functions = (name for node in found.nodes for name in node.function.concrete_functions)
    bare = (node.bare_concrete_function.concrete_function_name for node in found.nodes)
    return {*functions, *bare, *found.concrete_functions}


def _reached(meta: Any) -> Iterable[Any]:
    """Return the nodes of the main graph without the two that save and restore."""
    named = meta.saver_def
    own = {named.save_tensor_name.partition(":")[0], named.restore_op_name.partition(":")[0]}
    return [node for node in meta.graph_def.node if node.name not in own]


def _require_ops(nodes: Iterable[Any], path: Path, allowed: frozenset[str]) -> None:
    for node in nodes:
        if node.op not in allowed:
            raise _refused(path, "".join(one for one in node.op[:60] if one.isalnum() or one == "_"))


def _require_no_call(nodes: Iterable[Any], forbidden: set[str], path: Path) -> None:
    for node in nodes:
        for value in node.attr.values():
            called = [value.func.name, *(one.name for one in value.list.func)]
            if node.op in forbidden or forbidden.intersection(called):
                raise _refused(path, "files")


def _refused(path: Path, op: str) -> BadInputError:
    return BadInputError(f"{path}: the graph does more than to compute ({op}); nothing was run", fix=_FIX)
