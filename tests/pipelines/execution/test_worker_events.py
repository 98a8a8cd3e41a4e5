"""Events of the worker: JSON there and back, and whole messages whoever writes at the same time."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections import Counter

import pytest
from pydantic import ValidationError

from privacy_pipeline.components import progress
from privacy_pipeline.pipelines.execution import events

EACH = [
    events.Loaded(seconds=1.5),
    events.NodeStarted(node="Trainer"),
    events.Progress(node="Trainer", done=3, total=10, unit="steps"),
    events.NodeEnded(node="Trainer", cached=True, seconds=0.25, detail="ä\n[b]"),
    events.NodeFailed(node="", message="no", fix="do", exit_code=2),
]
MESSAGES, SIZE = 40, 60_000


@pytest.mark.parametrize("event", EACH, ids=lambda event: event.event)
def test_round_trip(event: events.Event) -> None:
    found = events.parse(event.model_dump_json().encode())
    assert found == event and type(found) is type(event)


def test_every_kind_of_event_is_tested() -> None:
    assert {type(event) for event in EACH} == set(events.Event.__args__)


@pytest.mark.parametrize(
    "message", [b"", b"{}", b'{"event": "surprise"}', b'{"event": "started", "node": "A", "more": 1}']
)
def test_what_is_no_event_is_refused(message: bytes) -> None:
    with pytest.raises(ValidationError):
        events.parse(message)


def write_many(fd: int, letter: str) -> None:
    for number in range(MESSAGES):
        event = events.NodeFailed(node=letter, message=letter * SIZE, fix="", exit_code=number)
        os.write(fd, event.model_dump_json().encode())


def test_two_processes_that_write_large_messages_at_once_do_not_mix_them() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=write_many, args=(theirs.fileno(), letter)) for letter in "xy"]
    for writer in writers:
        writer.start()
    theirs.close()
    seen: Counter[str] = Counter()
    while message := ours.recv(1 << 20):
        event = events.parse(message)
        assert isinstance(event, events.NodeFailed)
        assert event.message == event.node * SIZE
        assert event.exit_code == seen[event.node]  # in order, none lost
        seen[event.node] += 1
    for writer in writers:
        writer.join()
    assert seen == {"x": MESSAGES, "y": MESSAGES}


def test_progress_of_a_component_is_an_event(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    monkeypatch.setenv(progress.PROGRESS_FD, str(theirs.fileno()))
    progress.report(node="Trainer", done=1, total=2, unit="steps")
    assert events.parse(ours.recv(1000)) == events.Progress(node="Trainer", done=1, total=2, unit="steps")


def test_without_a_runner_that_listens_progress_goes_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(progress.PROGRESS_FD, raising=False)
    sent: list[bytes] = []
    with monkeypatch.context() as patched:
        patched.setattr(progress.os, "write", lambda fd, text: sent.append(text))
        progress.report(node="Trainer", done=1, total=2, unit="steps")
    assert sent == []
