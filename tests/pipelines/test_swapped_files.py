"""The swap: a file is exchanged after its digest was taken, and put back after it was read. `execute` is a stand-in."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from privacy_pipeline.config.models.pipeline import PipelineConfig
from privacy_pipeline.data.files import ResolvedSource
from privacy_pipeline.data.source import resolve
from privacy_pipeline.errors import BadInputError
from privacy_pipeline.ledger.ledger import Ledger
from privacy_pipeline.pipelines.execution import runs
from privacy_pipeline.pipelines.graph import build
from privacy_pipeline.pipelines.preflight import preflight
from privacy_pipeline.pipelines.registration import register as registering
from privacy_pipeline.pipelines.registration.register import register_dataset
from privacy_pipeline.pipelines.workspace.run_state import RunState
from privacy_pipeline.pipelines.workspace.workspace import RunFolder
from tests.pipelines.projects import HASHED, KEYED, write_project, write_spans


class Swap:
    """Other rows in the place of some files, while it lasts."""

    def __init__(self, *files: Path) -> None:
        self.good = {file: file.read_bytes() for file in files}

    def make(self) -> None:
        for file, content in self.good.items():
            file.write_bytes(content.replace(b"red", b"blue"))

    def undo(self) -> None:
        for file, content in self.good.items():
            file.write_bytes(content)


def read_by_example_gen(folder: RunFolder) -> list[bytes]:
    """The files that the ExampleGen of a run is given, sorted."""
    from apache_beam.io.filesystems import FileSystems

    given = build._example_gen(folder.read_spec()).spec.exec_properties
    found = FileSystems.match([f"{given['input_base']}/*/*"])[0].metadata_list
    return sorted(Path(one.path).read_bytes() for one in found)


def start(config: PipelineConfig, on_start: Callable[[], None]) -> tuple[RunFolder, RunState]:
    return runs.start(
        config=config,
        config_path=Path("c.yaml"),
        from_nodes=[],
        to_nodes=[],
        on_start=lambda folder: on_start(),
        on_event=lambda event, state: None,
    )


@pytest.mark.parametrize("span", [1, (1, 2)], ids=["one span", "two spans"])
def test_rows_that_are_swapped_after_all_checks_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, span: Any
) -> None:
    config = write_project(tmp_path, dataset={"span": span})
    write_spans(tmp_path, 1, 2)
    files = [file for found in resolve(dataset=config.dataset).files.values() for file in found]
    swap, read = Swap(*files), list[bytes]()

    def execute(*, folder: RunFolder, state: RunState, on_event: Any) -> RunState:
        read.extend(read_by_example_gen(folder))
        swap.undo()
        return state

    monkeypatch.setattr(runs, "execute", execute)
    start(config, swap.make)
    assert read == sorted(swap.good.values())


@pytest.mark.parametrize("backend", ["plain", "dp_sgd"])
def test_rows_that_are_swapped_between_digest_and_copy_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    config = write_project(tmp_path, backend=backend)
    register_dataset(config=config, epsilon=1000.0, delta=1e-5)
    swap = Swap(config.dataset.path / "span-1/train/rows.csv")
    plain = ResolvedSource.plain_digest

    def then_swapped(source: ResolvedSource) -> str:
        found = plain(source)
        swap.make()
        return found

    monkeypatch.setattr(ResolvedSource, "plain_digest", then_swapped)
    with pytest.raises(BadInputError, match="changed while the command read them") as caught:
        start(config, lambda: None)
    assert "nothing is charged" in caught.value.message
    assert not list((config.workspace / "runs").iterdir())
    assert not any(sum(status.entries.values()) for status in Ledger.open(config.ledger).status("things"))


def test_rows_that_are_swapped_for_the_checks_alone_are_not_what_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bad row that is hidden from the survey would end the run later, with the budget spent."""
    config = write_project(tmp_path)
    file = config.dataset.path / "span-1/train/rows.csv"
    file.write_text(file.read_text() + "red,999,999,yes\n")
    bad, good = file.read_text(), file.read_text().replace("red,999,", "red,9,")
    look = preflight.look_through

    def while_good(*given: Any) -> Any:
        file.write_text(good)
        try:
            return look(*given)
        finally:
            file.write_text(bad)

    monkeypatch.setattr(preflight, "look_through", while_good)
    with pytest.raises(BadInputError, match="above the schema's maximum") as caught:
        start(config, lambda: None)
    assert str(file) in caught.value.message and ".reading" not in caught.value.message


@pytest.mark.parametrize(
    ("section", "name", "rows"), [({}, "span-1/train", 200), ({**HASHED, **KEYED}, "all", 200)], ids=["rows", "persons"]
)
def test_a_registration_counts_what_it_digests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, section: dict[str, Any], name: str, rows: int
) -> None:
    """Fewer rows at the count than in the registered files would register too few units, and so too little noise."""
    config = write_project(tmp_path, dataset=section)
    file = config.dataset.path / name / "rows.csv"
    whole, few = file.read_text(), "\n".join(file.read_text().splitlines()[:31]) + "\n"
    contents = registering.source.read_contents

    def counted(**given: Any) -> Any:
        file.write_text(few)
        try:
            return contents(**given)
        finally:
            file.write_text(whole)

    monkeypatch.setattr(registering.source, "read_contents", counted)
    registered = register_dataset(config=config, epsilon=10.0, delta=1e-5)
    assert sum(split.rows for split in registered.splits.values()) == rows


def test_the_copy_goes_with_the_command_and_when_examples_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from privacy_pipeline.pipelines.execution.events import NodeEnded

    config, seen = write_project(tmp_path), list[bool]()

    def execute(*, folder: RunFolder, state: RunState, on_event: Any) -> RunState:
        copied = folder.read_spec().copied
        assert copied is not None and copied.is_relative_to(config.workspace)
        seen.append(copied.exists())
        for node in ("SchemaGen", "ExampleGen"):
            on_event(NodeEnded(node=node, cached=False, seconds=0.0, detail=""), state)
            seen.append(copied.exists())
        return state

    monkeypatch.setattr(runs, "execute", execute)
    start(config, lambda: None)
    assert seen == [True, True, False]
    assert [path.name for path in (config.workspace / ".reading").iterdir()] == ["lock"]


def test_a_file_that_appears_later_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = write_project(tmp_path)
    folder = config.dataset.path / "span-1/train"
    read = list[bytes]()

    def execute(*, folder: RunFolder, state: RunState, on_event: Any) -> RunState:
        read.extend(read_by_example_gen(folder))
        return state

    monkeypatch.setattr(runs, "execute", execute)
    start(config, lambda: shutil.copy(folder / "rows.csv", folder / "more.csv") and None)
    assert len(read) == 2
