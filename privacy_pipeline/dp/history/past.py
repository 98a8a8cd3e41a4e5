"""What is known of the weights, and of the optimizer's state, that a private training starts from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from privacy_pipeline.dp.history import untrained
from privacy_pipeline.dp.history.history import PrivacyHistory
from privacy_pipeline.dp.history.history_store import digest_of, recalled, remember
from privacy_pipeline.errors import BadInputError

_FIRST = (0.0, float(np.float32(0.1)), 1.0)  # what optimizers of Keras begin single numbers with


class Past:
    """Finds the history of a model's weights, and keeps that of the weights that a training leaves.

    Args:
        model: built Keras model.
        given: what the user states of its weights; None to find it.
        shared: whether other trainings are to find what this one leaves.
    """

    def __init__(self, *, model: Any, given: PrivacyHistory | None, shared: bool) -> None:
        self._model, self._given, self._shared = model, given, shared
        self._left: tuple[str, PrivacyHistory] | None = None
        self._after: PrivacyHistory | None = None  # of the weights that `_left` names
        self._own: dict[str, PrivacyHistory] = {}  # by digest, what this object left

    def history(self, *, restored: bool = False) -> PrivacyHistory:
        """Return what the weights were made from before this training, whichever of its `fit` it is.

        Args:
            restored: whether a `fit` after the first one goes on from a checkpoint, whatever the weights are now.

        Raises:
            BadInputError: nothing is known of the weights, or they were changed since the last `fit`.
        """
        digest = digest_of(self._model.weights)
        if self._left is not None:
            if digest != self._left[0] and not restored:
                raise BadInputError(
                    f"the weights of model '{self._model.name}' were changed since the last fit",
                    fix="call make_private again, with `history=execution.privacy_history` if they come of its weights",
                )
            return self._left[1]
        parts, unknown = self._parts(digest)
        if self._given is not None and self._given != PrivacyHistory():  # an empty one states that they are new
            return self._given.together(*parts)
        if not unknown:
            return PrivacyHistory().together(*parts)
        named = ", ".join(unknown[:3]) + (f" and {len(unknown) - 3} more" if len(unknown) > 3 else "")
        raise BadInputError(
            f"model '{self._model.name}': {named}: the weights do not show that they are new, and nothing is known of "
            "what made them",
            fix='make_private(..., history=PrivacyHistory.load(...)), or history="public" if they are new, or public '
            'data alone made them, or history="none" if nothing protects what did (then no guarantee holds)',
        )

    def of_optimizer(self, variables: Sequence[Any]) -> PrivacyHistory:
        """Return what the state of an optimizer was made from: its moments hold sums of gradients.

        Args:
            variables: of the optimizer, built.

        Raises:
            BadInputError: it was used before, and nothing is known of that.
        """
        found = []
        for variable in _moments(variables):
            digest = digest_of([variable])
            if self._left is not None and digest in self._own:
                continue  # an earlier part of this very training
            known = self._known(digest)
            if known is None:
                raise BadInputError(
                    f"the optimizer was used before ({variable.name}), and nothing is known of what made its state",
                    fix="call make_private with a new optimizer",
                )
            found.append(known)
        return PrivacyHistory().together(*found)

    def replaced(self) -> PrivacyHistory:
        """Return what is known of the weights as they are now, which a checkpoint is about to replace; empty where
        nothing is.

        Anyone with access to the model can have read these weights, so the trainings that produced them count too.
        """
        return self._known(digest_of(self._model.weights)) or PrivacyHistory()

    def set_by_others(self) -> PrivacyHistory | None:
        """Return what is known of the weights as they are now, which a user's code set; None where not all is known."""
        parts, unknown = self._parts(digest_of(self._model.weights))
        return None if unknown else PrivacyHistory().together(*parts)

    def now(self) -> PrivacyHistory:
        """Return the history of the weights as they are now, whatever trainings of this object made them.

        Raises:
            BadInputError: nothing is known of them.
        """
        if self._left is not None and self._after is not None and self._left[0] == digest_of(self._model.weights):
            return self._after
        return self.history()

    def left(self, before: PrivacyHistory, after: PrivacyHistory, *, moments: Sequence[Any], last: bool) -> None:
        """Keep the history of the weights as they are now, and of the optimizer's state.

        Args:
            before: that of the weights that the training began with.
            after: that of the weights now.
            moments: variables of the optimizer.
            last: whether the training is over; only then single weights are known again by another process.
        """
        digest = digest_of(self._model.weights)
        self._left, self._after = (digest, before), after
        single = [one for one in self._model.trainable_weights if _is_telling(one)]
        digests = [digest, *(digest_of([one]) for one in (*single, *_moments(moments)))]
        self._own.update(dict.fromkeys(digests, after))
        if self._shared:
            remember(digest, after)
            for each in digests[1:]:
                remember(each, after, write=last)

    def _known(self, digest: str) -> PrivacyHistory | None:
        own, found = self._own.get(digest), recalled(digest)
        return own if found is None else found if own is None else own.together(found)

    def _parts(self, digest: str) -> tuple[list[PrivacyHistory], list[str]]:
        """Return histories of the weights, together or one by one, and names of those of which nothing is known."""
        known = self._known(digest)
        if known is not None:
            return [known], []
        parts, unknown = [], []
        for variable in untrained.not_new(self._model):
            part = self._known(digest_of([variable]))
            if part is None:
                unknown.append(variable.name)
            else:
                parts.append(part)
        if untrained.steps_of_keras(self._model) > 0 and not unknown:
            unknown = ["Keras has trained it"]
        return parts, unknown


def _is_telling(variable: Any) -> bool:
    """Return whether a variable has bits that hardly another one has by chance, unlike zeros and ones."""
    values = np.asarray(variable)
    return bool(values.dtype.kind == "f" and (values != 0).any() and (values != 1).any())


def _moments(variables: Sequence[Any]) -> Iterator[Any]:
    """Yield the variables of an optimizer that data moved. A new one is the same number throughout."""
    for variable in variables:
        values = np.asarray(variable)
        if values.dtype.kind != "f" or not values.ndim or not values.size:
            continue  # a count, or a rate
        fresh = (values == values.flat[0]).all() and (values.size > 1 or float(values.flat[0]) in _FIRST)
        if not fresh:
            yield variable
