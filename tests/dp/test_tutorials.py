"""Models that people learn with run through `make_private`, callbacks included, or are refused as the guide says."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import numpy as np
import pytest

from privacy_pipeline.dp import PrivacyPlan, make_private
from privacy_pipeline.dp.clipping.intercept import FallbackWarning
from privacy_pipeline.errors import BadInputError
from tests.dp.tutorials.keras_guides import GUIDES
from tests.dp.tutorials.kit import FAST, ROWS, SLOWER, Lesson
from tests.dp.tutorials.peers import PEERS

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "coming_from.md"
LESSONS = {f"{lesson.source}: {lesson.name}": lesson for lesson in (*GUIDES, *PEERS)}
PLAN = PrivacyPlan.calibrated(
    units=ROWS, expected_batch_size=6, epochs=2, noise_multiplier=1.0, delta=1e-5, clipping_norm=1.0
)


def run(lesson: Lesson, folder: Path) -> str:
    """Trains a model of a tutorial; how that went."""
    model, (x, y) = lesson.make(), lesson.data()
    model.compile("sgd", lesson.loss)
    before = [value.copy() for value in model.get_weights()]
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            execution = make_private(model, PLAN, optimizer="sgd", loss=lesson.loss, **lesson.more).fit(
                x, y, callbacks=list(lesson.callbacks(str(folder))), validation_data=(x, y)
            )
        except BadInputError as error:
            return str(error)
    assert execution.steps == PLAN.steps
    assert execution.epsilon() == pytest.approx(PLAN.epsilon())
    assert any(np.any(a != b) for a, b in zip(before, model.get_weights(), strict=True))
    return SLOWER if any(issubclass(one.category, FallbackWarning) for one in told) else FAST


@pytest.mark.slow_but(
    "Keras: image classification from scratch",
    "Keras: structured data, adapted layers",
    "Keras: variational autoencoder",
    "Keras: layers with `add_loss`",
)
@pytest.mark.parametrize("name", LESSONS)
def test_a_model_of_a_tutorial(name: str, tmp_path: Path) -> None:
    lesson = LESSONS[name]
    found = run(lesson, tmp_path)
    assert found == lesson.outcome if lesson.outcome in (FAST, SLOWER) else lesson.outcome in found, found


def told(lesson: Lesson) -> str:
    outcome = lesson.outcome if lesson.outcome in (FAST, SLOWER) else "refused"
    return f"| {lesson.source} | {lesson.name} | {outcome}{f': {lesson.why}' if lesson.why else ''} |"


def test_the_guide_lists_each_of_them() -> None:
    table = GUIDE.read_text().partition("## Models of their tutorials")[2]
    rows = re.findall(r"^\| (?:Keras|Opacus|TensorFlow Privacy) \| .*$", table, re.MULTILINE)
    assert rows == [told(lesson) for lesson in LESSONS.values()]
