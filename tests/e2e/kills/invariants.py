"""What has to hold after a kill, and what once the next command has ended. Each function gives what does not hold."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from privacy_pipeline.dp.training.run_state import has_state
from privacy_pipeline.errors import PipelineError
from privacy_pipeline.ledger.audit.verify import verify
from privacy_pipeline.ledger.ledger import Ledger
from privacy_pipeline.ledger.state.entries import State
from privacy_pipeline.pipelines.workspace.workspace import run_folders
from tests.e2e.kills.commands import Ended, Place

COUNTED = (State.STARTED, State.COMMITTED)
_KEYS = re.compile(r"ledger/ledger_(key\.pem|units\.key)|workspace/digests\.key|parties/(.*/)?[a-z0-9-]*key\.pem")
_LITTER = re.compile(r"\.(?!in_use$|lock$).*|.*\.(part|partial)")  # names under which nothing is kept
_PUBLIC = re.compile(r"__autograph_generated_file.*|architecture\.json|scipy-.*")  # code, and what clients get


@dataclass(frozen=True)
class Books:
    """The ledger as it lies on disk.

    Attributes:
        spent: epsilon by budget.
        counted: nodes by entry that counts.
        problems: what `verify` found.
    """

    spent: dict[str, float] = field(default_factory=dict)
    counted: dict[int, str] = field(default_factory=dict)
    problems: tuple[str, ...] = ()


def books(place: Place, *, reprice: bool = False) -> Books:
    """Reads a copy of the ledger, so that what a killed command left stays for the next one."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "ledger"
        if not (place.root / "ledger").is_dir():
            return Books()
        shutil.copytree(place.root / "ledger", copy)
        try:
            ledger = Ledger.open(f"sqlite:///{copy}/ledger.db")
        except PipelineError:
            return Books()  # nobody made it yet; the caller knows whether somebody has
        found = verify(ledger._engine, reprice=reprice)
        budgets = {f"{one.budget} {one.split}": one.spent_epsilon for one in ledger.status()}
        entries = [one for name in {one.dataset for one in ledger.status()} for one in ledger.entries(name)]
        counted = {one.id: one.node for one in entries if one.state in COUNTED}
        ledger._engine.dispose()
    return Books(budgets, counted, tuple(found.problems))


def not_counted(place: Place, before: Books) -> Iterator[str]:
    """The ledger verifies, holds what it held, and counts what lies on disk."""
    now = books(place)
    yield from now.problems
    for name, spent in before.spent.items():
        if now.spent.get(name, -1.0) < spent:
            yield f"{name}: {now.spent.get(name)} spent, {spent} before the kill"
    if before.counted.keys() - now.counted.keys():
        yield f"entries {before.counted.keys() - now.counted.keys()} do not count any more"
    pipelines = place.root / "workspace/pipelines"
    for node, pattern in (
        ("Trainer", "Trainer/model/*/**/saved_model.pb"),
        ("DpStatistics", "DpStatistics/statistics/*/*"),
        ("DpEvaluator", "DpEvaluator/evaluation/*/*"),
    ):
        made = {path.relative_to(pipelines).parts[:4] for path in pipelines.glob(f"*/{pattern}")}
        charged = [name for name in now.counted.values() if name == node]
        if len(made) > len(charged):
            yield f"{len(made)} results of {node}, and {len(charged)} charges of it"
    for ticket in pipelines.glob("*/.attempts/*/ticket.json"):
        with contextlib.suppress(ValueError):
            entry = json.loads(ticket.read_text())["entry_id"]
            if has_state(ticket.parent / "engine") and entry not in now.counted:
                yield f"{ticket.parent} holds noise of entry {entry}, which does not count"


def not_whole(place: Place) -> Iterator[str]:
    """Files under their final names are whole; models where they are served from are those that were trained."""
    workspace = place.root / "workspace"
    for path in [*workspace.rglob("*.json"), *(place.root / "ledger").rglob("*.json")]:
        if path.name.startswith(".") or ".temp" in path.parts or path.name == "ticket.json":
            continue
        try:
            json.loads(path.read_text())
        except ValueError as error:
            yield f"{path}: {error}"
    for run in run_folders(workspace):
        try:
            run.read_state()
            run.read_spec()
            run.read_summary()
        except PipelineError as error:
            yield error.message
    for page in workspace.glob("runs/*/report/*.html"):
        if not page.read_text().rstrip().endswith("</html>"):
            yield f"{page} is cut"
    trained = [_content(path.parent) for path in workspace.glob("pipelines/*/Trainer/model/*/**/saved_model.pb")]
    for version in workspace.glob("pushed/*/*"):
        if not version.name.startswith(".") and _content(version) not in trained:
            yield f"{version} is no model that was trained"
    store = workspace / "metadata.db"
    if store.exists():
        with contextlib.closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as connection:
            if (said := connection.execute("PRAGMA integrity_check").fetchone()) != ("ok",):
                yield f"{store}: {said}"


def left_behind(place: Place) -> Iterator[str]:
    """Once the next command has ended: no key but those in use, no copy of rows, no file half made."""
    for path in place.root.rglob("*"):
        name = str(path.relative_to(place.root))
        if path.is_dir() or name.startswith(("data/", "tmp/")):
            if name.startswith("data/") and _LITTER.fullmatch(path.name):
                yield f"{name} was left"
            continue
        if _LITTER.fullmatch(path.name):
            yield f"{name} was left"
        if name.startswith("workspace/.reading/") and path.name != "lock":
            yield f"{name}: a private copy was left"
        if "/.temp/" in name:
            yield f"{name}: working files were left"
        content = path.read_bytes()
        if (b"PRIVATE KEY" in content or path.name.endswith((".key", "key.json"))) and not _KEYS.fullmatch(name):
            yield f"{name}: a key was left"
        if _KEYS.fullmatch(name) and path.stat().st_mode & 0o077:
            yield f"{name}: others may read it"
    for path in [*place.temporary.rglob("*"), *place.memory.rglob("*")]:
        is_probe = path.is_file() and path.read_bytes() == b"blat"  # Python's, of a folder for temporary files
        if path.is_file() and not (_PUBLIC.fullmatch(path.name) or path.name == ".lock" or is_probe):
            yield f"{path} was left"


def not_told(ended: Ended) -> Iterator[str]:
    """A command that was not killed itself ends well, or with one line that says why and what to do."""
    if ended.orphans:
        yield f"lives on: {ended.orphans}"
    if ended.code == -9 and ended.hit:
        return
    if "Traceback" in ended.out + ended.err:
        yield f"a traceback: {ended.err[-1500:]}"
    if ended.code not in (0, 3) and len(re.findall(r"(?m)^error: ", ended.err)) != 1:
        yield f"no single line says why it ended: {ended.err[-1500:]}"


def _content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
