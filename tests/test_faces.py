"""What each package exports: its names, their docstrings and examples, and that nothing heavy is imported for them."""

from __future__ import annotations

import doctest
import importlib
import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import privacy_pipeline as pp
from tests.pipelines.projects import write_project
from tools.references.python_api import FACES

# A name that leaves one of these sets breaks a program of somebody; one that joins stays for long.
EXPORTED = {
    "privacy_pipeline": """Ledger PrivacyPlan __version__ check load_config make_private register report run runs""",
    "privacy_pipeline.api": """Check Registered Report Run RunFailedError Runs""",
    "privacy_pipeline.dp": """AdaptiveClipping Clipping ExampleStore Execution Noise PrivacyHistory PrivacyPlan
        PrivateModel Problem RunState StateMismatch UserBound UserIndex destroy_state has_state load_model load_weights
        make_private register_rule validate""",
    "privacy_pipeline.ledger": """BudgetStatus Budgets Division Entry Forecast Grant JournalRecord Ledger LedgerError
        Policy Receipt Registration ResumeToken ShareStatus SplitCount State UnprotectedRun Verification load_policy
        read_receipts""",
    "privacy_pipeline.releases": """Counts DpEvaluation DpStatistics Histogram Interval Moments Noisy Query Release
        SingleRows Vocabulary count mean plan_release quantile quantile_interval ratio registered_release total
        value_range vocabulary""",
    "privacy_pipeline.encrypted": """Address Client EncryptedEvaluation PrivateModel Published Range Session ThreatModel
        addresses convert init_parties probabilities""",
    "federated": """Algorithm Attendance ClientMetrics ClientOrigin ClientSampler ClientStore DistributedAggregator
        Engine Evaluator ExperimentConfig FastEngine FederatedModel FederatedPlan GaussianAggregator IidSplit
        LabelSkewSplit MeanAggregator Personalization QuantitySkewSplit RoundResult RoundState SiloEngine SiloPlan
        SiloRecords TffEngine clients_by_rule clients_from_table from_client_data load_experiment personalize run_point
        silos_from_table split_rows to_client_data""",
}
HEAVY = ("tensorflow", "tfx", "apache_beam", "tensorflow_federated", "tf_encrypted", "keras")
SLOW = {"run"}  # the examples that need TFX
REGISTERED = {"check", "report", "run"}  # the examples that need a registered dataset


def test_each_face_is_pinned() -> None:
    assert set(EXPORTED) == set(FACES)


@pytest.mark.parametrize("face", FACES)
def test_a_face_exports_what_it_did(face: str) -> None:
    module = importlib.import_module(face)
    assert sorted(module.__all__) == sorted(EXPORTED[face].split())
    assert set(module.__all__) <= set(dir(module))
    with pytest.raises(AttributeError, match="no_such_name"):
        module.no_such_name
    stub = Path(str(module.__file__) + "i").read_text()
    assert all(f'"{name}"' in stub for name in module.__all__)


@pytest.mark.parametrize("face", FACES)
def test_each_name_of_a_face_has_a_docstring(face: str) -> None:
    module = importlib.import_module(face)
    for name in module.__all__:
        found = getattr(module, name)
        if name == "__version__":
            continue
        told = inspect.getdoc(found) or ""
        assert len(told.split()) > 3 and not told.startswith(f"{name}("), f"{face}.{name} has no docstring"


def imported_after(code: str) -> set[str]:
    script = f"import json, sys\n{code}\nprint(json.dumps(sorted({{name.partition('.')[0] for name in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_no_face_imports_anything_heavy_before_it_is_used() -> None:
    first = "\n".join(f"import {face}, {face} as face\nassert face.__all__ and dir(face)" for face in FACES)
    assert not imported_after(first) & {*HEAVY, "sqlalchemy", "numpy", "pydantic", "typer"}


def test_plans_configs_and_ledgers_need_no_tensorflow() -> None:
    code = """
import privacy_pipeline as pp
numbers = dict(units=100, expected_batch_size=10, steps=5, noise_multiplier=1.0, delta=1e-3, clipping_norm=1.0)
assert pp.PrivacyPlan.calibrated(**numbers).epsilon() > 0
[getattr(pp, name) for name in pp.__all__ if name != "make_private"]
"""
    imported = imported_after(code)
    assert "dp_accounting" in imported and "typer" not in imported
    assert not imported & set(HEAVY)


def test_both_packages_are_typed_and_hold_their_stubs() -> None:
    root = Path(pp.__file__).parents[1]
    assert (root / "privacy_pipeline/py.typed").exists() and (root / "federated/py.typed").exists()
    own = [path for name in ("privacy_pipeline", "federated") for path in (root / name).rglob("__init__.py")]
    lazy = {path for path in own if "attach_stub" in path.read_text()}
    assert lazy == {root / name.replace(".", "/") / "__init__.py" for name in (*FACES, "privacy_pipeline.backends")}
    assert all(path.with_suffix(".pyi").exists() for path in lazy)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with data, a schema and `config.yaml`, in which the examples run."""
    config = write_project(tmp_path, backend="dp_sgd", evaluation={"thresholds": {"accuracy": {"min": 0.01}}})
    document = json.loads(config.model_dump_json(by_alias=True, exclude_unset=True))
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(document))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def examples_of(name: str) -> doctest.DocTest:
    found: Any = sys.modules["privacy_pipeline.version"] if name == "__version__" else getattr(pp, name)
    told = doctest.DocTestParser().get_doctest(inspect.getdoc(found) or "", {}, name, None, None)
    assert told.examples, f"the docstring of {name} has no example"
    return told


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in pp.__all__])
def test_the_example_in_each_docstring_is_right(name: str, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pp.__version__
    if name in REGISTERED:
        pp.register("config.yaml", epsilon=3.0)
    runner = doctest.DocTestRunner(optionflags=doctest.IGNORE_EXCEPTION_DETAIL if name == "load_config" else 0)
    outcome = runner.run(examples_of(name))
    assert outcome.failed == 0 and outcome.attempted > 0, capsys.readouterr().out
