"""Every text comes back from ML Metadata as it went in, also from PostgreSQL."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from ml_metadata.proto import metadata_store_pb2 as mlmd
from ml_metadata.proto import metadata_store_service_pb2 as service

from privacy_pipeline.errors import BadInputError
from privacy_pipeline.pipelines.workspace import metadata, stored_text
from tests.ledger import postgresql_server
from tests.pipelines import mariadb_server
from tests.pipelines.projects import write_project

TEXTS = {
    "backslash": "\\",
    "nested JSON": json.dumps({"plan": json.dumps({"name": 'a "quoted" \\ one'})}),
    "windows": "C:\\new\\table",
    "quote after backslash": '\\\'); DROP TABLE "Artifact"; --',
    "spelled": "~1 ~0 ~2 ~~ ~",
    "ends in backslash": "a\\",
    "percent": "100 % %s %20",
    "not ASCII": "é 日本 😀",
    "lines": "a\nb\tc",
}
SOME = st.text(alphabet=st.sampled_from(["\\", "~", "0", "1", "2", "\0", "a", "'", "é"]))


@given(SOME)
def test_a_text_is_read_as_it_was(text: str) -> None:
    stored = stored_text.spelled(text)
    assert not {"\\", "\0"} & set(stored)
    assert stored_text.read(stored) == text


@given(st.text(alphabet=st.characters(blacklist_characters="\\~\0")))
def test_a_text_without_the_three_characters_is_stored_as_it_is(text: str) -> None:
    assert stored_text.spelled(text) == stored_text.read(text) == text


@given(SOME, SOME)
def test_no_two_texts_are_stored_alike(one: str, other: str) -> None:
    assert (stored_text.spelled(one) == stored_text.spelled(other)) == (one == other)


def test_fields_lists_keys_and_values_are_all_changed() -> None:
    request = service.PutExecutionRequest()
    request.execution.name = "n\\"
    # The new key of the first is the old key of the second.
    for key in ("\\", "~1", "~01"):
        request.execution.custom_properties[key].string_value = key
    request.execution.properties["number"].int_value = 7
    pair = request.artifact_event_pairs.add()
    pair.artifact.uri = "a\\b"
    pair.event.path.steps.add().key = "k\\"
    types = mlmd.ArtifactType(name="t\\", properties={"p\\": mlmd.STRING, "q": mlmd.INT})
    before = request.SerializeToString(deterministic=True), types.SerializeToString(deterministic=True)
    for message in (request, types):
        stored_text.change_texts(message, stored_text.spelled)
    assert request.execution.name == "n~1"
    held = {key: value.string_value for key, value in request.execution.custom_properties.items()}
    assert held == {"~1": "~1", "~01": "~01", "~001": "~001"}
    assert request.execution.properties["number"].int_value == 7
    assert (pair.artifact.uri, pair.event.path.steps[0].key) == ("a~1b", "k~1")
    assert (types.name, dict(types.properties)) == ("t~1", {"p~1": mlmd.STRING, "q": mlmd.INT})
    for message in (request, types):
        stored_text.change_texts(message, stored_text.read)
    assert (request.SerializeToString(deterministic=True), types.SerializeToString(deterministic=True)) == before


@pytest.fixture(scope="module")
def postgresql() -> Iterator[mlmd.ConnectionConfig]:
    if postgresql_server.program("initdb") is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    with postgresql_server.server() as url:
        yield _postgresql(url)


def _postgresql(url: str) -> mlmd.ConnectionConfig:
    at, found = sa.make_url(url), mlmd.ConnectionConfig()
    found.postgresql.host, found.postgresql.port, found.postgresql.dbname = at.host, str(at.port), at.database
    found.postgresql.user, found.postgresql.password = at.username, "unasked"
    return found


@pytest.fixture(scope="module")
def mariadb() -> Iterator[mlmd.ConnectionConfig]:
    if mariadb_server.missing():
        pytest.skip(mariadb_server.missing())
    with mariadb_server.server() as server:
        found = mlmd.ConnectionConfig()
        found.mysql.host, found.mysql.port, found.mysql.database = "127.0.0.1", server.port, "mlmd"
        found.mysql.user, found.mysql.password = "mlmd", mariadb_server.PASSWORD
        yield found


@pytest.fixture
def sqlite(tmp_path: Path) -> mlmd.ConnectionConfig:
    found = mlmd.ConnectionConfig()
    found.sqlite.filename_uri = str(tmp_path / "metadata.db")
    found.sqlite.connection_mode = mlmd.SqliteMetadataSourceConfig.READWRITE_OPENCREATE
    return found


def _kept(connection: Any, text: str) -> list[Any]:
    """What a store gives back of a text that was written in every place that TFX writes to."""
    store = stored_text.store_of(connection)
    kind = store.put_artifact_type(mlmd.ArtifactType(name="Thing", properties={"said": mlmd.STRING}))
    of_execution = store.put_execution_type(mlmd.ExecutionType(name="Step"))
    of_context = store.put_context_type(mlmd.ContextType(name="Place"))
    artifact = mlmd.Artifact(type_id=kind, uri=text)
    artifact.properties["said"].string_value = text
    artifact.custom_properties[text].string_value = text
    execution = mlmd.Execution(type_id=of_execution, name=text)
    execution.custom_properties["asked"].string_value = text
    event = mlmd.Event(type=mlmd.Event.OUTPUT)
    event.path.steps.add().key = text
    _, (number,), _ = store.put_execution(execution, [(artifact, event)], [mlmd.Context(type_id=of_context, name=text)])
    (stored,) = store.get_artifacts_by_id([number])
    (happened,) = store.get_events_by_artifact_ids([number])
    by_name = store.get_execution_by_type_and_name("Step", text)
    return [
        stored.uri,
        stored.properties["said"].string_value,
        [(key, value.string_value) for key, value in stored.custom_properties.items()],
        happened.path.steps[0].key,
        by_name.custom_properties["asked"].string_value,
        store.get_context_by_type_and_name("Place", text).name,
        number in [found.id for found in store.get_artifacts_by_uri(text)],
    ]


@pytest.mark.parametrize("database", ["sqlite", "postgresql", "mariadb"])
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_databases_give_back_every_text(request: pytest.FixtureRequest, database: str, text: str) -> None:
    kept = _kept(request.getfixturevalue(database), text)
    assert kept == [text, text, [(text, text)], text, text, text, True]


def test_a_server_that_is_not_there_is_named_before_a_run_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TEST_METADATA_PASSWORD", "a-secret")
    at = {"host": "127.0.0.1", "port": 1, "database": "meta", "user": "me", "password_env": "TEST_METADATA_PASSWORD"}
    for kind in ("postgresql", "mysql"):
        config = write_project(tmp_path / kind, metadata={"kind": kind, **at})
        with pytest.raises(BadInputError) as caught:
            metadata.require_usable(config)
        assert f"metadata: {kind} me@127.0.0.1:1/meta cannot be used: " in caught.value.message
        assert "a-secret" not in caught.value.message
        assert "\n" not in caught.value.message
    assert "refused" not in capfd.readouterr().err  # the client's own lines are in the message
    metadata.require_usable(write_project(tmp_path / "sqlite"))


def test_what_postgresql_says_of_a_refusal_is_in_the_message(
    postgresql: mlmd.ConnectionConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_METADATA_PASSWORD", "a-secret")
    at = postgresql.postgresql
    server = {"kind": "postgresql", "host": at.host, "port": int(at.port), "database": at.dbname, "user": "stranger"}
    config = write_project(tmp_path, metadata={**server, "password_env": "TEST_METADATA_PASSWORD"})
    with pytest.raises(BadInputError, match='role "stranger" does not exist'):
        metadata.require_usable(config)


@pytest.mark.parametrize("password", ["two words", "it's", "a\\b", "x host=elsewhere.invalid", "", " ", "plain"])
def test_a_password_is_one_word_of_the_connection(
    postgresql: mlmd.ConnectionConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, password: str
) -> None:
    monkeypatch.setenv("TEST_METADATA_PASSWORD", password)
    at = postgresql.postgresql
    server = {"kind": "postgresql", "host": at.host, "port": int(at.port), "database": at.dbname, "user": at.user}
    metadata.require_usable(write_project(tmp_path, metadata={**server, "password_env": "TEST_METADATA_PASSWORD"}))


def test_no_other_module_opens_a_store() -> None:
    """A store that is opened elsewhere would not spell its texts."""
    root = Path(stored_text.__file__).parents[2]
    found = [str(path.relative_to(root)) for path in root.rglob("*.py") if "MetadataStore(" in path.read_text()]
    assert found == ["pipelines/workspace/stored_text.py"]
