"""Makes the fixtures of a release, with the code of that release.

    git worktree add --detach /tmp/release bffa830                                # 0.1.0; later ones have tags
    cd /tmp/release
    PYTHONPATH=$PWD python .../tests/migrations/make_fixtures.py --output .../tests/migrations/0.1.0

It needs both environments (`make setup setup-encrypted`) and PostgreSQL, and takes some minutes. The table is made up.
Times, run ids, keys and noise differ from one call to the next; what was registered, charged, killed and changed does
not. `expected.json` holds what the release itself said of it, which later versions are held to.

- `ledger-sqlite.tar.xz`, `ledger-postgresql.tar.xz`: a ledger that the library filled (a dump of SQL), with its keys.
- `project.tar.xz`: configs, data, ledger and workspace of pipeline runs: plain, DP-SGD with DP statistics and DP
  evaluation, federated, encrypted, one that was killed; and reports. Paths in it begin with `ROOT`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

ROOT = Path("/tmp/privacy-pipeline-fixture")
DELTA = 1e-5
CLI = [sys.executable, "-c", "from privacy_pipeline.cli.main import main; main()"]
TRAIN_ROWS, EVAL_ROWS, PERSONS = 600, 300, 150

_FEATURE = (
    'feature {{ name: "{name}" type: {type} presence {{ min_fraction: 1 min_count: 1 }} shape {{ dim {{ size: 1 }} }}'
)
_SCHEMA = "\n".join(
    _FEATURE.format(name=name, type=kind) + f" {rest} }}"
    for name, kind, rest in (
        ("colour", "BYTES", 'string_domain { value: "red" value: "green" value: "blue" }'),
        ("size", "FLOAT", ""),
        ("person", "INT", 'annotation { tag: "ignore" }'),
        ("bought", "BYTES", 'string_domain { value: "yes" value: "no" }'),
    )
)
_RANGE = ('"size" type: FLOAT', '"size" type: FLOAT float_domain { min: 0 max: 10 }')
_CONFIG = """\
pipeline: {pipeline}
dataset:
  name: {dataset}
  path: data/{dataset}
  schema: {schema}
  label: bought
  positive_class: "yes"
  privacy_unit: {unit}
model:
  hidden_units: [4]
training:
{training}
evaluation:
  slices: [colour]
  thresholds:
    accuracy: {{min: 0.01}}
"""
_PLAIN = "  backend: plain\n  epochs: 1\n  batch_size: 100\n  seed: 1"
_DP = "  backend: dp_sgd\n  epochs: {epochs}\n  batch_size: 200\n  dp_sgd: {{noise_multiplier: 20.0, delta: 1.0e-5}}"
_ENCRYPTED = (
    "  backend: encrypted\n  epochs: 1\n  batch_size: 100\n  seed: 1\n  encrypted: {train_with: plain, simulate: true}"
)
_FEDERATED = """\
  backend: federated
  epochs: 2
  batch_size: 50
  federated:
    algorithm: {client_optimizer: {learning_rate: 0.1}}
    privacy: {target_epsilon: 2.0, delta: 1.0e-5, clipping_norm: 0.5}"""
_POLICY = """\
dataset: things
unit: row
epsilon: {epsilon}
delta: 1.0e-5
eval_epsilon: 4.0
shares: {{preprocess: 0.3, train: 0.7}}
"""


def _rows(*, first: int, count: int, each: int) -> str:
    lines = ["colour,size,person,bought"]
    for number in range(first, first + count):
        colour, size = ("red", "green", "blue")[number % 3], number * 7 % 100 / 10 + 0.05
        lines.append(f"{colour},{size},{number // each},{'yes' if colour == 'red' or size > 7 else 'no'}")
    return "\n".join(lines) + "\n"


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def write_project(root: Path) -> None:
    """Data of two made-up datasets, and the configs of all runs."""
    for dataset, offset in (("things", 0), ("visits", 90_000)):
        for split, first, count in (("train", 0, TRAIN_ROWS), ("eval", 30_000, EVAL_ROWS)):
            text = _rows(first=offset + first, count=count, each=TRAIN_ROWS // PERSONS)
            _write(root / f"data/{dataset}/span-1/{split}/rows.csv", text)
    _write(root / "unknown.pbtxt", _SCHEMA + "\n")
    _write(root / "schema.pbtxt", _SCHEMA.replace(*_RANGE) + "\n")
    common = {"dataset": "things", "schema": "schema.pbtxt", "unit": "row"}
    keyed = {"dataset": "visits", "unit": "{key: person, contribution_bound: 4}"}
    private = _CONFIG + "  dp: {{epsilon: 1.0, delta: 1.0e-5}}\npreprocessing:\n  dp: {{epsilon: 1.0, delta: 1.0e-6}}\n"
    for name, template, changes in (
        ("plain", _CONFIG, {"training": _PLAIN}),
        ("private", private, {"training": _DP.format(epochs=1), "schema": "unknown.pbtxt"}),
        ("killed", _CONFIG, {"training": _DP.format(epochs=30)}),
        ("encrypted", _CONFIG, {"training": _ENCRYPTED}),
        ("federated", _CONFIG, {"training": _FEDERATED, **keyed}),
    ):
        _write(root / f"configs/{name}.yaml", template.format(pipeline=f"things-{name}", **{**common, **changes}))
    for name, epsilon in (("first", 10.0), ("raised", 12.0)):
        _write(root / f"configs/{name}.policy.yaml", _POLICY.format(epsilon=epsilon))


def _run(*words: str, root: Path) -> str:
    print("+", *words, file=sys.stderr)
    done = subprocess.run([*CLI, *words], cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} ended with {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout


def _kill_after_start(root: Path) -> None:
    """Kills a run once its Trainer's entry is started, and all processes that it began."""
    process = subprocess.Popen([*CLI, "run", "configs/killed.yaml"], cwd=root, start_new_session=True)
    while process.poll() is None:
        with sqlite3.connect(root / "ledger/ledger.db", timeout=30) as connection:
            if connection.execute("SELECT count(*) FROM entries WHERE state = 'started'").fetchone()[0]:
                break
        time.sleep(0.02)
    if process.poll() is not None:
        raise SystemExit("the run that was to be killed ended by itself")
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(2)


