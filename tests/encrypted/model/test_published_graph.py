"""A published transform that would do more with a client's rows than to compute is refused, and nothing of it runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tensorflow.core.protobuf import saved_model_pb2

from privacy_pipeline.encrypted import run_folder
from privacy_pipeline.encrypted.client import rows
from privacy_pipeline.encrypted.model import published_graph
from privacy_pipeline.encrypted.model.published import Published
from privacy_pipeline.encrypted.model.published_graph import require_computing
from privacy_pipeline.errors import BadInputError
from tests.backends.conftest import split  # noqa: F401 (a fixture)
from tests.encrypted.model.test_rows import public  # noqa: F401 (a fixture)

Change = Callable[[Any], None]


def _function(meta: Any, part: str) -> Any:
    return next(one for one in meta.graph_def.library.function if part in one.signature.name)


def _op(name: str, part: str) -> Change:
    def change(meta: Any) -> None:
        _function(meta, part).node_def.add(name="more", op=name)

    return change


def _in_main(name: str) -> Change:
    def change(meta: Any) -> None:
        meta.graph_def.node.add(name="more", op=name)

    return change


def _calls_what_saves(meta: Any) -> None:
    node = _function(meta, "pruned").node_def.add(name="more", op="StatefulPartitionedCall")
    node.attr["f"].func.name = _function(meta, "traced_save").signature.name


def _calls_what_saves_by_a_list(meta: Any) -> None:
    node = _function(meta, "pruned").node_def.add(name="more", op="StatelessIf")
    node.attr["f"].list.func.add(name=_function(meta, "traced_save").signature.name)


def _main_calls_what_saves(meta: Any) -> None:
    node = meta.graph_def.node.add(name="more", op="StatefulPartitionedCall")
    node.attr["f"].func.name = _function(meta, "traced_save").signature.name


def _an_object_saves(meta: Any) -> None:
    name = _function(meta, "traced_save").signature.name
    meta.object_graph_def.nodes.add().bare_concrete_function.concrete_function_name = name


def _an_object_of_several_saves(meta: Any) -> None:
    meta.object_graph_def.concrete_functions[_function(meta, "traced_restore").signature.name].SetInParent()


CHANGES: dict[str, tuple[Change, str]] = {
    "writes a file": (_op("WriteFile", "pruned"), "WriteFile"),
    "reads a file": (_op("ReadFile", "signature_wrapper"), "ReadFile"),
    "saves": (_op("SaveV2", "pruned"), "files"),
    "runs Python": (_in_main("EagerPyFunc"), "EagerPyFunc"),
    "prints": (_op("PrintV2", "pruned"), "PrintV2"),
    "a file of words": (_op("InitializeTableFromTextFileV2", "pruned"), "InitializeTableFromTextFileV2"),
    "writes where it restores": (_op("WriteFile", "traced_restore"), "WriteFile"),
    "calls what saves": (_calls_what_saves, "files"),
    "calls what saves, by a list": (_calls_what_saves_by_a_list, "files"),
    "the main graph calls what saves": (_main_calls_what_saves, "files"),
    "an object saves": (_an_object_saves, "files"),
    "an object of several saves": (_an_object_of_several_saves, "files"),
    "a name that commands a terminal": (_in_main("\x1b[31mEvil"), "31mEvil"),
    "no objects": (lambda meta: meta.ClearField("object_graph_def"), "is not a graph of this version"),
}


def _graph(published: Published) -> Path:
    return published.transform / "transform_fn" / "saved_model.pb"


def test_graphs_that_do_more_are_refused_before_they_run(
    public: Published,  # noqa: F811
    tmp_path: Path,
) -> None:
    require_computing(public.transform)
    (tmp_path / "f.csv").write_text("colour,size\nred,1\n")
    checked = rows.check(file=tmp_path / "f.csv", published=public)
    kept = _graph(public).read_bytes()
    for name, (change, says) in CHANGES.items():
        saved = saved_model_pb2.SavedModel.FromString(kept)
        change(saved.meta_graphs[0])
        _graph(public).write_bytes(saved.SerializeToString())
        with pytest.raises(BadInputError, match=says) as caught:
            rows.transform(checked, published=public)
        assert str(_graph(public)) in caught.value.message and "\x1b" not in caught.value.message, name
    _graph(public).write_bytes(kept)
    assert rows.transform(checked, published=public)["features"].shape[0] == 1


def test_a_graph_that_is_swapped_after_it_was_checked_does_not_run(
    public: Published,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "f.csv").write_text("colour,size\nred,1\n")
    checked = rows.check(file=tmp_path / "f.csv", published=public)
    expected = rows.transform(checked, published=public)["features"].tolist()
    require = published_graph.require_computing

    def swapped(transform: Path) -> None:
        require(transform)
        _graph(public).write_bytes(b"")

    monkeypatch.setattr(published_graph, "require_computing", swapped)
    assert rows.transform(checked, published=public)["features"].tolist() == expected
    assert _graph(public).read_bytes() == b""


def test_the_folder_holds_plain_files_of_a_bounded_size(public: Published) -> None:  # noqa: F811
    more = public.transform / "transform_fn" / "assets"
    more.mkdir(exist_ok=True)

    def link() -> Path:
        (more / "words").symlink_to("/dev/zero")
        return more / "words"

    def pipe() -> Path:
        os.mkfifo(more / "words")
        return more / "words"

    def large() -> Path:
        with (more / "words").open("wb") as stream:
            stream.truncate(2 << 30)
        return more / "words"

    def text() -> Path:
        (more / "saved_model.pbtxt").write_text("meta_graphs {}")
        return more / "saved_model.pbtxt"

    for make, says in (
        (link, "neither a file"),
        (pipe, "neither a file"),
        (large, "larger than any"),
        (text, "as text"),
    ):
        made = make()
        with pytest.raises(BadInputError, match=says):
            require_computing(public.transform)
        made.unlink()
    for content, says in ((b"no graph", "is not a graph"), (b"", "is not a graph of this version")):
        _graph(public).write_bytes(content)
        with pytest.raises(BadInputError, match=says):
            require_computing(public.transform)
    with _graph(public).open("wb") as stream:
        stream.truncate(512 << 20)
    with pytest.raises(BadInputError, match="is larger than"):
        require_computing(public.transform)


def test_the_copy_of_a_killed_client_is_removed_by_the_next_one(
    public: Published,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    memory = tmp_path / "memory"
    memory.mkdir()
    monkeypatch.setenv(run_folder.VARIABLE, str(memory))
    script = (
        "import os, signal, sys; from pathlib import Path\n"
        "from privacy_pipeline.encrypted.model.published_graph import computing_copy\n"
        "with computing_copy(Path(sys.argv[1])): os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", script, public.transform], check=False)
    assert done.returncode == -signal.SIGKILL and list(memory.rglob("saved_model.pb"))
    with published_graph.computing_copy(public.transform) as copy:
        assert [path.parents[1] for path in memory.rglob("saved_model.pb")] == [copy]
    assert not list(memory.rglob("saved_model.pb"))
