"""What of a user's own a build may see: public files and the module's sources, never the dataset's files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from privacy_pipeline.backends.isolated import environment
from privacy_pipeline.backends.isolated.visible import Private, visible
from privacy_pipeline.backends.models import user_code
from privacy_pipeline.config.models.model import ModelSection
from privacy_pipeline.errors import BadInputError
from privacy_pipeline.ledger import pins

MODULE = "import helper\ndef build_model(context): ...\n"
ROWS = "a,b\n1,2\n"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for folder in ("data/span-1", "workspace/runs", "ledger", "public"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "data/span-1/rows.csv").write_text(ROWS)
    (tmp_path / "workspace/runs/summary.json").write_text("{}")
    (tmp_path / "ledger/ledger.db").write_text("ledger")
    (tmp_path / "public/words.txt").write_text("red\n")
    (tmp_path / "mine.py").write_text(MODULE)
    (tmp_path / "helper.py").write_text("")
    (tmp_path / "stranger.py").write_text("")
    return tmp_path


def private(place: Path) -> Private:
    return Private(data=place / "data", workspace=place / "workspace", ledger=f"sqlite:///{place}/ledger/ledger.db")


def section(*files: str, use: str = "mine") -> ModelSection:
    return ModelSection(use=use, files=[Path(file) for file in files])


def test_the_module_what_it_imports_and_public_files_are_all(place: Path) -> None:
    seen = visible(section("public/words.txt"), private(place))
    assert {path.relative_to(place).as_posix() for path in seen.files} == {"mine.py", "helper.py", "public/words.txt"}
    assert seen.files[place / "public/words.txt"] == b"red\n" and seen.folders == (place,)


@pytest.mark.parametrize("way", ["path", "symlink", "folder link", "hard link", "copy", "link the other way"])
@pytest.mark.parametrize("of", ["data/span-1/rows.csv", "workspace/runs/summary.json", "ledger/ledger.db"])
def test_a_private_file_is_refused_by_its_name_whatever_leads_to_it(place: Path, of: str, way: str) -> None:
    found = place / of
    named = "public/found.txt"
    if way == "path":
        named = f"public/../{of}"
    elif way == "symlink":
        (place / named).symlink_to(found)
    elif way == "folder link":
        (place / "public/link").symlink_to(found.parent)
        named = f"public/link/{found.name}"
    elif way == "hard link":
        os.link(found, place / named)
    elif way == "copy":
        (place / named).write_bytes(found.read_bytes())
    else:
        found.rename(place / named)
        found.symlink_to(place / named)
    with pytest.raises(BadInputError, match=f"^model.files: {named} "):
        visible(section("public/words.txt", named), private(place))


def test_a_file_of_other_registered_data_is_refused(place: Path) -> None:
    """Nobody would charge that dataset's budget."""
    (place / "other/span-1").mkdir(parents=True)
    (place / "other/span-1/rows.csv").write_text("c\n3\n")
    visible(section("other/span-1/rows.csv"), private(place))
    (place / "other" / pins.FILE).write_text("{}")
    with pytest.raises(BadInputError, match=r"^model.files: other/span-1/rows.csv lies in .*which is registered"):
        visible(section("other/span-1/rows.csv"), private(place))


@pytest.mark.parametrize("hidden", ["data", "workspace"])
def test_private_folders_in_what_every_build_sees_are_refused(place: Path, hidden: str) -> None:
    where = {"data": place / "data", "workspace": place / "workspace"}
    where[hidden] = Path(environment.framework()[0], "data")
    inside = Private(**where, ledger=f"sqlite:///{place}/ledger/ledger.db")
    with pytest.raises(BadInputError, match="which the build of a model sees"):
        visible(section(), inside)


def test_a_module_that_is_data_is_refused(place: Path) -> None:
    (place / "data/rows_module.py").write_text("def build_model(context): ...\nROWS = [1]\n")
    (place / "linked.py").symlink_to(place / "data/rows_module.py")
    (place / "importing.py").write_text("import linked\ndef build_model(context): ...\n")
    for use in ("linked", "importing", "data.rows_module"):
        with pytest.raises(BadInputError, match=r"the source .* lies in the dataset's folder"):
            visible(section(use=use), private(place))


def test_what_is_missing_or_too_large_is_refused(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for named in ("public", "nowhere.txt"):
        with pytest.raises(BadInputError, match=f"model.files: {named} is not a file"):
            visible(section(named), private(place))
    monkeypatch.setattr("privacy_pipeline.backends.isolated.visible.MOST_BYTES", 3)
    with pytest.raises(BadInputError, match="more than"):
        visible(section("public/words.txt"), private(place))


@pytest.mark.parametrize(
    ("source", "defined"),
    [
        ("def build_model(context): ...", {"build_model"}),
        ("from helper import b as build_model\npreprocessing_fn = lambda: 1", {"build_model", "preprocessing_fn"}),
        ("try:\n    import x\nexcept ImportError:\n    def preprocessing_fn(): ...", {"preprocessing_fn"}),
        ("raise SystemExit('imported')\nbuild_model: object = 1", {"build_model"}),
    ],
)
def test_what_a_module_defines_is_read_and_not_imported(place: Path, source: str, defined: set[str]) -> None:
    (place / "read.py").write_text(source)
    assert user_code.defined_by("read") == defined


def test_a_module_that_shows_no_function_is_refused(place: Path) -> None:
    (place / "hidden.py").write_text("globals()['build_model'] = print\n")
    with pytest.raises(BadInputError, match="defines neither"):
        user_code.defined_by("hidden")
    code = user_code.ModelCode(preprocessing_fn="mine.preprocessing_fn", build_model=print)
    with pytest.raises(BadInputError, match="source does not show"):
        user_code.require_as_read(code, use="mine", defined=["build_model"])