def make_project(root: Path) -> dict[str, Any]:
    """Runs everything; returns what the release says of it."""
    write_project(root)
    cap = ("--epsilon", "10", "--delta", str(DELTA))
    _run("budget", "register", "configs/plain.yaml", *cap, root=root)
    _run("budget", "register", "configs/federated.yaml", *cap, root=root)
    _run("budget", "apply", "configs/first.policy.yaml", root=root)
    for name in ("plain", "private", "federated", "encrypted"):
        _run("run", f"configs/{name}.yaml", root=root)
    _run("budget", "apply", "configs/raised.policy.yaml", root=root)
    _kill_after_start(root)
    for form in ("html", "json"):
        _run("budget", "report", "things", "--format", form, "--output", f"reports/things.{form}", root=root)
    return {**_said(root), "runs": json.loads(_run("runs", "--json", root=root))}


def _said(root: Path, *words: str) -> dict[str, Any]:
    """What the release says of a ledger."""
    return {what: json.loads(_run("budget", what, "--json", *words, root=root)) for what in ("status", "history")}


def fill_ledger(url: str) -> dict[str, Any]:
    """Charges of several kinds by the library, as a caller of this release makes them; what it says of them.

    `things`: a cap that was changed after a charge, and a charge after that. `visits`, whose units have keys: a cap
    that was changed, and none after. Each has a reservation whose holder was killed before or after its start.
    """
    from privacy_pipeline.accounting.events import gaussian_passes
    from privacy_pipeline.accounting.plan import MechanismPlan, Relation, Sampler
    from privacy_pipeline.accounting.release_plan import ReleasePlan
    from privacy_pipeline.ledger.ledger import Ledger
    from privacy_pipeline.ledger.state.policy import Policy
    from privacy_pipeline.ledger.state.registration import Registration, SplitCount

    digests = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("things", "visits-1", "visits-2")}
    ledger = Ledger.open(url, create=True)

    def register(dataset: str, *, span: int | None, unit: str, units: dict[str, list[str]] | None, digest: str) -> None:
        counts = {"train": SplitCount(rows=600, units=600), "eval": SplitCount(rows=300, units=300)}
        registration = Registration(
            dataset=dataset,
            span=span,
            unit=unit,
            contribution_bound=1,
            relation=Relation.ZERO_OUT,
            splits=counts,
            columns=("colour", "size"),
            digest=digest,
            registered="2026-01-01T00:00:00+00:00",
        )
        ledger.register(registration, epsilon=10.0, delta=DELTA, units=units)

    def training(unit: str, noise: float) -> MechanismPlan:
        return MechanismPlan(
            backend="dp_sgd",
            mechanism="DP-SGD (Gaussian)",
            unit=unit,
            contribution_bound=1,
            relation=Relation.ZERO_OUT,
            sampler=Sampler("fixed_partition"),
            units=600,
            epochs=1,
            batch_size=100,
            steps=6,
            clipping_norm=1.0,
            noise_multiplier=noise,
            delta=DELTA,
            event=gaussian_passes(noise_multiplier=noise, epochs=1),
        )

    def release(kind: str, units: int, **values: Any) -> ReleasePlan:
        asked = {"all": {"kind": "counts"}}
        return ReleasePlan(
            kind=kind,
            unit="row",
            contribution_bound=1,
            relation=Relation.ZERO_OUT,
            units=units,
            delta=DELTA,
            queries=asked,
            **values,
        )

    def spend(dataset: str, plan: Any, *, run: str, until: str = "commit", span: int | None = None, **how: str) -> None:
        digest = digests[dataset if span is None else f"{dataset}-{span}"]
        asked = {"split": "train", "node": "Trainer", **how}
        block = ledger.spend(dataset=dataset, span=span, data_digest=digest, run_id=run, plan=plan, **asked)
        grant = block.__enter__()
        if until == "reserve":
            _HELD.append(block)  # as a holder that was killed: never left
            return
        grant.start()
        if until == "commit":
            grant.commit(plan.event)
            block.__exit__(None, None, None)
        else:
            _HELD.append(block)

    register("things", span=None, unit="row", units=None, digest=digests["things"])
    policy = {"dataset": "things", "unit": "row", "delta": DELTA, "eval_epsilon": 4.0}
    shares = {"preprocess": 0.3, "train": 0.7}
    ledger.apply_policy(Policy(epsilon=10.0, shares=shares, **policy))
    spend("things", training("row", 8.0), run="first")
    statistics = release("dp_statistics", 600, rho=0.005, threshold_delta=1e-13)
    spend("things", statistics, run="first", node="DPStatistics", purpose="preprocess")
    spend(
        "things",
        release("dp_evaluation", 300, rho=0.01),
        run="first",
        node="Evaluator",
        split="eval",
        purpose="evaluate",
    )
    ledger.apply_policy(Policy(epsilon=12.0, shares=shares, **policy))
    spend("things", training("row", 20.0), run="second")
    spend("things", training("row", 9.0), run="killed", until="start")
    spend("things", training("row", 11.0), run="waiting", until="reserve")
    for span in (1, 2):
        persons = {"train": [f"t{span}-{n}" for n in range(600)], "eval": [f"e{span}-{n}" for n in range(300)]}
        register("visits", span=span, unit="person", units=persons, digest=digests[f"visits-{span}"])
    spend("visits", training("person", 8.0), run="keyed", span=1)
    spend("visits", training("person", 12.0), run="keyed-killed", span=2, until="start")
    ledger.set_cap("visits", epsilon=11.0, delta=DELTA)
    return _said(ROOT, "--ledger", url)


