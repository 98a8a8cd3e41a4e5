"""Paths that no library takes for a pattern, and commands that a shell takes as they are printed."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy_pipeline.errors import BadInputError
from privacy_pipeline.files.literal_paths import PATTERN, as_named, literal, require_utf8
from privacy_pipeline.text.typed import quoted, typed

ODD = ["my [v2] #1 50%", "a*b", "a?b", "back\\slash", "[", "a [b", "*", "é [日本]", "x" * 199 + "["]
PLAIN = [
    "my project",
    "50%",
    "#1",
    "it's",
    'say "hi"',
    "é 日本 ü",
    "a]b",
    "{b}",
    "a%20b",
    "-a",
    "x" * 200,
    "a\nb",
    "file:b",
]


@pytest.fixture(autouse=True)
def links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    return tmp_path / "home/privacy_pipeline/links"


@pytest.mark.parametrize("name", PLAIN)
def test_a_path_without_patterns_is_itself(tmp_path: Path, name: str, links: Path) -> None:
    assert literal(tmp_path / name / "file") == tmp_path / name / "file"
    assert not links.exists()


@pytest.mark.parametrize("name", ODD)
def test_a_path_with_patterns_leads_to_the_same_place(tmp_path: Path, name: str) -> None:
    given = tmp_path / name / "deep" / "er"
    path = literal(given)  # before there is anything
    assert not PATTERN.search(str(path))
    given.mkdir(parents=True)
    (path / "file").write_text("here")
    assert (given / "file").read_text() == "here"
    assert (path.parts[-2:], literal(given), as_named(path)) == (("deep", "er"), path, given)
    assert as_named(path / "file") == given / "file"


def test_a_name_that_is_not_utf_8_is_refused_in_plain_text(tmp_path: Path) -> None:
    require_utf8(tmp_path / "größe 日本")
    with pytest.raises(BadInputError, match=r"caf\\udce9: a name in this path is not UTF-8") as caught:
        require_utf8(tmp_path / os.fsdecode(b"caf\xe9"))
    caught.value.message.encode()


def test_odd_names_below_one_another_make_one_link(tmp_path: Path, links: Path) -> None:
    given = tmp_path / "[1]" / "*" / "plain"
    given.mkdir(parents=True)
    assert literal(given).resolve() == given.resolve()
    assert [link.readlink() for link in links.iterdir()] == [tmp_path / "[1]" / "*"]


def test_two_folders_never_share_a_link(tmp_path: Path) -> None:
    assert literal(tmp_path / "a[1]/x") != literal(tmp_path / "a[2]/x")
    assert literal(tmp_path / "a[1]") != literal(tmp_path / "b/a[1]")


def test_a_link_to_a_file_ends_as_the_file_does(tmp_path: Path) -> None:
    assert literal(tmp_path / "rows [1].csv.gz").suffix == ".gz"
    assert not PATTERN.search(str(literal(tmp_path / "rows.[gz")))


def test_a_relative_path_is_one_below_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a[1]").mkdir()
    monkeypatch.chdir(tmp_path / "a[1]")
    assert as_named(literal(Path("data"))) == tmp_path / "a[1]" / "data"


def test_a_link_that_leads_elsewhere_is_set_right(tmp_path: Path, links: Path) -> None:
    path = literal(tmp_path / "a[1]")
    path.unlink()
    path.symlink_to(tmp_path)
    assert literal(tmp_path / "a[1]").readlink() == tmp_path / "a[1]"
    assert len(list(links.iterdir())) == 1


def test_links_of_others_are_not_used(tmp_path: Path, links: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    links.mkdir(parents=True)
    links.chmod(0o777)  # whoever may write here may lead a run to other data
    monkeypatch.setattr("privacy_pipeline.files.literal_paths._folders", lambda: iter([links]))
    with pytest.raises(BadInputError, match=r"a\[1\]: TensorFlow and Beam take .* for a pattern") as caught:
        literal(tmp_path / "a[1]")
    assert "another name" in caught.value.fix and "\n" not in caught.value.message


def test_a_home_with_patterns_of_its_own_has_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home [old]"))
    path = literal(tmp_path / "a[1]")
    assert path.is_relative_to("/tmp") and not PATTERN.search(str(path))
    assert as_named(path) == tmp_path / "a[1]"
    path.unlink()


def test_a_home_that_cannot_be_written_has_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "file"))
    path = literal(tmp_path / "a[1]")
    assert as_named(path) == tmp_path / "a[1]"
    path.unlink()


WORDS = st.lists(st.text(alphabet=st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), max_size=20))


@given(WORDS)
def test_a_printed_command_is_the_same_words_again(words: list[str]) -> None:
    assert shlex.split(typed(*words)) == ["privacy-pipeline", *words]


@pytest.mark.parametrize("name", [*ODD, *PLAIN, "$(touch owned)", "`id`", "a;b", "a&b", "a|b", "~", "!", "a b"])
def test_a_shell_gets_the_path(tmp_path: Path, name: str) -> None:
    command = typed("%s", Path(name), program="printf")
    told = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert os.path.normpath(told) == os.path.normpath(name)
    assert list(tmp_path.iterdir()) == []


def test_a_path_is_never_an_option() -> None:
    assert typed("run", Path("-a.yaml")) == "privacy-pipeline run ./-a.yaml"
    assert quoted(Path("-a b")) == "'./-a b'"


def test_no_other_module_writes_a_path_into_a_command() -> None:
    """A command with a hole in it is made by `typed`; run ids, datasets and variables are plain words."""
    plain = {"state.run_id", "found.run_id", "folder.run_id", "registration.dataset", "metadata.password_env"}
    plain |= {"ENVIRONMENT", "unknown[0]", "name", "__version__", "command"}
    root = Path(__file__).parents[1]
    command = re.compile(r'f"[^"\n]*(?:privacy-pipeline |chmod \d+ |--logdir )[^"\n]*"')
    found = [
        (str(path.relative_to(root)), text)
        for package in ("privacy_pipeline", "federated")
        for path in (root / package).rglob("*.py")
        for text in command.findall(path.read_text())
        for hole in re.findall(r"{([^{}]*)}", re.split(r"privacy-pipeline |chmod \d+ |--logdir ", text, maxsplit=1)[1])
        if hole not in plain and not hole.isupper() and not hole.startswith(("quoted(", "typed("))
    ]
    assert found == [("privacy_pipeline/data/counting/row_digests.py", 'f"privacy-pipeline row digests: {what}"')]
