"""Several trials of a backend under one charge, of which the best model is kept.

The plan is that of all trials together, and is made before any data is read. The trials run in a process of their own
(`trials`): this one learns of the chosen trial alone, so that nothing it writes, down to the counters in the names of a
SavedModel's functions, depends on how many there were.
"""

from __future__ import annotations

import dataclasses
import pickle
import secrets
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from privacy_pipeline import backends
from privacy_pipeline.accounting.events import canonical
from privacy_pipeline.accounting.tuning import whole_event
from privacy_pipeline.backends import listed, private_plan
from privacy_pipeline.backends.base import Audits, Executed, KerasBackend, Specs, TrainingInputs, Tuned
from privacy_pipeline.backends.dp_sgd import audited, require_noise
from privacy_pipeline.config.models.pipeline import PipelineConfig
from privacy_pipeline.config.models.tuning import Point, TuningSection
from privacy_pipeline.dp.rowwise.verdict import Verdict, least_proven
from privacy_pipeline.errors import PipelineError
from privacy_pipeline.files.read_once import held
from privacy_pipeline.processes.programs import command_of, ending_with_us

if TYPE_CHECKING:
    from privacy_pipeline.accounting.plan import MechanismPlan
    from privacy_pipeline.data.schema.features import FeaturePlan

REQUEST, HELD, ANSWER = "request.pickle", "held.pickle", "answer.pickle"
GENERATOR = "the operating system's generator (number of trials, hyperparameters)"
WITHHELD = ("number of trials", "models and scores of the trials that were not chosen")
_ERRORS = "errors.txt"


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """What the process of the trials returns.

    Attributes:
        executed: the chosen trial, with the event of all that ran; None where no trial was drawn.
        weights: the chosen model's weights, as Keras orders them.
    """

    executed: Executed | None
    weights: list[Any]


class TunedBackend:
    """Trials of one backend.

    Args:
        name: the backend.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def plan(self, *, config: PipelineConfig, units: int | None) -> MechanismPlan | None:
        """Return the mechanism of the whole tuning.

        Raises:
            BadInputError: as the backend does.
            AccountingError: as the backend does.
            PipelineError: two points of the space have trials of unlike events.
        """
        section, trainer = tuning_of(config), trainer_of(config)
        first = trainer.plan(config=at_point(config, section.space.points()[0]), units=units)
        if first is None:
            return None
        # Calibrated once, for the whole: every trial gets this noise.
        for point in section.space.points():
            trial_plan(config, point, units=units, like=first)
        stated = section.model_dump(mode="json", exclude_none=True)
        return dataclasses.replace(first, event=whole_event(section, first.event), tuning=stated)

    def examine(
        self, *, config: PipelineConfig, features: FeaturePlan, plan: MechanismPlan, specs: Specs
    ) -> Verdict | None:
        """Return what is proven of the examples in the models of all trials that may be drawn: the least of it.

        Raises:
            BadInputError: as the backend does, for the model of a trial.
        """
        section, found = tuning_of(config), dict[str, Verdict | None]()
        for point in section.space.points():
            trial = trial_plan(config, point, units=plan.units, like=plan)
            own = trial_config(config, point, like=trial)
            shape = own.model.model_dump_json()  # two trials of one model differ in their steps alone
            if shape not in found:
                found[shape] = trainer_of(config).examine(config=own, features=features, plan=trial, specs=specs)
        return least_proven([verdict for verdict in found.values() if verdict is not None])

    def verify(self, inputs: TrainingInputs) -> Audits:
        """Measure the noise of every trial that may be drawn, and audit the mechanism that all of them share.

        Raises:
            PipelineError: the noise of a trial is not the one that is accounted, or the audit contradicts the plan.
        """
        if inputs.plan is None:
            return ()
        plans = []
        for point in tuning_of(inputs.config).space.points():
            trial = trial_plan(inputs.config, point, units=inputs.plan.units, like=inputs.plan)
            own = trial_config(inputs.config, point, like=trial)
            plans.append(private_plan.reserved_plan(own, trial))
        require_noise(plans, inputs.config)
        return audited(plans[0], inputs.config)

    def train(self, inputs: TrainingInputs) -> Executed:
        """Run the trials, and write the SavedModel of the best one.

        Raises:
            BadInputError, PipelineError: as the backend does; a trial differed from what was accounted; the process of
                the trials died.
        """
        section = tuning_of(inputs.config)
        ends = None if section.minutes is None else time.monotonic() + 60 * section.minutes
        chosen = _run_trials(inputs, ends=ends)
        if ends is not None:
            _wait_until(ends)
        executed = chosen.executed or _untrained(inputs, section)
        if executed.tuning is None:
            raise ValueError("the trials do not name the chosen one")
        if inputs.plan is not None and (
            executed.event is None or canonical(executed.event) != canonical(inputs.plan.event)
        ):
            raise PipelineError("what ran has another DpEvent than what was accounted; the model is not handed out")
        _save(inputs, executed.tuning.point, chosen.weights)
        return executed


def tuning_of(config: PipelineConfig) -> TuningSection:
    """Return the config's tuning block."""
    if config.training.tuning is None:
        raise ValueError("the config tunes nothing")
    return config.training.tuning


def trainer_of(config: PipelineConfig) -> KerasBackend:
    """Return the backend of a trial."""
    backend = listed.load(config.training.backend)
    if not isinstance(backend, KerasBackend):
        raise TypeError(f"backend {backend.name} is listed as tunable and has no `fit`")
    return backend


