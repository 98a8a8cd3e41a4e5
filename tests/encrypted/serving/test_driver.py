"""The driver's protocol over stores, with all servers in one process."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privacy_pipeline.encrypted.model import model_format, shares
from privacy_pipeline.encrypted.model.layers import ONE
from privacy_pipeline.encrypted.sandbox import environment
from tests.encrypted.programs.networks import mlp
from tests.encrypted.real_parties import expected, held_answer, put_held

MODEL = mlp([4, 8, 1])
BUCKET = 5


class Simulated:
    """A driver that holds all servers, and their stores."""

    def __init__(self, python: Path, scratch: Path) -> None:
        self.model, self.stores = scratch / "model", [scratch / f"store{number}" for number in range(3)]
        self.digest = model_format.save(MODEL, self.model)
        (self.model / model_format.WEIGHTS).unlink()  # the driver does without
        command = [str(python), "-m", "privacy_pipeline.encrypted.worker.driver", "--simulate", *map(str, self.stores)]
        self.process = subprocess.Popen(
            command, env=environment.variables(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, **request: Any) -> Any:
        """The driver's answer."""
        assert self.process.stdin is not None and self.process.stdout is not None
        print(json.dumps(request), file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())

    def put(self, stem: Path, values: Any, *, scale: float = ONE) -> None:
        """Shares values among the stores."""
        three = shares.split(shares.encode(np.asarray(values), scale=scale))
        for number, store in enumerate(self.stores):
            put_held(store, stem, three, number)

    def put_weights(self) -> None:
        """Shares the weights."""
        for layer in MODEL.layers:
            for role in layer.weights:
                weight, scale = MODEL.weights[f"{layer.name}/{role}"], MODEL.weight_scale(layer, role)
                self.put(shares.weight_stem(layer.name, role), weight, scale=scale)

    def answer(self, batch: str) -> list[shares.Held]:
        """What each server holds of the answer."""
        return [held_answer(store, batch, (BUCKET, 1)) for store in self.stores]


@pytest.fixture(scope="module")
def driver(encrypted_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulated]:
    simulated = Simulated(encrypted_python, tmp_path_factory.mktemp("driver"))
    with simulated.process:
        try:
            # Before anything is there, in this order.
            assert simulated.ask(op="build", bucket=BUCKET)["error"] == "no model is loaded"
            load = {"op": "load", "model": str(simulated.model), "digest": simulated.digest}
            assert "No such file" in simulated.ask(**load)["error"]
            simulated.put_weights()
            assert "not the model that was asked for" in simulated.ask(**{**load, "digest": "0" * 64})["error"]
            assert simulated.ask(op="build", bucket=BUCKET)["error"] == "no model is loaded"
            assert simulated.ask(**load)["ok"]
            built = simulated.ask(op="build", bucket=BUCKET)
            assert built["ok"] and built["seconds"] > 0
            assert built["rounds"] > 2 and built["sent_bytes"] > BUCKET
            yield simulated
        finally:
            simulated.process.kill()


@pytest.mark.slow
def test_answers_are_those_of_numpy(driver: Simulated) -> None:
    for number in range(3):
        inputs = np.random.default_rng(number).normal(size=(BUCKET, 4)) * 4
        driver.put(shares.input_stem(f"b{number}", "x"), inputs)
        answer = driver.ask(op="run", bucket=BUCKET, batch=f"b{number}")
        assert answer["ok"] and answer["seconds"] > 0
        logits = shares.decode(shares.join(driver.answer(f"b{number}")), scale=ONE)
        np.testing.assert_allclose(logits, expected(MODEL, inputs), atol=1e-3)


def test_the_same_shares_again_give_the_same_answer_in_other_shares(driver: Simulated) -> None:
    driver.put(shares.input_stem("again", "x"), np.ones((BUCKET, 4)))
    answers = []
    for _ in range(2):
        assert driver.ask(op="run", bucket=BUCKET, batch="again")["ok"]
        answers.append(driver.answer("again"))
    for one, other in zip(*answers, strict=True):
        assert not any((first == second).any() for first, second in zip(one, other, strict=True))
    logits = [shares.decode(shares.join(answer), scale=ONE) for answer in answers]
    np.testing.assert_allclose(logits[0], logits[1], atol=1e-3)


@pytest.mark.parametrize(
    ("request_", "why"),
    [
        ({"op": "run", "bucket": BUCKET, "batch": "missing"}, "No such file"),
        ({"op": "run", "bucket": BUCKET, "batch": "../../etc/passwd"}, "batch's id"),
        ({"op": "run", "bucket": BUCKET + 1, "batch": "b"}, "no graph is built for 6 rows"),
        ({"op": "run", "bucket": BUCKET, "batch": "short"}, "Input to reshape"),
        ({"op": "run", "bucket": BUCKET}, "no or an unknown 'batch'"),
        ({"op": "build", "bucket": 0}, "0 is not a number of rows"),
        ({"op": "build", "bucket": "many"}, "'many' is not a number of rows"),
        ({"op": "reveal"}, "no or an unknown 'reveal'"),
        ({}, "no or an unknown 'op'"),
    ],
)
def test_what_cannot_be_done_is_one_line(driver: Simulated, request_: dict[str, Any], why: str) -> None:
    driver.put(shares.input_stem("short", "x"), np.ones((BUCKET - 1, 4)))
    answer = driver.ask(**request_)
    assert answer["ok"] is False and why in answer["error"] and "\n" not in answer["error"]


def test_it_ends_when_told_to_and_when_its_input_ends(encrypted_python: Path, driver: Simulated) -> None:
    assert driver.process.poll() is None
    assert driver.process.stdin is not None
    print('{"op": "quit"}', file=driver.process.stdin, flush=True)
    assert driver.process.wait(30) == 0


@pytest.mark.slow
def test_a_share_that_could_leave_the_servers_and_a_server_that_draws_badly_are_refused(
    program: Callable[..., Any], tmp_path: Path
) -> None:
    found = program("stored.py", str(tmp_path))
    assert found["placement"]["on_servers"] == "accepted"
    assert "would take shares off the servers" in found["placement"]["at_the_driver"]
    assert "calls a function" in found["placement"]["in_a_function"]
    assert found["raw"] is True
    assert found["servers"][""] == "accepted"
    assert found["servers"]["server1"].startswith("server1: the secure random-number module gives the same key twice")
