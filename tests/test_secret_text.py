"""No config may hold a password, and what is printed masks one."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from federated.experiments.config import load_experiment
from privacy_pipeline.config.loader import load_config
from privacy_pipeline.encrypted.transport.dialing import addresses
from privacy_pipeline.errors import BadInputError, PipelineError
from privacy_pipeline.ledger.state.policy import load_policy
from privacy_pipeline.ledger.storage import schema as ledger_schema
from privacy_pipeline.reports.dataset.facts import load_facts
from privacy_pipeline.text.secret_text import found_in, found_in_url, masked, masked_by_look, note_variable
from tests.config.test_config_loader import BASE

CANARY = "hunter2-canary"
URLS = [
    f"postgresql://u:{CANARY}@h/db",
    f"postgresql+psycopg://:{CANARY}@h/db",
    f"postgres://u:a@{CANARY}@h/db",
    f"postgresql://u:{CANARY} b@h/db",
    f"postgresql://u:12/{CANARY}@h/db",
    f"postgresql://u@h/db?password={CANARY}",
    f"postgresql://u@h/db?PASSWORD={CANARY}",
    f"postgresql://u@h/db?sslmode=require&sslpassword={CANARY}",
    f"postgresql://u@h/db?pass%77ord={CANARY}",
    f"postgresql://u@h/db?pass%2577ord={CANARY}",
    f"postgresql://h/db?host=postgresql://u:{CANARY}@h",
    f"postgresql://h/password={CANARY}",
    f"postgresql://u%3A{CANARY}@h/db",
    f"postgresql%3A//u:{CANARY}@h/db",
    f"postgresql:/u:{CANARY}@h/db",
    f"postgresql:u:{CANARY}@h/db",
    f"postgresql:///u:{CANARY}@h/db",
    f"postgresql+psycopg:////u:{CANARY}@h/db",
    f"postgresql://u\uff1a{CANARY}@h/db",
    f"postgresql://u@h/db?passcode={CANARY}",
    f"mysql://u:{CANARY}@h/db",
    f"sqlite://u:{CANARY}@h/x.db",
]
LEGITIMATE = [
    "sqlite:///ledger/ledger.db",
    "sqlite:////data/a:b@c/x.db",
    "sqlite:///file:50%25/ledger.db?uri=true",
    "postgresql://u@h:5432/db?passfile=/x&sslkey=/k&service=prod&require_auth=password",
    "postgresql://u@[::1]:5432/db",
    "postgresql:///db?host=/run/postgresql",
]


@pytest.mark.parametrize("url", URLS)
def test_a_password_in_the_ledgers_url_is_refused_unseen(url: str, tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(BASE + f"ledger: {json.dumps(url)}\n")
    with pytest.raises(BadInputError) as of_option:
        ledger_schema.parse(url)
    with pytest.raises(BadInputError) as of_file:
        load_config(file)
    file.write_text(BASE)
    with pytest.raises(BadInputError) as of_override:
        load_config(file, overrides=[f"ledger={json.dumps(url)}"])
    for caught in (of_option, of_file, of_override):
        assert "ledger: " in caught.value.message and "PGPASSWORD" in caught.value.fix
        assert CANARY not in str(caught.value) + caught.value.fix + repr(caught.value.__cause__)
    assert f"{file}:18: ledger: " in of_file.value.message


@pytest.mark.parametrize("url", LEGITIMATE)
def test_urls_without_a_password_stay_as_they_are(url: str, tmp_path: Path) -> None:
    assert not found_in_url(url) and not found_in(url) and masked(url) == url
    (tmp_path / "x.yaml").write_text(BASE + f"ledger: {json.dumps(url)}\n")
    assert load_config(tmp_path / "x.yaml").ledger == url


@pytest.mark.parametrize(
    "lines",
    [
        f"metadata: {{kind: mysql, host: h, port: 1, database: d, user: u, password: {CANARY}}}",
        f"metadata: {{kind: mysql, host: 'u:{CANARY}@h', port: 1, database: d, user: u, password_env: P}}",
        f"metadata: {{kind: mysql, host: h, port: 1, database: d, user: 'u:{CANARY}', password_env: P}}",
        f"metadata: {{kind: mysql, host: h, port: 1, database: d, user: u, password_env: {CANARY}}}",
        f"metadata: {{kind: postgresql, host: h, port: 1, database: 'd password={CANARY}', user: u, password_env: P}}",
        f"metadata: {{path: 'mysql://u:{CANARY}@h/db'}}",
        f"beam: {{args: ['--s3_secret_access_key={CANARY}']}}",
        f"beam: {{args: ['--password', {CANARY}]}}",
        f"model: {{parameters: {{api_key: {CANARY}}}}}",
        f"workspace: 'https://u:{CANARY}@h/x'",
        f"'x?password={CANARY}': 1",
    ],
)
def test_no_other_field_takes_one(lines: str, tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(BASE + lines + "\n")
    with pytest.raises(BadInputError) as caught:
        load_config(file)
    assert f"{file}:18" in caught.value.message and CANARY not in str(caught.value) + caught.value.fix


@pytest.mark.parametrize(
    ("name", "text", "load"),
    [
        ("policy.yaml", "dataset: adult\nledger: '{}'\n", load_policy),
        ("parties.yaml", "server0: '{}'\n", lambda path: addresses(path.parent)),
        ("facts.yaml", "curator: 'see {}'\n", load_facts),
        ("sweep.yaml", "sweep: {{privacy.ledger: ['{}']}}\n", load_experiment),
        ("experiment.yaml", "privacy:\n  ledger: '{}'\n", load_experiment),
    ],
)
def test_every_kind_of_config_refuses_it(name: str, text: str, load: Callable[[Path], object], tmp_path: Path) -> None:
    for url in (URLS[0], URLS[5], URLS[8]):
        (tmp_path / name).write_text(text.format(url))
        with pytest.raises(BadInputError, match="holds no passwords") as caught:
            load(tmp_path / name)
        assert str(tmp_path / name) in caught.value.message and CANARY not in str(caught.value)


@pytest.mark.parametrize(
    "override",
    [
        f"metadata={{kind: mysql, password: {CANARY}}}",
        f"metadata.password={CANARY}",
        f"ledger=[{URLS[0]}",
        f"a={URLS[5]}",
    ],
)
def test_an_override_is_shown_without_it(override: str, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(BASE)
    with pytest.raises(BadInputError) as caught:
        load_config(tmp_path / "x.yaml", overrides=[override])
    assert "override" in caught.value.message and CANARY not in str(caught.value)


def test_messages_mask_what_looks_like_a_password_and_what_the_environment_holds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PGPASSWORD", "p@ss 'w")
    monkeypatch.setenv("TEST_OF_METADATA", "other-secret")
    note_variable("TEST_OF_METADATA")
    said = (
        f"cannot reach postgresql://u:{CANARY}@h/db?sslpassword={CANARY} as p@ss 'w or p%40ss%20%27w or other-secret; "
        f"password='{CANARY}' -----BEGIN PRIVATE KEY-----\n{CANARY}\n-----END PRIVATE KEY----- at https://h:80/a"
    )
    error = PipelineError(said, fix=said)
    for text in (masked(said), error.message, error.fix, str(error)):
        assert CANARY not in text and "ss%20" not in text and "p@ss" not in text and "other-secret" not in text
        assert "postgresql://u:***@h/db?sslpassword=***" in text and "https://h:80/a" in text


@pytest.mark.parametrize(
    "said",
    [
        f"postgresql://u:12/{CANARY}@h/db",
        f"no driver for mysql+pymysql://u:0/{CANARY}@h/db",
        f"ledger postgresql+psycopg:///u:{CANARY}@h/db: connection is bad",
        f"dataset postgresql:u:{CANARY}@127.0.0.1/db is not registered",
        f"postgresql%3A%2F%2Fu%3A{CANARY}%40h",
        f"url=postgresql%253A%252F%252Fu%253A{CANARY}%2540h",
        f"x password%3D{CANARY} y",
        f"{{'password': '{CANARY}', 'user': 'u'}}",
        f"-----BEGIN PRIVATE KEY-----\n{CANARY}\n-----END PRIVATE KEY-----",
        f"-----BEGIN OPENSSH PRIVATE KEY-----\n{CANARY}",
    ],
)
def test_shapes_that_are_refused_are_masked_too(said: str) -> None:
    for canary in (CANARY, CANARY.replace("-", "+")):
        assert canary not in masked(said.replace(CANARY, canary)) or ("KEY--" in said and canary == CANARY)


@pytest.mark.parametrize(
    "said", ["50% of x=3: a%20b", "https://h:80/a%40b", "file:///a%3Ab@c", "100%25", "postgresql://u@h:5432/d%20b"]
)
def test_what_holds_none_is_shown_as_it_is(said: str) -> None:
    assert masked(said) == said


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "piece", ["://a:", "postgresql://a:", "postgresql:", "a%", "%a", "password='", '"password": "', "a:", "-----BEGIN "]
)
def test_no_text_takes_time_that_grows_with_its_square(piece: str) -> None:
    """Most would take minutes if it did."""
    text = piece * (100_000 // len(piece))
    began = time.process_time()
    for said in (text, text + " =:%", text + "@"):
        masked(said)
        found_in(said), found_in_url(said), found_in_url("postgresql:" + said)
    assert time.process_time() - began < 20


def test_json_stays_json() -> None:
    document = {"ledger": URLS[0], "more": [URLS[5], {"password": f'a"{CANARY}'}, "p=1"], "n": 1.5}
    for indent in (None, 2):
        text = masked_by_look(json.dumps(document, indent=indent))
        assert CANARY not in text and json.loads(text)["ledger"] == "postgresql://u:***@h/db"


def test_results_keep_numbers_that_are_a_password_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", "1234")
    assert json.loads(masked_by_look(json.dumps({"rows": 12345}))) == {"rows": 12345}
    assert masked("rows 12345") == "rows ***5"