def at_point(config: PipelineConfig, point: Mapping[str, Any]) -> PipelineConfig:
    """Return the config with the hyperparameters of a point; all else, the tuning too, as it was."""
    taken = {name: point[name] for name in ("learning_rate", "optimizer") if name in point}
    training = config.training.model_copy(update=taken)
    if training.dp_sgd is not None and "clipping_norm" in point:
        section = training.dp_sgd.model_copy(update={"clipping_norm": point["clipping_norm"]})
        training = training.model_copy(update={"dp_sgd": section})
    shape = {name: point[name] for name in ("hidden_units", "dropout") if name in point}
    return config.model_copy(update={"training": training, "model": config.model.model_copy(update=shape)})


def trial_config(config: PipelineConfig, point: Mapping[str, Any], *, like: MechanismPlan | None) -> PipelineConfig:
    """Return the config of one trial: a point, and the noise that all trials have.

    Args:
        config: the whole config.
        point: hyperparameters of the trial.
        like: a plan of one trial, or of the whole tuning; None without a guarantee.
    """
    training = at_point(config, point).training.model_copy(update={"tuning": None})
    if like is not None and training.dp_sgd is not None:
        # The audit looks at the mechanism, which is the same in each trial; it is made once.
        fixed = {"noise_multiplier": like.noise_multiplier, "target_epsilon": None, "audit": "none"}
        training = training.model_copy(update={"dp_sgd": training.dp_sgd.model_copy(update=fixed)})
    return at_point(config, point).model_copy(update={"training": training})


def trial_plan(config: PipelineConfig, point: Point, *, units: int | None, like: MechanismPlan) -> MechanismPlan:
    """Return the plan of one trial, with the noise that all of them have.

    Args:
        config: the whole config.
        point: hyperparameters of the trial.
        units: registered number of units, where it is public.
        like: a plan of one trial, or of the whole tuning, whose event it has to have.

    Raises:
        PipelineError: the trial has another event than the one that is accounted for.
    """
    trial = trainer_of(config).plan(config=trial_config(config, point, like=like), units=units)
    if trial is None:
        raise ValueError("a trial of a private tuning has a plan")
    event = trial.event if like.tuning is None else whole_event(tuning_of(config), trial.event)
    if canonical(event) != canonical(like.event):
        raise PipelineError(
            f"a trial with {dict(point)} has another DpEvent than the one that is accounted for; it was not trained"
        )
    return trial


def first_trial(config: PipelineConfig, plan: MechanismPlan) -> tuple[PipelineConfig, MechanismPlan]:
    """Return the config and plan of the trial of the first point, of the plan of a whole tuning.

    Raises:
        PipelineError: the trial has another event than the one that is accounted for.
    """
    point = tuning_of(config).space.points()[0]
    return trial_config(config, point, like=plan), trial_plan(config, point, units=plan.units, like=plan)


def _untrained(inputs: TrainingInputs, section: TuningSection) -> Executed:
    """Return a result that does not depend on the data: no trial was drawn, which Poisson's distribution allows.

    Papernot and Steinke 2022, section 3.3: the algorithm "returns some arbitrary output independent from the input".
    Here that is a model of the space as it was initialised, and its event is the planned one all the same.
    """
    point, plan = secrets.choice(section.space.points()), None
    if inputs.plan is not None:
        plan = trial_plan(inputs.config, point, units=inputs.plan.units, like=inputs.plan)
    return Executed(
        steps=0,
        epochs=0,
        examples=0,
        largest_participation=None,
        seed_fixed=False,
        generator=GENERATOR,
        cryptographic=True,
        history={},
        event=None if inputs.plan is None else inputs.plan.event,
        tuning=Tuned(point=point, plan=plan, trained=False),
        withheld=WITHHELD,
    )


def _save(inputs: TrainingInputs, point: Mapping[str, Any], weights: list[Any]) -> None:
    model = backends.keras_io.build_model(dataclasses.replace(inputs, config=at_point(inputs.config, point)))
    if weights:
        model.set_weights(weights)
    backends.keras_io.save_model(
        model, transform_graph=inputs.transform_graph, features=inputs.features, model_dir=inputs.model_dir
    )


def _silent(done: int, total: int, unit: str) -> None:
    """Report nothing: progress would reveal the number of trials."""


def _wait_until(moment: float) -> None:
    time.sleep(max(0.0, moment - time.monotonic()))


def _run_trials(inputs: TrainingInputs, *, ends: float | None) -> Chosen:
    """Run the trials in a process of their own, whose output is dropped: its length would reveal their number."""
    inputs.work_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=inputs.work_dir) as name:
        folder = Path(name)
        asked = dataclasses.replace(
            inputs, work_dir=folder / "work", log_dir=None, state_dir=None, report_progress=_silent
        )
        (folder / REQUEST).write_bytes(pickle.dumps(asked))
        (folder / HELD).write_bytes(held())  # the trials build what was checked, whatever the files are by now
        command = ending_with_us([*command_of("privacy_pipeline.backends.trials"), name])
        with (folder / _ERRORS).open("wb") as errors:
            left = None if ends is None else max(0.0, ends - time.monotonic())
            try:
                ended = subprocess.run(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=errors,
                    check=False,
                    timeout=left,
                )
            except subprocess.TimeoutExpired:
                raise PipelineError(
                    "the trials took longer than training.tuning.minutes, and their time would reveal their number; "
                    "no model is handed out, and the tuning stays charged",
                    fix="raise training.tuning.minutes, or lower trials or epochs",
                ) from None
        if ended.returncode != 0:
            said = (folder / _ERRORS).read_text(errors="replace").strip().splitlines()
            last = said[-1] if said else "it printed nothing"
            raise PipelineError(f"the process of the trials ended with status {ended.returncode}: {last}"[:500])
        answer = pickle.loads((folder / ANSWER).read_bytes())
    if isinstance(answer, PipelineError):
        raise answer
    if not isinstance(answer, Chosen):
        raise ValueError("the process of the trials answers with a choice or an error")
    return answer
