"""Ledgers in folders with odd names: the file, its keys and what protects it are all in the one place."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import pytest
import sqlalchemy as sa

from privacy_pipeline.backends.isolated.visible import _ledger
from privacy_pipeline.errors import BadInputError
from privacy_pipeline.ledger.ledger import Ledger
from privacy_pipeline.ledger.storage import keys
from privacy_pipeline.ledger.storage import schema as ledger_schema
from tests.ledger.conftest import make_registration

NAMES = ["my [v2] #1 50%", "a*b", "a%20b", "it's", 'say "hi"', "é 日本", "x" * 200, "a\\b", "a&b=c", "a@b:c", "-a", "~"]


def _made(folder: Path, url: str) -> None:
    Ledger.open(url, create=True).register(make_registration(), epsilon=3.0, delta=1e-5)
    assert Ledger.open(url).status("adult")[0].cap_epsilon == 3.0
    assert {"ledger.db", "ledger_key.pem", "ledger_key.pub"} <= {path.name for path in folder.iterdir()}
    assert [place for _, place in _ledger(url)] == [folder.resolve()]


@pytest.mark.parametrize("name", NAMES)
def test_a_ledger_lies_in_any_folder(tmp_path: Path, name: str) -> None:
    _made(tmp_path / name, f"sqlite:///{tmp_path}/{name}/ledger.db")
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["which?", "a?b=c", "50%?", "#1", *NAMES])
@pytest.mark.parametrize("form", ["sqlite:///file:{}?uri=true", "sqlite:///file://{}?uri=true&mode=rwc"])
def test_a_uri_spells_what_a_url_cannot_hold(tmp_path: Path, name: str, form: str) -> None:
    _made(tmp_path / name, form.format(quote(f"{tmp_path}/{name}/ledger.db")))
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    "url", ["sqlite:///which?/ledger.db", "sqlite:///a?b=c/ledger.db", "sqlite:///a?", "sqlite:///a?mode=ro"]
)
def test_a_question_mark_never_cuts_a_path_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInputError, match=r"what stands behind the \? in .* is not an option of SQLite") as caught:
        Ledger.open(url, create=True)
    assert "%3F" in caught.value.fix
    assert list(tmp_path.iterdir()) == []


def test_a_host_is_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInputError, match="names a host"):
        Ledger.open("sqlite://ledger/ledger.db", create=True)
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_only_looks_like_a_uri_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    url = sa.make_url("sqlite:///file:50%25/ledger.db")
    assert ledger_schema.sqlite_file(url) == Path("file:50%25/ledger.db")
    assert keys.key_file(url).parent == Path("file:50%25")
    _made(tmp_path / "file:50%25", "sqlite:///file:50%25/ledger.db")


def test_options_of_the_driver_stay_options(tmp_path: Path) -> None:
    _made(tmp_path / "a", f"sqlite:///{tmp_path}/a/ledger.db?timeout=5")
