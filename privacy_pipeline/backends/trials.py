"""The process of a tuning's trials. It writes one file at its end: the chosen trial, or what went wrong.

    python -m privacy_pipeline.backends.trials FOLDER

The folder holds the pickled inputs, written by the process that started this one and readable by its user alone.
"""

from __future__ import annotations

import dataclasses
import math
import pickle
import secrets
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from privacy_pipeline import backends
from privacy_pipeline.accounting.tuning import draw_number, whole_event
from privacy_pipeline.backends import dp_sgd, private_plan
from privacy_pipeline.backends.base import Audits, Executed, TrainingInputs, TrialScore, Tuned
from privacy_pipeline.backends.tuning import (
    ANSWER,
    GENERATOR,
    HELD,
    REQUEST,
    WITHHELD,
    Chosen,
    first_trial,
    trainer_of,
    trial_config,
    trial_plan,
    tuning_of,
)
from privacy_pipeline.config.models.tuning import Point, TuningSection
from privacy_pipeline.errors import PipelineError
from privacy_pipeline.files.read_once import hold
from privacy_pipeline.tasks import registry as tasks
from privacy_pipeline.tasks.task import Score

if TYPE_CHECKING:
    from dp_accounting import DpEvent

    from privacy_pipeline.accounting.plan import MechanismPlan


def points_to_try(section: TuningSection) -> list[Point]:
    """Return the hyperparameters of every trial, drawn before any data is read.

    `repeat_and_select`: a secret number of independent uniform draws. `each`: the whole space in random order, begun
    again as often as needed.
    """
    space = section.space.points()
    if section.distribution is not None:
        number = draw_number(mean=section.trials, distribution=section.distribution)
        return [secrets.choice(space) for _ in range(number)]
    found: list[Point] = []
    while len(found) < section.trials:
        found += secrets.SystemRandom().sample(space, len(space))
    return found[: section.trials]


def run(inputs: TrainingInputs) -> Chosen:
    """Train and score every trial, and keep the best.

    Raises:
        BadInputError, PipelineError: as the backend does; a trial differs from what was accounted.
    """
    from privacy_pipeline.backends.keras_io import TrainingDiverged

    section = tuning_of(inputs.config)
    points = points_to_try(section)
    audits = inputs.audits if inputs.audits is not None else (_audits(inputs) if points else ())
    best: tuple[float, list[Any], Executed] | None = None
    results = []
    events: list[DpEvent | None] = []
    diverged: TrainingDiverged | None = None
    for point in points:
        try:
            score, weights, executed = _trial(inputs, point)
        except TrainingDiverged as error:
            diverged = error
            results.append(TrialScore(point=point, score=None))
            continue
        results.append(TrialScore(point=point, score=score if math.isfinite(score) else None))
        events.append(executed.event)
        # Trials are exchangeable, so the first of equals is as good as a random one: their order is one of scores and
        # random numbers, as the theorem needs it.
        if best is None or score > best[0]:
            best = (score, weights, executed)
    if diverged is not None and best is None:
        raise diverged
    if best is None:
        return Chosen(executed=None, weights=[])
    return Chosen(executed=_told(section, best[2], audits, results, events), weights=best[1])


def _told(
    section: TuningSection,
    executed: Executed,
    audits: Audits,
    results: list[TrialScore],
    events: list[DpEvent | None],
) -> Executed:
    """Return what leaves this process of the chosen trial, with the event of all of them."""
    if any(event != executed.event for event in events):
        raise PipelineError("two trials ran with unlike DpEvents; no model is handed out")
    secret = section.method == "repeat_and_select"
    if not secret and len(results) != section.trials:
        raise PipelineError(f"{len(results)} trials ran, but {section.trials} were accounted; no model is handed out")
    tuned = executed.tuning
    if tuned is None:
        raise ValueError("a trial does not give its point")
    return dataclasses.replace(
        executed,
        event=None if executed.event is None else whole_event(section, executed.event),
        audits=audits,
        generator=f"{executed.generator}; {GENERATOR}",
        history={},
        withheld=(*executed.withheld, *(WITHHELD if secret else ())),
        tuning=dataclasses.replace(tuned, results=() if secret else tuple(results)),
    )


def _audits(inputs: TrainingInputs) -> Audits:
    """Return the audit of the mechanism that all trials share, made once."""
    if inputs.plan is None:
        return ()
    config, plan = first_trial(inputs.config, inputs.plan)
    return dp_sgd.audited(private_plan.reserved_plan(config, plan), inputs.config)


def _trial(inputs: TrainingInputs, point: Point) -> tuple[float, list[Any], Executed]:
    """Run one trial: score, weights, and what ran. The score of a model that gives no numbers is the lowest."""
    import tensorflow as tf

    tf.keras.backend.clear_session()
    plan: MechanismPlan | None = None
    if inputs.plan is not None:
        plan = trial_plan(inputs.config, point, units=inputs.plan.units, like=inputs.plan)
    own = trial_config(inputs.config, point, like=plan)
    asked = dataclasses.replace(inputs, config=own, plan=plan, audits=None)
    try:
        model, executed = trainer_of(inputs.config).fit(asked)
    finally:
        shutil.rmtree(inputs.work_dir, ignore_errors=True)
    executed = dataclasses.replace(executed, tuning=Tuned(point=point, plan=plan))
    rows = backends.keras_io.read_rows(
        inputs.eval_files, transform_graph=inputs.transform_graph, classes=inputs.features.classes
    )
    score = tasks.of(inputs.config.dataset).scores[tuning_of(inputs.config).metric]
    return _score(model, rows, score), model.get_weights(), executed


def _score(model: Any, rows: Any, score: Score) -> float:
    """Measure a model on the eval split, exactly; minus infinity where it gives something that is not a number.

    What a row adds is a function of that row alone (`releases.single_rows`), and the metrics are functions of sums of
    ones over rows (`tasks.task.Score`).

    Args:
        model: of the trial.
        rows: of the eval split.
        score: of the task.
    """
    import numpy as np
    import tensorflow as tf

    from privacy_pipeline.releases.single_rows import SingleRows, parts_of

    def values(inputs: Any) -> dict[str, Any]:
        outputs = model(inputs, training=False)
        return {"outputs": outputs, "scored": score.of(outputs)}

    inputs = {name: rows.inputs[name] for name in model.input_names}
    spec = {name: tf.TensorSpec([None, *value.shape[1:]], value.dtype) for name, value in inputs.items()}
    values_of = SingleRows(values, spec, what="the model")
    parts = [values_of({name: value[part] for name, value in inputs.items()}) for part in parts_of(len(rows))]
    found = {name: np.concatenate([part[name] for part in parts])[:, np.newaxis] for name in parts[0]}
    if not np.isfinite(found["outputs"]).all():
        return -math.inf
    measure = score.measure()
    measure.update_state(rows.labels, found["scored"])
    return float(measure.result())


def main(folder: Path) -> None:
    """Answer the request in a folder."""
    hold((folder / HELD).read_bytes())
    inputs: TrainingInputs = pickle.loads((folder / REQUEST).read_bytes())
    answer: Chosen | PipelineError
    try:
        answer = run(inputs)
    except PipelineError as error:
        answer = error
    (folder / ANSWER).write_bytes(pickle.dumps(answer))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
