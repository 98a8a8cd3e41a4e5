"""Whole pipelines with ML Metadata on a server: they end as with a file, and hold the same."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from privacy_pipeline.tasks.registry import metrics
from tests.ledger import postgresql_server
from tests.pipelines import mariadb_server

if TYPE_CHECKING:
    from tests.e2e.conftest import Project, Shared

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
_ENVIRONMENT = "PRIVACY_PIPELINE_TEST_METADATA"
# Each run has its own; all else is the same wherever ML Metadata lies.
_ITS_OWN = ("run_id", "started", "ended", "cached_from", "cached_training")
_NOISY = tuple(metrics())


@contextmanager
def _postgresql() -> Iterator[dict[str, Any]]:
    if postgresql_server.program("initdb") is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    with postgresql_server.server() as url:
        at = sa.make_url(url)
        yield {"kind": "postgresql", "port": at.port, "database": at.database, "user": at.username}


@contextmanager
def _mariadb() -> Iterator[dict[str, Any]]:
    if mariadb_server.missing():
        pytest.skip(mariadb_server.missing())
    with mariadb_server.server() as server:
        yield {"kind": "mysql", "port": server.port, "database": "mlmd", "user": "mlmd"}


@pytest.mark.parametrize("database", [_postgresql, _mariadb], ids=["postgresql", "mariadb"])
def test_plain_and_dp_runs_hold_on_a_server_what_they_hold_in_a_file(
    shared: Shared,
    new_project: Callable[[], Project],
    run_python: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    database: Any,
) -> None:
    monkeypatch.setenv(_ENVIRONMENT, mariadb_server.PASSWORD)
    project = new_project()
    with database() as where:
        block = {"host": "127.0.0.1", "password_env": _ENVIRONMENT, **where}
        for name in ("plain", "dp"):
            path = project.root / f"configs/{name}.yaml"
            path.write_text(path.read_text() + f"metadata: {json.dumps(block)}\n")
        project.done("budget", "register", "configs/dp.yaml", "--epsilon", "10")
        runs = [project.done("run", f"configs/{name}.yaml", "--json") for name in ("plain", "dp", "plain")]
        assert [ended.err for ended in runs] == ["", "", ""]
        assert runs[2].json["run"]["cached_from"] == runs[0].json["run"]["run_id"]
        attacked = project.done("audit", runs[1].json["run"]["run_id"], "--attack", "--json").json
        assert attacked["attacks"][0]["members"] == 1_200  # found by the lineage on the server
        listed = project.runs()
        assert not (project.root / "workspace/metadata.db").exists()
        stored = json.loads(run_python(_STORED, json.dumps({**block, "password": mariadb_server.PASSWORD})))
    of_file = {run["run_id"]: run for run in shared.project.runs()}
    assert [_same(run) for run in listed[:2]] == [_same(of_file[run]) for run in (shared.plain_id, shared.dp_id)]
    assert _same(listed[2]) == _same(listed[0])
    assert [run["cached_training"] for run in listed] == [0, 0, 1]
    published = {row["run_id"]: row for row in shared.project.published()}
    of_server = {row["run_id"]: row for row in stored}
    assert set(of_server) == {run["run_id"] for run in listed}
    for here, there in zip(listed, (shared.plain_id, shared.dp_id, shared.plain_id), strict=True):
        assert _same(of_server[here["run_id"]]) == _same(published[there])


def _same(row: dict[str, Any]) -> dict[str, Any]:
    left_out = {*_ITS_OWN, *(_NOISY if row["backend"] == "dp_sgd" else ())}
    return {name: value for name, value in row.items() if name not in left_out}


_STORED = """
import json, sys
from ml_metadata.proto import metadata_store_pb2
from privacy_pipeline.pipelines.workspace.metadata import run_metrics

at = json.loads(sys.argv[1])
connection = metadata_store_pb2.ConnectionConfig()
if at["kind"] == "mysql":
    server = connection.mysql
    server.port, server.database = at["port"], at["database"]
else:
    server = connection.postgresql
    server.port, server.dbname = str(at["port"]), at["database"]
server.host, server.user, server.password = at["host"], at["user"], at["password"]
print(json.dumps(run_metrics(connection)))
"""
