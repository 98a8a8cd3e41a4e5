"""What a run of an experiment writes down of each round, evaluations among it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from federated.clients.store import ClientStore
from federated.contract import Array, RoundState
from federated.driver.rounds import Made, Observer
from federated.experiments.charging import privacy
from federated.experiments.charging.record import Charge
from federated.experiments.config import Point
from federated.experiments.evaluation import Evaluation, Predict, evaluate
from federated.experiments.run_folder import RoundLog, RunFolder
from federated.privacy.distributed_noise import RELEASED, WRAPPED

Report = Callable[[str, int, int], None]  # name of the run, rounds done, rounds


class Lines(Observer):
    """Writes a line for each round. What a private run writes down of a round is public or on the eval split.

    Args:
        point: settings and seed.
        folder: where the lines go.
        predict: gives logits of a state's model.
        evaluation: clients of the eval split.
        report: gets the progress.
        charge: what a private run is charged for; None without a guarantee.
    """

    def __init__(
        self,
        point: Point,
        *,
        folder: RunFolder,
        predict: Predict,
        evaluation: ClientStore,
        report: Report,
        charge: Charge | None,
    ) -> None:
        self._name, self._config, self._folder, self._report = point.name, point.config, folder, report
        self._predict, self._evaluation, self._charge = predict, evaluation, charge
        self._sent = [0, 0]  # up, down
        self._log: RoundLog | None = None
        self.found: Evaluation | None = None  # the last evaluation

    def restored(self, done: int, arrays: Mapping[str, Array]) -> None:
        """Cut the lines to those that the checkpoint covers, and go on from the last one."""
        self._folder.keep_rounds(done)
        before = self._folder.rounds()
        self._sent = [before[-1]["bytes_up"], before[-1]["bytes_down"]] if before else [0, 0]
        self.found = _last_evaluation(before)

    def made(self, made: Made) -> bool:
        """Write the line of a round; a checkpoint follows each evaluation."""
        result, state, number = made.result, made.result.state, made.done
        self._sent = [self._sent[0] + result.bytes_up, self._sent[1] + result.bytes_down]
        line: dict[str, Any] = {"round": number}
        if self._charge is None:
            up, down = self._sent
            line |= {"bytes_up": up, "bytes_down": down, "clients": result.clients, **result.metrics}
        else:  # the realised cohort is secret: its expected size is what may be released
            sent_by_all = self._config.clients_per_round * number
            up, down = _private_bytes(self._charge, state)
            line |= {"bytes_up": up * sent_by_all, "bytes_down": down * sent_by_all, **counted(state)}
        evaluated = number % self._config.evaluation.every == 0 or made.last
        if evaluated:
            self.found = evaluate(state, self._evaluation, self._predict)
            line["eval"] = asdict(self.found)
            if self._charge is not None:
                line["epsilon"] = _epsilon(self._charge, number)
        if self._log is None:
            self._log = RoundLog(self._folder)
        self._log.write(line)
        return evaluated

    def kept(self) -> Mapping[str, Array]:
        """Wait until the lines are on the disk: the checkpoint counts on them."""
        if self._log is not None:
            self._log.sync()
        return {}

    def reported(self, done: int) -> None:
        """Report the rounds that were made."""
        self._report(self._name, done, self._config.rounds)

    def close(self) -> None:
        """End the log."""
        if self._log is not None:
            self._log.close()


def counted(state: RoundState) -> dict[str, int]:
    """Return what distributed noise counts over the rounds so far, and its guarantee covers."""
    return {name: int(state.aggregator[name]) for name in (RELEASED, WRAPPED) if name in state.aggregator}


def bytes_of(state: RoundState) -> int:
    """Return the bytes of the trainable weights."""
    return sum(int(part.nbytes) for part in state.weights)


def _private_bytes(charge: Charge, state: RoundState) -> tuple[int, int]:
    """Return what one client sends and gets in a round."""
    weights = bytes_of(state)
    noise = charge.plan.distributed if isinstance(charge, privacy.ChargedExperiment) else None
    return (weights if noise is None else noise.update_bytes), weights


def _epsilon(charge: Charge, rounds: int) -> float:
    from privacy_pipeline.accounting.accountants import epsilon_of

    plan = charge.plan
    return epsilon_of(plan.event_of(rounds), delta=plan.delta, relation=plan.relation)


def _last_evaluation(rounds: list[dict[str, Any]]) -> Evaluation | None:
    evaluated = [line["eval"] for line in rounds if "eval" in line]
    return Evaluation(**evaluated[-1]) if evaluated else None
