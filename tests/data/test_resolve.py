"""Patterns become files as TFX's ExampleGen would choose them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from privacy_pipeline.data.source import resolve
from privacy_pipeline.errors import BadInputError
from tests.data.samples import dataset, put


def spans(tmp_path: Path, *names: str) -> None:
    for name in names:
        for split in ("train", "eval"):
            put(tmp_path / f"span-{name}" / split / "a.csv", f"x,y\n{name[:1]},{split}\n")


def test_latest_span_is_the_largest_number(tmp_path: Path) -> None:
    spans(tmp_path, "2", "10", "9", "old")
    source = resolve(dataset=dataset(tmp_path))
    assert (source.span, source.version) == (10, None)
    assert source.patterns == {"train": "span-10/train/*", "eval": "span-10/eval/*"}
    assert source.files["train"] == (tmp_path / "span-10/train/a.csv",)


def test_asked_span_is_taken_and_absent_ones_are_listed(tmp_path: Path) -> None:
    spans(tmp_path, "2", "10")
    assert resolve(dataset=dataset(tmp_path, span=2)).span == 2
    with pytest.raises(BadInputError, match=r"span 3 is absent; present: 2, 10"):
        resolve(dataset=dataset(tmp_path, span=3))


def test_zero_padding(tmp_path: Path) -> None:
    spans(tmp_path, "01", "02", "003")
    patterns = {"train": "span-{SPAN:2}/train/*", "eval": "span-{SPAN:2}/eval/*"}
    source = resolve(dataset=dataset(tmp_path, input=patterns))
    assert source.span == 2
    assert source.patterns["train"] == "span-02/train/*"
    assert resolve(dataset=dataset(tmp_path)).patterns["train"] == "span-003/train/*"


def test_same_number_spelt_twice_is_refused(tmp_path: Path) -> None:
    spans(tmp_path, "1", "01")
    with pytest.raises(BadInputError, match="are the same span"):
        resolve(dataset=dataset(tmp_path))


def test_versions_belong_to_the_span(tmp_path: Path) -> None:
    for name in ("1/v9", "2/v1", "2/v10", "2/v2"):
        put(tmp_path / f"{name}/d.csv")
    section = dataset(tmp_path, input="{SPAN}/v{VERSION}/*.csv", hash_split={"train": 4, "eval": 1})
    source = resolve(dataset=section)
    assert (source.span, source.version, source.patterns) == (2, 10, {"all": "2/v10/*.csv"})
    assert resolve(dataset=section.model_copy(update={"version": 1})).version == 1
    with pytest.raises(BadInputError, match="version 9 is absent; present: 1, 2, 10"):
        resolve(dataset=section.model_copy(update={"version": 9}))


def test_split_without_files_in_the_span(tmp_path: Path) -> None:
    spans(tmp_path, "1")
    put(tmp_path / "span-2/train/a.csv")
    with pytest.raises(BadInputError, match=r"split 'eval' has no files in span 2 .* it has: 1"):
        resolve(dataset=dataset(tmp_path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "no span found for"),
        ({"input": {"train": "t/*", "eval": "e/*"}}, r"split 'train' has no files \(pattern 't/\*'\)"),
        ({"input": {"train": "t/*", "eval": "e/*"}, "span": 1}, "span is 1, but no `input` pattern has {SPAN}"),
        ({"input": {"train": "{SPAN}/*", "eval": "e/*"}}, "either all patterns have {SPAN} or none has"),
        ({"input": {"train": "{VERSION}/*", "eval": "{VERSION}/*"}}, "{VERSION} without {SPAN}"),
        ({"input": {"train": "{SPAN}{SPAN}", "eval": "e"}}, "a placeholder twice"),
        ({"input": {"train": "{YYYY}", "eval": "e"}}, "unknown placeholder {YYYY}"),
        ({"input": {"train": "{SPAN:x}", "eval": "{SPAN}"}}, "is not a positive integer"),
        ({"input": {"train": "../*", "eval": "e"}}, "must stay below dataset.path"),
    ],
)
def test_refusals(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        resolve(dataset=dataset(tmp_path, **changes))


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="nowhere: no such folder"):
        resolve(dataset=dataset(tmp_path / "nowhere"))


def test_empty_and_unreadable_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    section = dataset(tmp_path, input="d/*", hash_split={"train": 4, "eval": 1})
    file = put(tmp_path / "d/a.csv", "")
    with pytest.raises(BadInputError, match=r"a.csv: is empty \(0 bytes\)"):
        resolve(dataset=section)
    (tmp_path / "d/sub").mkdir()
    put(file)
    with pytest.raises(BadInputError, match="sub: is a folder"):
        resolve(dataset=section)
    (tmp_path / "d/sub").rmdir()

    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("privacy_pipeline.data.files.open_plain", refuse)
    with pytest.raises(BadInputError, match=r"a.csv: cannot be read \(Permission denied\)"):
        resolve(dataset=section)


def test_digest_is_of_content_and_split_only(tmp_path: Path) -> None:
    spans(tmp_path / "one", "1")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    (tmp_path / "two/span-1/train/a.csv").rename(tmp_path / "two/span-1/train/b.csv")
    digest = resolve(dataset=dataset(tmp_path / "one")).plain_digest()
    assert resolve(dataset=dataset(tmp_path / "two")).plain_digest() == digest
    put(tmp_path / "two/span-1/eval/a.csv", "x,y\n1,changed\n")
    assert resolve(dataset=dataset(tmp_path / "two")).plain_digest() != digest


def test_brackets_in_patterns_and_folders(tmp_path: Path) -> None:
    folder = tmp_path / "a[b]"
    put(folder / "1/p1.csv")
    put(folder / "1/q1.csv")
    section = dataset(folder, input="{SPAN}/[!q]?.csv", hash_split={"train": 4, "eval": 1})
    assert resolve(dataset=section).files["all"] == (folder / "1/p1.csv",)
