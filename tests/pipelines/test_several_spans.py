"""One run over several spans: what it reads, what it is refused for, and what `check` and `forecast` say of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from privacy_pipeline.cli.main import app
from privacy_pipeline.config.models.pipeline import PipelineConfig
from privacy_pipeline.data import source
from privacy_pipeline.errors import BadInputError, BudgetRefusedError
from privacy_pipeline.ledger.ledger import Ledger
from privacy_pipeline.pipelines.preflight import preflight, spending
from privacy_pipeline.pipelines.registration.register import register_dataset
from privacy_pipeline.spans import Span
from tests.pipelines.projects import HASHED, KEYED, csv_text, write_project, write_spans

NOISE = 2.0  # two such runs fit a budget, three do not
SHARED = "things/train/person"


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PipelineConfig]:
    """Spans 1 to 5 of different persons, each with a budget of epsilon 3."""
    monkeypatch.chdir(tmp_path)
    made = written(tmp_path, dataset=KEYED)
    write_spans(tmp_path, 1, 2, 3, 4, 5)
    for span in range(1, 6):
        register_dataset(config=at(made, span), epsilon=3.0, delta=1e-5, disjoint=True)
    yield made


def written(root: Path, **sections: Any) -> PipelineConfig:
    training = {"dp_sgd": {"noise_multiplier": NOISE, "delta": 1e-5}}
    made = write_project(root, backend="dp_sgd", **({"training": training} | sections))
    (root / "c.yaml").write_text(yaml.safe_dump(made.model_dump(mode="json", by_alias=True, exclude_unset=True)))
    return made


def at(config: PipelineConfig, span: Span) -> PipelineConfig:
    return config.model_copy(update={"dataset": config.dataset.model_copy(update={"span": span})})


def call(*arguments: str, span: str) -> Any:
    return CliRunner().invoke(app, [*arguments, "--set", f"dataset.span={span}"])


def train(config: PipelineConfig, span: Span) -> None:
    """What the trainer of a run does to the ledger."""
    asked = at(config, span)
    plan = preflight.check(asked, span=span).plan
    assert plan is not None
    digest = source.resolve(dataset=asked.dataset).plain_digest()
    where: dict[str, Any] = {"dataset": "things", "span": span, "split": "train", "data_digest": digest}
    with Ledger.open(config.ledger).spend(**where, run_id=f"run {span}", node="Trainer", plan=plan) as grant:
        grant.start()
        grant.commit(plan.event)


def counted(config: PipelineConfig) -> dict[str, int]:
    budgets = Ledger.open(config.ledger).status("things")
    return {status.budget.removeprefix(SHARED): sum(status.entries.values()) for status in budgets}


@pytest.mark.slow
def test_rolling_windows_from_the_command_line(config: PipelineConfig, tmp_path: Path) -> None:
    train(config, (1, 2))
    train(config, (2, 3))
    before = counted(config)
    assert before == {"": 1, "/span-2": 2, "/span-3": 1, "/span-4": 0, "/span-5": 0}
    for command in ("run", "check"):
        refused = call(command, "c.yaml", span="[2,4]")
        said = " ".join(refused.output.split())
        assert refused.exit_code == 4, said
        assert "charged to each budget of spans 2, 4 or to none; budget things/train/person/span-2: it would" in said
        assert "remain" in said and "span-4: it would" not in said and "--set training.dp_sgd.noise_multiplier=" in said
    assert counted(config) == before and not list((tmp_path / "workspace/runs").iterdir())
    fits = json.loads(call("check", "c.yaml", "--json", span="[4,5]").output)
    assert fits["span"] == [4, 5] and fits["plan"]["units"] == 160 and fits["forecast"]["fits"]
    assert [one["budget"] for one in fits["forecast"]["budgets"]] == [f"{SHARED}/span-4", f"{SHARED}/span-5"]
    assert "budget things/train/person/span-4" in call("check", "c.yaml", span="[4,5]").output
    train(config, (4, 5))
    assert counted(config) == {"": 1, "/span-2": 2, "/span-3": 1, "/span-4": 1, "/span-5": 1}
    history = json.loads(CliRunner().invoke(app, ["budget", "history", "--json"]).output)
    assert [entry["span"] for entry in history] == [[4, 5], [4, 5], [2, 3], [2, 3], [1, 2], [1, 2]]
    rows = CliRunner().invoke(app, ["budget", "export", "things", "--format", "csv"]).output
    assert '"[1, 2]"' in rows
    assert CliRunner().invoke(app, ["budget", "verify"]).exit_code == 0


@pytest.mark.slow
def test_a_forecast_finds_noise_that_every_budget_holds(config: PipelineConfig) -> None:
    train(config, (1, 2))
    train(config, (2, 3))
    said = json.loads(call("budget", "forecast", "c.yaml", "--json", span="[2,4]").output)
    assert said["budget"]["name"] == f"{SHARED}/span-2" and said["budget"]["others"] == [f"{SHARED}/span-4"]
    assert not said["run"]["fits"] and said["fitting"]["runs_that_fit"] >= 1
    override = said["fitting"]["override"]
    assert call("check", "c.yaml", "--set", override, span="[2,4]").exit_code == 0
    assert "span-2 has the least room" in call("budget", "forecast", "c.yaml", span="[2,4]").output


@pytest.mark.parametrize(
    ("span", "code", "why"),
    [
        ("[2,9]", 2, "span 9 is absent; present: 1, 2, 3, 4, 5"),
        ("[2,2]", 2, "span 2 is named twice"),
        ("[]", 2, "needs at least 1 item"),
        ("[2,-3]", 2, "must be at least 0 (got -3)"),
        ("[2,6]", 4, "dataset things (span 6) is not registered in the ledger"),
    ],
)
def test_spans_that_cannot_be_read(config: PipelineConfig, tmp_path: Path, span: str, code: int, why: str) -> None:
    for split in ("train", "eval"):
        folder = tmp_path / "data/span-6" / split
        folder.mkdir(parents=True)
        (folder / "rows.csv").write_text(csv_text(60, first=90_000))
    for command in ("check", "run"):
        refused = call(command, "c.yaml", span=span)
        assert refused.exit_code == code and why in " ".join(refused.output.split())
    assert set(counted(config).values()) == {0}


def test_one_span_in_a_list_is_that_span(config: PipelineConfig) -> None:
    assert json.loads(call("check", "c.yaml", "--json", span="[3]").output)["span"] == 3


def test_several_spans_are_registered_one_by_one(config: PipelineConfig) -> None:
    refused = call("budget", "register", "c.yaml", "--epsilon", "3", span="[1,2]")
    assert refused.exit_code == 2 and "are registered one by one" in " ".join(refused.output.split())


def test_a_header_that_differs_between_spans_is_told(config: PipelineConfig, tmp_path: Path) -> None:
    rows = tmp_path / "data/span-3/train/rows.csv"
    rows.write_text(rows.read_text().replace("colour,size", "size,colour", 1))
    refused = call("run", "c.yaml", span="[2,3]")
    assert refused.exit_code == 2 and "the header differs" in " ".join(refused.output.split())


def refuse(config: PipelineConfig, span: Span) -> None:
    """The checks of a run before it starts."""
    from privacy_pipeline.pipelines.execution import runs
    from privacy_pipeline.pipelines.workspace.workspace import Workspace

    asked = at(config, span)
    features = preflight.read_features(asked)
    spec = runs._spec(asked, preflight.check_source(asked, features), features)
    files = source.resolve(dataset=asked.dataset)
    spending.refuse_over_budget(Workspace(asked), spec, runs._state(spec, Path("c.yaml")), files=files)


def test_data_of_one_of_the_spans_that_changed_is_refused(config: PipelineConfig, tmp_path: Path) -> None:
    refuse(config, (1, 2))
    rows = tmp_path / "data/span-2/train/rows.csv"
    rows.write_text(rows.read_text().replace("red", "blue", 1))
    with pytest.raises(BudgetRefusedError, match="not the ones that were registered"):
        refuse(config, (1, 2))
    refuse(config, (1, 3))


def keys_are_texts(root: Path) -> None:
    schema = root / "schema.pbtxt"
    schema.write_text(schema.read_text().replace('name: "person"\n  type: INT', 'name: "person"\n  type: BYTES'))


def test_keys_of_another_kind_are_not_read_together(tmp_path: Path) -> None:
    """ExampleGen takes a column for texts if one value is; then the hash of a number puts it into another split."""
    config = written(tmp_path, dataset={**KEYED, "input": "span-{SPAN}/*.csv", "hash_split": HASHED["hash_split"]})
    for span, name in ((1, ""), (2, ""), (3, "p")):
        folder = tmp_path / f"data/span-{span}"
        folder.mkdir(exist_ok=True)
        header, *lines = csv_text(300, first=span * 9000).splitlines()
        cells = [line.split(",") for line in lines]
        rows = [header, *(",".join([*row[:2], name + row[2], row[3]]) for row in cells)]
        (folder / "rows.csv").write_text("\n".join(rows) + "\n")
        if name:
            keys_are_texts(tmp_path)
        register_dataset(config=at(config, span), epsilon=30.0, delta=1e-5, disjoint=True)
    refuse(config, (1, 2))
    with pytest.raises(BadInputError, match="'person' are integers in span 2 and texts in span 3"):
        refuse(config, (2, 3))
    section = config.dataset.model_copy(update={"hash_split": {"train": 1, "eval": 1}})
    with pytest.raises(BudgetRefusedError, match="and the run has hash_split 1:1 by person"):
        refuse(config.model_copy(update={"dataset": section}), (1, 2))


def test_a_key_that_is_written_in_two_ways_is_not_counted_once(tmp_path: Path) -> None:
    config = written(tmp_path, dataset=KEYED)
    write_spans(tmp_path, 1, 2)
    keys_are_texts(tmp_path)
    for span, name in ((1, "ann"), (2, "ANN")):
        for split in ("train", "eval"):
            rows = tmp_path / f"data/span-{span}/{split}/rows.csv"
            lines = [line.split(",") for line in rows.read_text().splitlines()]
            called = [f"{name} {cells[2][-2:]}" if split == "train" else f"x{cells[2]}" for cells in lines[1:]]
            named = [[*cells[:2], key, cells[3]] for cells, key in zip(lines[1:], called, strict=True)]
            rows.write_text("".join(",".join(cells) + "\n" for cells in [lines[0], *named]))
        register_dataset(config=at(config, span), epsilon=3.0, delta=1e-5)
    with pytest.raises(BudgetRefusedError, match="read together, the spans have another number of rows or units"):
        refuse(config, (1, 2))


def test_a_person_on_both_sides_is_refused(tmp_path: Path) -> None:
    config = written(tmp_path, dataset=KEYED)
    write_spans(tmp_path, 1, 2)
    extra = csv_text(3, first=9000).splitlines()[1:]
    rows = tmp_path / "data/span-2/eval/rows.csv"
    rows.write_text(rows.read_text() + "\n".join(extra) + "\n")
    for span in (1, 2):
        register_dataset(config=at(config, span), epsilon=3.0, delta=1e-5)
    with pytest.raises(
        BudgetRefusedError, match="units are in split 'eval' of one span and in split 'train' of another"
    ):
        refuse(config, (1, 2))


@pytest.mark.parametrize("hashed", [False, True])
def test_persons_in_two_spans_that_share_a_budget_count_once(tmp_path: Path, hashed: bool) -> None:
    section = {"input": "span-{SPAN}/*/*.csv", "hash_split": HASHED["hash_split"]} if hashed else {}
    config = written(tmp_path, dataset={**KEYED, **section})
    write_spans(tmp_path, 1, 2)
    rows = tmp_path / "data/span-2/train/rows.csv"
    returning = csv_text(60, first=9000).splitlines()[1:]  # 20 persons of span 1
    rows.write_text(rows.read_text() + "\n".join(returning) + "\n")
    registered = [register_dataset(config=at(config, span), epsilon=3.0, delta=1e-5) for span in (1, 2)]
    together = preflight.check(at(config, (1, 2)), span=(1, 2)).registration
    assert together is not None
    alone = [sum(split.units for split in each.splits.values()) for each in registered]
    assert sum(split.units for split in together.splits.values()) == sum(alone) - 20
    refuse(config, (1, 2))  # counts the rows and units that ExampleGen will read
    train(config, (1, 2))
    assert counted(config) == {"": 1}


def test_what_is_not_counted_over_several_spans_is_refused(tmp_path: Path) -> None:
    document = written(tmp_path, dataset=KEYED).model_dump(mode="json", by_alias=True, exclude_unset=True)
    document["dataset"]["span"] = [1, 2]
    assert PipelineConfig.model_validate(document).dataset.named_span == (1, 2)
    with pytest.raises(ValueError, match=r"preprocessing\.dp releases statistics of one span"):
        PipelineConfig.model_validate({**document, "preprocessing": {"dp": {"epsilon": 1.0, "delta": 1e-6}}})


def test_a_file_of_two_spans_is_read_by_neither_pattern(config: PipelineConfig, tmp_path: Path) -> None:
    (tmp_path / "data/span-10/train").mkdir(parents=True)
    (tmp_path / "data/span-10/train/rows.csv").write_text(csv_text(3, first=80_000))
    (tmp_path / "data/span-10/eval").symlink_to(tmp_path / "data/span-5/eval")
    patterns = {"train": "span-{SPAN}*/train/*", "eval": "span-{SPAN}*/eval/*"}
    dataset = at(config, (1, 10)).dataset.model_copy(update={"input": patterns})
    with pytest.raises(BadInputError, match="belongs to more than one of the spans 1, 10"):
        source.resolve(dataset=dataset)
