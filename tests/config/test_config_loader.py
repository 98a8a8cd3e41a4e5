"""Configs load, and every mistake in one is named with its line or override."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from privacy_pipeline.backends.listed import BACKENDS
from privacy_pipeline.config.loader import config_json_schema, load_config
from privacy_pipeline.config.models.dataset import KeyedUnit
from privacy_pipeline.config.models.pipeline import PipelineConfig
from privacy_pipeline.config.models.storage import ServerMetadata
from privacy_pipeline.errors import BadInputError, ExitCode

BASE = """\
pipeline: adult
dataset:
  name: adult
  path: data/adult
  schema: configs/schemas/adult.pbtxt
  label: income
  positive_class: ">50K"
training:
  backend: dp_sgd
  epochs: 3
  learning_rate: 1e-3
  dp_sgd:
    target_epsilon: 3
    delta: 1e-5
evaluation:
  thresholds:
    auc: {min: 0.8}
"""

Fails = Callable[..., BadInputError]

KNOWN = "{} or {!r}".format(", ".join(map(repr, [*BACKENDS][:-1])), [*BACKENDS][-1])


@pytest.fixture
def fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fails:
    monkeypatch.chdir(tmp_path)
    Path("configs").mkdir()

    def load(text: str | bytes, *, overrides: Sequence[str] = ()) -> BadInputError:
        path = Path("configs/x.yaml")
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(BadInputError) as caught:
            load_config(path, overrides=overrides)
        assert caught.value.exit_code == ExitCode.BAD_INPUT
        assert "pydantic" not in caught.value.message.lower()
        return caught.value

    return load


def load(tmp_path: Path, text: str, *, overrides: Sequence[str] = ()) -> PipelineConfig:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    return load_config(path, overrides=overrides)


def test_loads_with_exponent_floats_and_alias(tmp_path: Path) -> None:
    config = load(tmp_path, BASE)
    assert config.training.learning_rate == 1e-3
    assert config.training.dp_sgd is not None
    assert config.training.dp_sgd.delta == 1e-5
    assert config.dataset.schema_path == Path("configs/schemas/adult.pbtxt")


def test_each_backend_has_defaults_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(BASE.replace("  epochs: 3\n  learning_rate: 1e-3\n", ""))
    private = load_config(path).training
    assert private.dp_sgd is not None
    assert (private.epochs, private.learning_rate, private.dp_sgd.clipping_norm) == (30, 1e-2, 0.3)
    assert (private.batch(units=32_561), private.batch(units=5)) == (4_070, 1)
    plain = load_config(path, overrides=["training={backend: plain}"]).training
    assert (plain.epochs, plain.learning_rate, plain.batch(units=32_561)) == (10, 1e-3, 256)
    given = load_config(path, overrides=["training.batch_size=100", "training.epochs=2"]).training
    assert (given.batch(units=32_561), given.epochs) == (100, 2)


def test_a_secret_size_has_no_default_batch(fails: Fails) -> None:
    secret = "{target_epsilon: 3, delta: 1.0e-5, relation: add_or_remove_one, sampling_probability: 0.1}"
    error = fails(BASE, overrides=[f"training.dp_sgd={secret}"])
    assert "batch_size" in str(error)


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ("{auc: {max: 0.8}}", "a larger auc is better: replace `max` of thresholds.auc by `min`"),
        (
            "{accuracy: {min: 0.8, max_increase: 0.1}}",
            "replace `max_increase` of thresholds.accuracy by `max_decrease`",
        ),
        ("{log_loss: {min: 0.1}}", "a smaller log_loss is better: replace `min` of thresholds.log_loss by `max`"),
        ("{ece: {max: 0.1, max_decrease: 0.1}}", "replace `max_decrease` of thresholds.ece by `max_increase`"),
        ("{ece: {}}", "thresholds.ece: give `max`, `max_increase` or both"),
        ("{pr_auc: {}}", "thresholds.pr_auc: give `min`, `max_decrease` or both"),
        ("{log_loss: {max: -1}}", "evaluation.thresholds.log_loss.max: must be at least 0"),
        ("{log_loss: {max: .inf}}", "evaluation.thresholds.log_loss.max: must be a finite number"),
    ],
)
def test_a_bound_is_on_the_side_of_bad_models(fails: Fails, bounds: str, message: str) -> None:
    assert message in fails(BASE, overrides=[f"evaluation.thresholds={bounds}"]).message


DP_EVALUATION = "evaluation={thresholds: {accuracy: {min: 0.8}}, dp: {epsilon: 1.0, delta: 1.0e-6}}"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("evaluation.thresholds={auc: {min: 0.8}}", "`dp` has no auc"),
        ("evaluation.thresholds={log_loss: {max: 0.8}}", "thresholds on accuracy, precision or recall"),
        ("evaluation.thresholds={recall: {min: 0.1, max_decrease: 0.1}}", "`max_decrease` of thresholds.recall"),
        ("training={backend: plain}", "evaluation.dp: this training gives no guarantee"),
        ("evaluation.dp.epsilon=0", "evaluation.dp.epsilon: must be greater than 0"),
        ("evaluation.dp.delta=1", "evaluation.dp.delta: must be less than 1"),
        ("evaluation.dp.decision_threshold=1", "evaluation.dp.decision_threshold: must be less than 1"),
    ],
)
def test_what_a_dp_evaluation_cannot_do_is_refused(fails: Fails, tmp_path: Path, change: str, message: str) -> None:
    load(tmp_path, BASE, overrides=[DP_EVALUATION])
    error = fails(BASE, overrides=[DP_EVALUATION, change])
    assert message in error.message and "\n" not in error.message


def test_a_dp_evaluation_needs_a_public_schema_whatever_trains() -> None:
    document = yaml.safe_load(BASE)
    document["dataset"]["schema"] = "infer"
    document["evaluation"] = {"thresholds": {"accuracy": {"min": 0.8}}, "dp": {"epsilon": 1.0, "delta": 1e-6}}
    with pytest.raises(ValidationError, match="schema: infer"):
        PipelineConfig.model_validate(document)


@pytest.mark.parametrize(
    "training",
    [{"backend": "plain"}, {"backend": "federated", "batch_size": 4, "federated": {"clients": {"clients": 8}}}],
)
def test_no_training_without_a_guarantee_takes_a_dp_evaluation(training: dict[str, Any]) -> None:
    document = yaml.safe_load(BASE)
    document["training"] = training
    document["evaluation"] = {"thresholds": {"accuracy": {"min": 0.8}}, "dp": {"epsilon": 1.0, "delta": 1e-6}}
    with pytest.raises(ValidationError, match="protect nothing"):
        PipelineConfig.model_validate(document)


def test_layout_and_comments_do_not_matter(tmp_path: Path) -> None:
    other = "# a comment\n" + BASE.replace("{min: 0.8}", "\n      min: 8.0e-1  # why not").replace(
        "  epochs: 3\n  learning_rate: 1e-3\n", "  learning_rate: 0.001\n  epochs: 3\n"
    )
    assert load(tmp_path, BASE) == load(tmp_path, other)


@pytest.mark.parametrize(
    ("old", "new", "message", "fix"),
    [
        ("epochs:", "epocs:", "configs/x.yaml:10: unknown key 'epocs' in `training`", "did you mean 'epochs'?"),
        ("  schema:", "  shema:", "configs/x.yaml:5: unknown key 'shema' in `dataset`", "did you mean 'schema'?"),
        (
            "target_epsilon: 3",
            "target_epsilon: -1",
            "configs/x.yaml:13: training.dp_sgd.target_epsilon: must be greater than 0 (got -1)",
            "",
        ),
        ("epochs: 3", "epochs: true", "configs/x.yaml:10: training.epochs: must be an integer (got true)", ""),
        (
            "epochs: 3",
            'epochs: "3"',
            "configs/x.yaml:10: training.epochs: must be an integer (got '3')",
            "remove the quotes",
        ),
        ("epochs: 3", "epochs:", "configs/x.yaml:10: training.epochs: must be an integer (got nothing)", ""),
        ("epochs: 3", "seed: yes", "configs/x.yaml:10: training.seed: must be an integer (got true)", ""),
        ("delta: 1e-5", "delta: .nan", "configs/x.yaml:14: training.dp_sgd.delta: must be less than 1 (got nan)", ""),
        (
            '">50K"',
            "no",
            "configs/x.yaml:7: dataset.positive_class: must be a text or an integer (got false)",
            "put the value in quotes if it is a text",
        ),
        (
            "  label: income\n",
            "",
            "configs/x.yaml:2: `dataset` lacks the required key 'label'",
            "",
        ),
        (
            "    target_epsilon: 3\n",
            "",
            "configs/x.yaml:12: training.dp_sgd: give exactly one of `target_epsilon` and `noise_multiplier`",
            "",
        ),
        (
            "backend: dp_sgd",
            "backend: dpsgd",
            f"configs/x.yaml:9: training.backend: must be {KNOWN} (got 'dpsgd')",
            "did you mean 'dp_sgd'?",
        ),
        (
            "auc: {min: 0.8}",
            "acuracy: {min: 0.8}",
            "configs/x.yaml:17: unknown key 'acuracy' in `evaluation.thresholds`",
            "did you mean 'accuracy'?",
        ),
        (
            "configs/schemas/adult.pbtxt",
            "infer",
            "configs/x.yaml:1: a DP run needs a curated public schema: `schema: infer` reads it off the private data",
            "",
        ),
        ("pipeline: adult", "pipeline: Adult", "configs/x.yaml:1: pipeline: must match ^[a-z]", ""),
    ],
)
def test_one_line_for_one_mistake(fails: Fails, old: str, new: str, message: str, fix: str) -> None:
    error = fails(BASE.replace(old, new, 1))
    assert error.message.startswith(message)
    assert "\n" not in error.message
    assert error.fix == fix


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("  privacy_unit: rows\n", "dataset.privacy_unit: must be 'row' or a mapping (got 'rows')"),
        ("  privacy_unit: {kye: id, key: id}\n", "unknown key 'kye' in `dataset.privacy_unit`"),
        ("  privacy_unit: {kye: id}\n", "unknown key 'kye' in `dataset.privacy_unit`"),
        (
            "  privacy_unit: {key: id, contribution_bound: 0}\n",
            "dataset.privacy_unit.contribution_bound: must be at least 1 (got 0)",
        ),
        ("  span: -1\n", "dataset.span: must be at least 0 (got -1)"),
        ("  span: lates\n", "dataset.span: must be 'latest' or an integer or a list (got 'lates')"),
        ("  span: 2024-01-01\n", "dataset.span: must be 'latest' or an integer or a list (got '2024-01-01')"),
        ("  span: []\n", "dataset.span: needs at least 1 item"),
        ("  span: [2, x]\n", "dataset.span[1]: must be an integer (got 'x')"),
        ("  span: [2, -1]\n", "dataset.span[1]: must be at least 0 (got -1)"),
        ("  span: [2, 3, 2]\n", "dataset.span: span 2 is named twice: its rows would be read twice"),
        ("  input: 3\n", "dataset.input: must be a text or a mapping (got 3)"),
        ("  input: {tran: a, eval: b}\n", "unknown key 'tran' in `dataset.input`"),
    ],
)
def test_unions_give_one_line(fails: Fails, extra: str, message: str) -> None:
    error = fails(BASE.replace("training:\n", extra + "training:\n", 1))
    assert error.message == f"configs/x.yaml:8: {message}"


@pytest.mark.parametrize(
    ("extra", "message", "fix"),
    [
        ("metadata: {path: m.db}\n", "configs/x.yaml:18: `metadata` lacks the required key 'kind'", ""),
        (
            "metadata:\n  kind: sqlit\n",
            "configs/x.yaml:19: metadata.kind: must be one of 'sqlite', 'mysql', 'postgresql' (got 'sqlit')",
            "did you mean 'sqlite'?",
        ),
        (
            "metadata: {kind: sqlite, host: h}\n",
            "configs/x.yaml:18: unknown key 'host' in `metadata`",
            "valid keys: kind, path",
        ),
        ("metadata: 3\n", "configs/x.yaml:18: metadata: must be a mapping (got 3)", ""),
    ],
)
def test_metadata_branches(fails: Fails, extra: str, message: str, fix: str) -> None:
    error = fails(BASE + extra)
    assert (error.message, error.fix) == (message, fix)


def test_several_mistakes_give_a_line_each_in_file_order(fails: Fails) -> None:
    text = BASE.replace("epochs: 3", "epocs: 3").replace("label: income", "label: 3").replace("auc:", "auk:")
    assert fails(text).message.splitlines() == [
        "configs/x.yaml:6: dataset.label: must be a text (got 3) (put the value in quotes if it is a text)",
        "configs/x.yaml:10: unknown key 'epocs' in `training` (did you mean 'epochs'?)",
        "configs/x.yaml:17: unknown key 'auk' in `evaluation.thresholds` (did you mean 'auc'?)",
    ]


def test_misspelt_section_is_one_mistake(fails: Fails) -> None:
    error = fails(BASE.replace("evaluation:", "evalution:"))
    assert error.message == "configs/x.yaml:15: unknown key 'evalution' at the top level"
    assert error.fix == "did you mean 'evaluation'?"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BASE + "pipeline: again\n", "configs/x.yaml:18: key 'pipeline' is given twice (first on line 1)"),
        ("", "configs/x.yaml: is empty"),
        ("- a\n", "configs/x.yaml: holds no mapping at the top level"),
        ("a: b: c\n", "configs/x.yaml:1: not valid YAML: mapping values are not allowed here"),
        ("a: 1\n\tb: 2\n", "configs/x.yaml:2: not valid YAML: "),
        ("a: >50K\n", "configs/x.yaml:1: not valid YAML: "),
        ("a: 1\n---\nb: 1\n", "configs/x.yaml:2: not valid YAML: "),
        ("1: 2\n", "configs/x.yaml:1: key '1' is not a text"),
        ("a: &x {b: *x}\n", "configs/x.yaml:1: an alias refers to what contains it"),
        ("a: !thing 3\n", "configs/x.yaml:1: values of type !thing are not supported"),
        ("a: !!binary aGk=\n", "configs/x.yaml:1: values of type tag:yaml.org,2002:binary are not supported"),
        ("a: 1\nb: !thing {c: 1}\n", "configs/x.yaml:2: values of type !thing are not supported"),
        (
            "a: !!python/tuple [1]\n",
            "configs/x.yaml:1: values of type tag:yaml.org,2002:python/tuple are not",
        ),
        ("a: !!set {b, c}\n", "configs/x.yaml:1: values of type tag:yaml.org,2002:set are not supported"),
        ("a: !!map [1]\n", "configs/x.yaml:1: values of type tag:yaml.org,2002:map are not supported"),
        ("a: {<<: !thing {b: 1}}\n", "configs/x.yaml:1: values of type !thing are not supported"),
        ("!thing\na: 1\n", "configs/x.yaml:1: values of type !thing are not supported"),
        (b"a: \xff\n", "configs/x.yaml: not a UTF-8 text file"),
        (b"a: \x07\n", "configs/x.yaml: not valid YAML: "),
    ],
)
def test_unreadable_yaml(fails: Fails, text: str | bytes, message: str) -> None:
    assert fails(text).message.startswith(message)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="no such file"):
        load_config(tmp_path / "none.yaml")
    with pytest.raises(BadInputError, match="cannot be read"):
        load_config(tmp_path)


def test_overrides_are_yaml_and_make_missing_sections(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        BASE,
        overrides=[
            "training.epochs=7",
            "training.dp_sgd.delta=1e-6",
            "dataset.privacy_unit={key: patient, contribution_bound: 4}",
            "model.hidden_units=[8]",
            "metadata={kind: mysql, host: h, port: 1, database: d, user: u, password_env: P}",
            "policy.max_epsilon=4",
        ],
    )
    assert config.training.epochs == 7
    assert config.training.dp_sgd is not None
    assert config.training.dp_sgd.delta == 1e-6
    assert config.dataset.privacy_unit == KeyedUnit(key="patient", contribution_bound=4)
    assert config.model.hidden_units == [8]
    assert isinstance(config.metadata, ServerMetadata)
    assert config.policy.max_epsilon == 4


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.epochs", "override 'training.epochs': '=' is missing"),
        ("=3", "override '=3': a key is empty"),
        ("training..epochs=3", "override 'training..epochs=3': a key is empty"),
        ("dataset.positive_class=>50K", "override 'dataset.positive_class=>50K': the value is not valid YAML: "),
        ("pipeline.x=3", "override 'pipeline.x=3': `pipeline` is not a mapping (configs/x.yaml:1)"),
        ("training.epochs=-1", "override 'training.epochs=-1': training.epochs: must be at least 1 (got -1)"),
        ("training.epocs=1", "override 'training.epocs=1': unknown key 'epocs' in `training`"),
        ("training.dp_sgd={}", "override 'training.dp_sgd={}': `training.dp_sgd` lacks the required key 'delta'"),
        (
            "training.backend=plain",
            "configs/x.yaml:8: training: backend plain takes no `dp_sgd` block; remove it, or set backend: dp_sgd "
            "(with override 'training.backend=plain')",
        ),
    ],
)
def test_errors_of_overrides_name_the_override(fails: Fails, override: str, message: str) -> None:
    assert fails(BASE, overrides=[override]).message.startswith(message)


def test_passwords_of_urls_are_not_shown(fails: Fails) -> None:
    error = fails(BASE, overrides=["ledger=postgresql://me:secret@host/db", "dataset.schema=infer"])
    assert error.message.startswith("override: ledger: a config holds no passwords")
    assert "secret" not in error.message + error.fix and "PGPASSWORD" in error.fix


def test_deep_nesting_is_refused(fails: Fails) -> None:
    assert fails("a: " + "[" * 3000).message == "configs/x.yaml: is nested too deeply"


def test_merge_keys_and_anchors(tmp_path: Path) -> None:
    text = BASE.replace("auc: {min: 0.8}", "auc: &a {min: 0.8}\n    recall: {<<: *a, max_decrease: 0.1}")
    assert load(tmp_path, text).evaluation.thresholds["recall"].min == 0.8


def test_json_schema_speaks_the_names_of_the_yaml() -> None:
    schema = config_json_schema()
    definitions = schema["$defs"]
    assert isinstance(definitions, dict)
    assert "schema" in definitions["DatasetConfig"]["properties"]
    assert "schema_path" not in definitions["DatasetConfig"]["properties"]
