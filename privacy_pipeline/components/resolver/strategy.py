"""Finds the model that a candidate has to stand up to."""

from __future__ import annotations

import logging
from typing import Any

from tfx import types
from tfx.dsl.components.common import resolver
from tfx.types import standard_artifacts

from privacy_pipeline.components.artifacts import is_whole

PRIVACY_CLASS = "privacy_class"
ANSWERS = "answers"  # of a model of several classes: `FeaturePlan.answers`


class LatestBlessedOfClass(resolver.ResolverStrategy):
    """The newest model that PrivacyGate blessed in the same privacy class (guarantee, unit, relation).

    A DP candidate is never compared with a non-private baseline: it would lose for ever.

    Args:
        privacy_class: the class, as `accounting.record.privacy_class` names it.
        answers: what the candidate answers; a model that answers something else is passed over.
    """

    def __init__(self, privacy_class: str, answers: str = "") -> None:
        self._privacy_class, self._answers = privacy_class, answers

    def resolve_artifacts(
        self, store: Any, input_dict: dict[str, list[types.Artifact]]
    ) -> dict[str, list[types.Artifact]]:
        """Pick the model and its blessing; both lists are empty where no model of the class was blessed yet.

        A model whose files are gone is skipped, as if it had never been blessed: no model can be compared with it.
        """
        del store
        models = {a.id: a for a in _of_type(input_dict, standard_artifacts.Model)}
        blessings = [
            a
            for a in _of_type(input_dict, standard_artifacts.ModelBlessing)
            if a.get_int_custom_property("blessed") == 1
            and a.get_string_custom_property(PRIVACY_CLASS) == self._privacy_class
            and (a.get_string_custom_property(ANSWERS) or "") == self._answers
            and _model_of(a) in models
        ]
        if not blessings:
            return {key: [] for key in input_dict}
        whole = [a for a in blessings if _is_there(models[_model_of(a)])]
        _tell([models[_model_of(a)] for a in blessings if a not in whole], is_baseline_left=bool(whole))
        if not whole:
            return {key: [] for key in input_dict}
        newest = max(whole, key=lambda a: a.id)
        model = models[_model_of(newest)]
        chosen: dict[type, types.Artifact] = {
            standard_artifacts.Model: model,
            standard_artifacts.ModelBlessing: newest,
        }
        return {key: [chosen[type(found[0])]] for key, found in input_dict.items()}


def _of_type(input_dict: dict[str, list[types.Artifact]], kind: type) -> list[types.Artifact]:
    return [a for found in input_dict.values() for a in found if isinstance(a, kind)]


def passed_over() -> str:
    """Return what this process reported of baselines that are gone; empty where none was."""
    return _told[-1] if _told else ""


_told: list[str] = []  # a node runs in a process of its own


def _model_of(blessing: types.Artifact) -> int:
    number: int = blessing.get_int_custom_property("current_model_id")
    return number


def _is_there(model: types.Artifact) -> bool:
    return not model.uri or is_whole(model)


def _tell(gone: list[types.Artifact], *, is_baseline_left: bool) -> None:
    if gone:
        instead = "the newest one that is there is the baseline" if is_baseline_left else "there is no baseline"
        more = f" and {len(gone) - 1} more" if len(gone) > 1 else ""
        _told.append(f"passed over a blessed model whose files are gone: {gone[-1].uri}{more}; {instead}")
        logging.warning("%s", _told[-1])