_HELD: list[Any] = []


def _pack(output: Path, folder: Path) -> None:
    def plain(info: tarfile.TarInfo) -> tarfile.TarInfo:
        info.uid = info.gid = info.mtime = 0
        info.uname = info.gname = ""
        return info

    with tarfile.open(output, "w:xz", preset=9) as packed:
        for path in sorted(folder.rglob("*")):
            packed.add(path, arcname=str(path.relative_to(folder)), recursive=False, filter=plain)


def _dump_sqlite(folder: Path) -> None:
    with sqlite3.connect(folder / "ledger.db") as connection:
        (folder / "ledger.sql").write_text("\n".join(connection.iterdump()) + "\n")
    for name in ("ledger.db", "ledger.db-wal", "ledger.db-shm"):
        (folder / name).unlink(missing_ok=True)


def _dump_postgresql(folder: Path, url: str, dump: str) -> None:
    done = subprocess.run([dump, "--no-owner", "--inserts", url], check=True, capture_output=True, text=True)
    # Newer programs write commands of psql, and settings that older servers do not have.
    skipped = ("\\", "--", "SET transaction_timeout")
    kept = [line for line in done.stdout.splitlines() if line and not line.startswith(skipped)]
    (folder / "ledger.sql").write_text("\n".join(kept) + "\n")


def _without_paths_of_this_machine(folder: Path) -> None:
    """Logs name the sources of warnings."""
    own = {path: str(path).encode() for path in (Path(sys.prefix), Path(sys.base_prefix), Path.cwd(), Path.home())}
    for file in (one for one in folder.rglob("*") if one.is_file()):
        content = file.read_bytes()
        if file.name == "log.txt":
            for path in own.values():
                content = content.replace(path, b"/opt/release")
            file.write_bytes(content)
        found = [path for path, name in own.items() if name in content]
        if found:
            raise SystemExit(f"{file} names {found[0]}")


def _fresh() -> Path:
    shutil.rmtree(ROOT, ignore_errors=True)
    ROOT.mkdir()
    return ROOT


def main() -> None:
    """Makes all fixtures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()
    output: Path = given.output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    os.environ["PRIVACY_PIPELINE_USER"] = "analyst"
    expected = {"sqlite": fill_ledger(f"sqlite:///{_fresh()}/ledger.db")}
    _dump_sqlite(ROOT)
    _pack(output / "ledger-sqlite.tar.xz", ROOT)

    from tests.ledger.postgresql_server import program, server

    dump, folder = program("pg_dump"), _fresh()
    os.environ["PRIVACY_PIPELINE_LEDGER_KEY"] = str(folder / "ledger_key.pem")
    with server() as url:
        expected["postgresql"] = fill_ledger(url)
        _dump_postgresql(folder, url, str(dump))
    del os.environ["PRIVACY_PIPELINE_LEDGER_KEY"]
    _pack(output / "ledger-postgresql.tar.xz", folder)
    expected["project"] = make_project(_fresh())
    _without_paths_of_this_machine(ROOT)
    _pack(output / "project.tar.xz", ROOT)
    (output / "expected.json").write_text(json.dumps(expected, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)  # whoever holds a reservation was killed: nothing is given back
