"""What is known of the weights that a private training starts from."""

from __future__ import annotations

from typing import Any

from privacy_pipeline.dp.history import PrivacyHistory
from privacy_pipeline.dp.history_store import digest_of, recalled, remember
from privacy_pipeline.dp.untrained import is_untrained
from privacy_pipeline.errors import BadInputError


class Past:
    """Finds the history of a model's weights, and keeps that of the weights that a training leaves.

    Args:
        model: built Keras model.
        given: what somebody says of its weights; None to find it.
    """

    def __init__(self, *, model: Any, given: PrivacyHistory | None) -> None:
        self._model, self._given = model, given
        self._left: tuple[str, PrivacyHistory] | None = None
        self._after: PrivacyHistory | None = None  # of the weights that `_left` names

    def history(self, *, restored: bool = False) -> PrivacyHistory:
        """What the weights were made from before this training, whichever of its `fit` it is.

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
        found = recalled(digest)
        if self._given is not None:
            return self._given if found is None else self._given.together(found)
        if found is not None:
            return found
        if is_untrained(self._model):
            return PrivacyHistory()
        raise BadInputError(
            f"model '{self._model.name}': its weights do not show that they are new, and nothing is known of what made "
            "them",
            fix='make_private(..., history=PrivacyHistory.load(...)), or history="public" if public data alone made '
            'them, or history="none" if nothing protects what did (then no guarantee holds)',
        )

    def replaced(self) -> PrivacyHistory:
        """What is known of the weights as they are now, which a checkpoint is about to replace; empty where nothing is.

        Whoever holds the model has seen these weights, so the trainings that made them count too.
        """
        return recalled(digest_of(self._model.weights)) or PrivacyHistory()

    def now(self) -> PrivacyHistory:
        """The history of the weights as they are now, whatever trainings of this object made them.

        Raises:
            BadInputError: nothing is known of them.
        """
        if self._left is not None and self._after is not None and self._left[0] == digest_of(self._model.weights):
            return self._after
        return self.history()

    def left(self, before: PrivacyHistory, after: PrivacyHistory, *, remember_them: bool) -> None:
        """Keep the history of the weights as they are now.

        Args:
            before: that of the weights that the training began with.
            after: that of the weights now.
            remember_them: whether other trainings are to find it.
        """
        digest = digest_of(self._model.weights)
        self._left, self._after = (digest, before), after
        if remember_them:
            remember(digest, after)
