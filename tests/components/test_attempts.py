"""A killed training goes on under its charge if key and all else are the same; in any other case it pays again."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privacy_pipeline.backends.base import Executed, TrainingInputs
from privacy_pipeline.dp import attempts
from privacy_pipeline.dp.training.run_state import RunState, has_state
from privacy_pipeline.errors import BudgetRefusedError, PipelineError
from privacy_pipeline.ledger.ledger import Ledger
from privacy_pipeline.ledger.state.entries import State
from tests.components.test_train_charged import (  # noqa: F401
    FakeBackend,
    backend_over,
    ledger,
    several,
    train,
    train_over,
    url,
)
from tests.reports.records import UNITS, make_executed, make_plan


class Killed(BaseException):
    """Stands for a SIGKILL: nothing of ours handles it."""


class Resumable(FakeBackend):
    """Keeps a key and a checkpoint as the engine does; dies in its first training if it is told to."""

    def __init__(self, *, dies: bool, binding: str = "the same", **given: Any) -> None:
        super().__init__(**given)
        self.on_train, self.ran = self.keep, make_executed
        self.dies, self.binding = dies, binding
        self.keys: list[bytes] = []

    def keep(self, inputs: TrainingInputs) -> Executed:
        assert inputs.state_dir is not None
        state = RunState.open_or_create(inputs.state_dir, self.binding)
        self.keys.append(state.key.secret)
        state.save(3, {"weights": np.zeros(2)})
        if self.dies:
            raise Killed
        return self.ran(resumed_at=3 if state.resumed else None)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "attempts"


def die(url: str, root: Path) -> bytes:  # noqa: F811
    backend = Resumable(dies=True)
    with pytest.raises(Killed):
        train(backend, url, state_dir=root)
    (key,) = backend.keys
    return key


def folder_in(root: Path) -> Path:
    (folder,) = root.iterdir()
    return folder


def states_of(ledger: Ledger) -> list[State]:  # noqa: F811
    return [entry.state for entry in ledger.entries("things")]


def test_it_goes_on_with_its_key_and_pays_once(url: str, ledger: Ledger, root: Path) -> None:  # noqa: F811
    key = die(url, root)
    assert states_of(ledger) == [State.STARTED]
    assert attempts.can_continue(root, "run-1") and not attempts.can_continue(root, "run-2")
    spent = ledger.status()[0].spent_epsilon
    backend = Resumable(dies=False)
    record = train(backend, url, state_dir=root)
    assert backend.keys == [key]
    assert states_of(ledger) == [State.COMMITTED] and ledger.status()[0].spent_epsilon == spent
    assert record.composition is not None and record.composition.entries_before == 0


def test_over_several_spans_it_goes_on_under_all_of_its_charges(
    url: str,  # noqa: F811
    several: Ledger,  # noqa: F811
    root: Path,
) -> None:
    spans = (1, 3)
    keys = []
    for dies in (True, False):
        backend = Resumable(dies=dies, plan=backend_over(spans)._plan)
        backend.ran = partial(make_executed, units=2 * UNITS, examples=2 * UNITS)
        if dies:
            with pytest.raises(Killed):
                train_over(backend, url, spans, state_dir=root)
            assert states_of(several) == [State.STARTED] * 2
        else:
            record = train_over(backend, url, spans, state_dir=root)
        keys += backend.keys
    assert keys[0] == keys[1] and states_of(several) == [State.COMMITTED] * 2
    assert [made.ledger_entry for made in record.compositions] == [entry.id for entry in several.entries("things")]
    assert several.verify().ok


def test_key_and_ticket_are_gone_once_it_is_committed(url: str, ledger: Ledger, root: Path) -> None:  # noqa: F811
    die(url, root)
    train(Resumable(dies=False), url, state_dir=root)
    assert [path.name for path in folder_in(root).iterdir()] == ["lock"]
    assert not attempts.can_continue(root, "run-1")


def test_nobody_else_may_read_key_or_ticket(url: str, ledger: Ledger, root: Path) -> None:  # noqa: F811
    key = die(url, root)
    assert stat.S_IMODE(folder_in(root).stat().st_mode) == 0o700
    for file in folder_in(root).rglob("*"):
        if file.is_file() and file.name != "lock":
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
    train(Resumable(dies=False), url, state_dir=root)
    left = b"".join(file.read_bytes() for file in root.parent.rglob("*") if file.is_file())
    assert key not in left and key.hex().encode() not in left


@pytest.mark.parametrize("lost", ["key.json", "checkpoint.npz", "ticket.json"])
def test_what_lost_its_key_is_charged_again(url: str, ledger: Ledger, root: Path, lost: str) -> None:  # noqa: F811
    key = die(url, root)
    (file,) = root.rglob(lost)
    file.unlink()
    assert not attempts.can_continue(root, "run-1")
    backend = Resumable(dies=False)
    train(backend, url, state_dir=root)
    assert key not in backend.keys
    assert states_of(ledger) == [State.STARTED, State.COMMITTED]


@pytest.mark.parametrize("spoilt", ["", "7", "[]", "[[]]", '{"run_id": "run-1", "entry_id": "x", "token": "t"}'])
def test_a_ticket_that_is_none_is_charged_again(url: str, ledger: Ledger, root: Path, spoilt: str) -> None:  # noqa: F811
    key = die(url, root)
    (folder_in(root) / "ticket.json").write_text(spoilt)
    assert not attempts.can_continue(root, "run-1") and attempts.charged(root) == set()
    backend = Resumable(dies=False)
    train(backend, url, state_dir=root)
    assert backend.keys != [key]
    assert states_of(ledger) == [State.STARTED, State.COMMITTED]


def test_a_state_that_does_not_fit_is_destroyed_and_charged_again(
    url: str,  # noqa: F811
    ledger: Ledger,  # noqa: F811
    root: Path,
) -> None:
    key = die(url, root)
    backend = Resumable(dies=False, binding="other data")
    train(backend, url, state_dir=root)
    assert len(backend.trained) == 2 and backend.keys != [key]
    assert states_of(ledger) == [State.STARTED, State.COMMITTED]


@pytest.mark.parametrize("change", [{"run_id": "run-2"}, {"noise": 9.0}], ids=str)
def test_another_run_or_plan_has_a_folder_of_its_own(
    url: str,  # noqa: F811
    ledger: Ledger,  # noqa: F811
    root: Path,
    change: dict[str, Any],
) -> None:
    key = die(url, root)
    plan = make_plan(noise_multiplier=change.pop("noise", 8.0))
    backend = Resumable(dies=False, plan=plan)
    train(backend, url, state_dir=root, **change)
    assert key not in backend.keys
    assert states_of(ledger) == [State.STARTED, State.COMMITTED]
    assert attempts.can_continue(root, "run-1")


def test_a_fresh_start_under_an_old_charge_is_refused(url: str, ledger: Ledger, root: Path) -> None:  # noqa: F811
    die(url, root)
    backend = Resumable(dies=False)
    backend.on_train = lambda inputs: make_executed(resumed_at=None)
    with pytest.raises(BudgetRefusedError, match="started over"):
        train(backend, url, state_dir=root)
    assert states_of(ledger) == [State.STARTED]


def test_leftovers_of_a_committed_training_are_wiped_at_the_next_start(
    url: str,  # noqa: F811
    ledger: Ledger,  # noqa: F811
    root: Path,
) -> None:
    die(url, root)
    folder = folder_in(root)
    ticket = json.loads((folder / "ticket.json").read_text())
    grant_of_the_dead = ledger.entries("things")[0]
    assert ticket["entry_id"] == grant_of_the_dead.id
    # As if it had died between its commit and the end of its key.
    held = {"engine": (folder / "engine"), "ticket": ticket}
    copies = {file.name: file.read_bytes() for file in held["engine"].iterdir()}
    train(Resumable(dies=False), url, state_dir=root)
    held["engine"].mkdir(mode=0o700)
    for name, content in copies.items():
        (held["engine"] / name).write_bytes(content)
    (folder / "ticket.json").write_text(json.dumps(ticket))
    train(Resumable(dies=False), url, state_dir=root, run_id="run-2")
    assert not has_state(folder / "engine") and not (folder / "ticket.json").exists()


def test_two_processes_never_train_with_one_key(url: str, ledger: Ledger, root: Path) -> None:  # noqa: F811
    script = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from privacy_pipeline.dp import attempts\n"
        "from tests.reports.records import make_plan\n"
        "with attempts.held(Path(sys.argv[1]), run_id='run-1', node='Trainer', plan=make_plan()):\n"
        "    print('held', flush=True)\n"
        "    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(root)], stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout is not None and other.stdout.readline() == "held\n"
            backend = Resumable(dies=False)
            with pytest.raises(PipelineError, match="executed by another process"):
                train(backend, url, state_dir=root)
            assert not backend.trained and states_of(ledger) == []
        finally:
            other.kill()
    train(Resumable(dies=False), url, state_dir=root)  # the kernel let go of the lock
    assert states_of(ledger) == [State.COMMITTED]
