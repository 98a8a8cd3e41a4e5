"""Finds the model that a candidate has to stand up to."""

from __future__ import annotations

from typing import Any

from tfx import types
from tfx.dsl.components.common import resolver
from tfx.types import standard_artifacts

PRIVACY_CLASS = "privacy_class"


class LatestBlessedOfClass(resolver.ResolverStrategy):
    """The newest model that PrivacyGate blessed in the same privacy class (guarantee, unit, relation).

    A DP candidate is never compared with a non-private baseline: it would lose for ever.

    Args:
        privacy_class: the class, as `accounting.record.privacy_class` names it.
    """

    def __init__(self, privacy_class: str) -> None:
        self._privacy_class = privacy_class

    def resolve_artifacts(
        self, store: Any, input_dict: dict[str, list[types.Artifact]]
    ) -> dict[str, list[types.Artifact]]:
        """Picks the model and its blessing; both lists are empty where no model of the class was blessed yet."""
        del store
        models = {a.id: a for a in _of_type(input_dict, standard_artifacts.Model)}
        blessings = [
            a
            for a in _of_type(input_dict, standard_artifacts.ModelBlessing)
            if a.get_int_custom_property("blessed") == 1
            and a.get_string_custom_property(PRIVACY_CLASS) == self._privacy_class
            and a.get_int_custom_property("current_model_id") in models
        ]
        if not blessings:
            return {key: [] for key in input_dict}
        newest = max(blessings, key=lambda a: a.id)
        model = models[newest.get_int_custom_property("current_model_id")]
        chosen: dict[type, types.Artifact] = {
            standard_artifacts.Model: model,
            standard_artifacts.ModelBlessing: newest,
        }
        return {key: [chosen[type(found[0])]] for key, found in input_dict.items()}


def _of_type(input_dict: dict[str, list[types.Artifact]], kind: type) -> list[types.Artifact]:
    return [a for found in input_dict.values() for a in found if isinstance(a, kind)]
