"""Plans, registrations and ledgers for the tests of accounting."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from privacy_pipeline.accounting.events import gaussian_passes
from privacy_pipeline.accounting.plan import MechanismPlan, Relation, Sampler
from privacy_pipeline.ledger.ledger import Ledger
from privacy_pipeline.ledger.state.registration import Registration, SplitCount
from tests.ledger.postgresql_server import program, server

UNITS = 1000
DIGEST = hashlib.sha256(b"adult").hexdigest()


def make_plan(
    noise: float = 10.0,
    epochs: int = 1,
    *,
    relation: Relation = Relation.ZERO_OUT,
    unit: str = "row",
    units: int = UNITS,
) -> MechanismPlan:
    """A plan of full passes; of Poisson samples where the relation allows no fixed partition."""
    return MechanismPlan(
        backend="dp_sgd",
        mechanism="DP-SGD (Gaussian)",
        unit=unit,
        contribution_bound=1,
        relation=relation,
        sampler=Sampler.SHUFFLED if relation is Relation.ZERO_OUT else Sampler.POISSON,
        units=units if relation is Relation.ZERO_OUT else None,
        epochs=epochs,
        batch_size=100,
        steps=10 * epochs,
        clipping_norm=1.0,
        noise_multiplier=noise,
        delta=1e-5,
        event=gaussian_passes(noise_multiplier=noise, epochs=epochs),
    )


def make_registration(
    dataset: str = "adult", span: int | None = None, *, digest: str = DIGEST, unit: str = "row"
) -> Registration:
    """A registration of 1000 rows to train on."""
    return Registration(
        dataset=dataset,
        span=span,
        unit=unit,
        contribution_bound=1,
        relation=Relation.ZERO_OUT,
        splits={"train": SplitCount(rows=UNITS, units=UNITS), "eval": SplitCount(rows=200, units=200)},
        columns=("age", "label"),
        digest=digest,
        registered="2026-01-01T00:00:00+00:00",
    )


@pytest.fixture
def url(tmp_path: Path) -> str:
    """URL of a ledger that does not exist yet."""
    return f"sqlite:///{tmp_path}/new/folder/ledger.db"


@pytest.fixture
def ledger(url: str) -> Ledger:
    """A ledger with one dataset and a cap of epsilon 3."""
    made = Ledger.open(url, create=True)
    made.register(make_registration(), epsilon=3.0, delta=1e-5)
    return made


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """URL of a PostgreSQL server of this session's own."""
    if program("initdb") is None:
        pytest.skip("PostgreSQL is not installed")
    with server() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def fresh(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """URL of a database without a ledger."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/ledger/ledger.db"
    monkeypatch.setenv("PRIVACY_PIPELINE_LEDGER_KEY", str(tmp_path / "key.pem"))
    url: str = request.getfixturevalue("postgresql")
    name = "db_" + "".join(letter for letter in tmp_path.name.lower() if letter.isalnum())
    engine = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    engine.dispose()
    return url.rsplit("/", 1)[0] + f"/{name}"
