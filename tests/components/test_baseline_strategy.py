"""The Resolver's choice of a baseline."""

from __future__ import annotations

import shutil
from typing import Any

import pytest
from tfx.types import standard_artifacts

from privacy_pipeline.components.resolver import strategy
from privacy_pipeline.components.resolver.strategy import ANSWERS, PRIVACY_CLASS, LatestBlessedOfClass

DP, PLAIN = "dp/row/zero_out", "none/row/-"


def model(number: int) -> Any:
    made = standard_artifacts.Model()
    made.id = number
    return made


def blessing(number: int, *, of: int, cls: str, blessed: int = 1) -> Any:
    made = standard_artifacts.ModelBlessing()
    made.id = number
    made.set_int_custom_property("blessed", blessed)
    made.set_int_custom_property("current_model_id", of)
    made.set_string_custom_property(PRIVACY_CLASS, cls)
    return made


def choose(cls: str, models: list[Any], blessings: list[Any]) -> tuple[list[int], list[int]]:
    found = LatestBlessedOfClass(cls).resolve_artifacts(None, {"model": models, "model_blessing": blessings})
    return [a.id for a in found["model"]], [a.id for a in found["model_blessing"]]


def test_a_model_that_answers_something_else_is_not_a_baseline() -> None:
    models, several = [model(1), model(2), model(3)], blessing(12, of=2, cls=PLAIN)
    several.set_string_custom_property(ANSWERS, "ten classes")
    blessings = [blessing(11, of=1, cls=PLAIN), several, blessing(10, of=3, cls=PLAIN)]

    def found(*answers: str) -> list[int]:
        strategy_of = LatestBlessedOfClass(PLAIN, *answers)
        resolved = strategy_of.resolve_artifacts(None, {"model": models, "model_blessing": blessings})
        return [a.id for a in resolved["model"]]

    assert (found(), found("ten classes"), found("four classes")) == ([1], [2], [])


MODELS = [1, 2, 3, 4, 5]
BLESSINGS = [
    blessing(11, of=1, cls=DP),
    blessing(13, of=3, cls=DP),
    blessing(12, of=2, cls=DP),
    blessing(14, of=4, cls=PLAIN),
    blessing(15, of=5, cls=DP, blessed=0),
]


@pytest.mark.parametrize(
    ("cls", "expected"),
    [
        (DP, ([3], [13])),  # the newest blessed one: not the newer plain one, not the newer unblessed one
        (PLAIN, ([4], [14])),
        ("dp/person/zero_out", ([], [])),
        ("dp/row/add_or_remove_one", ([], [])),
    ],
)
def test_the_newest_blessed_model_of_the_class(cls: str, expected: tuple[list[int], list[int]]) -> None:
    assert choose(cls, [model(n) for n in MODELS], BLESSINGS) == expected


def test_a_dp_candidate_never_gets_a_plain_baseline() -> None:
    assert choose(DP, [model(4)], [blessing(14, of=4, cls=PLAIN)]) == ([], [])


def test_a_blessing_whose_model_is_gone_is_passed_over() -> None:
    assert choose(DP, [model(1)], BLESSINGS) == ([1], [11])


def test_a_blessing_of_evaluator_names_no_class_and_does_not_count() -> None:
    evaluators = standard_artifacts.ModelBlessing()
    evaluators.id = 99
    evaluators.set_int_custom_property("blessed", 1)
    evaluators.set_int_custom_property("current_model_id", 1)
    assert choose(DP, [model(1)], [evaluators]) == ([], [])


def test_nothing_yet() -> None:
    assert choose(DP, [], []) == ([], [])


def on_disk(number: int, folder: Any) -> Any:
    made = model(number)
    made.uri = str(folder / str(number))
    serving = folder / str(number) / "Format-Serving"
    serving.mkdir(parents=True)
    (serving / "saved_model.pb").write_bytes(b"x")
    return made


@pytest.mark.parametrize("what", ["the folder", "the SavedModel", "its file"])
def test_a_model_whose_files_are_gone_is_passed_over_with_a_line(what: str, tmp_path: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(strategy, "_told", [])
    models = [on_disk(n, tmp_path) for n in MODELS]
    assert choose(DP, models, BLESSINGS) == ([3], [13])
    assert strategy.passed_over() == ""
    gone = tmp_path / "3"
    if what == "its file":
        (gone / "Format-Serving/saved_model.pb").unlink()
    else:
        shutil.rmtree(gone if what == "the folder" else gone / "Format-Serving")
    assert choose(DP, models, BLESSINGS) == ([2], [12])
    assert (
        str(gone) in strategy.passed_over() and "the newest one that is there is the baseline" in strategy.passed_over()
    )
    shutil.rmtree(tmp_path)
    assert choose(DP, models, BLESSINGS) == ([], [])
    assert "there is no baseline" in strategy.passed_over() and "\n" not in strategy.passed_over()
