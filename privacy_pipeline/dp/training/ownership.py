"""Holds the steps of a key to one training at a time, of one process and one object: no noise is drawn twice."""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from privacy_pipeline.errors import BadInputError

_TRAINED: dict[Any, Owner] = {}  # references of the weights of all trainings under way, and whose they are
_CLAIMS = threading.Lock()
_AGAIN = "call make_private again to train more; the privacy cost of both adds up"


class Owner:
    """Whether a training may begin, and go on."""

    def __init__(self) -> None:
        self._under_way, self._process = threading.Lock(), os.getpid()
        self._folder: int | None = None  # its file descriptor, while it is locked

    @contextmanager
    def begins(self) -> Iterator[None]:
        """While a training is set up, which reads its data by code of the caller's; it stays open until `ended`.

        Raises:
            BadInputError: one is under way, or the process was forked.
        """
        self.require_process()
        if not self._under_way.acquire(blocking=False):
            raise BadInputError(
                "a training of this object is under way (fit was called from a callback of its own fit, for one): "
                "another would make its steps again, with the same noise",
                fix=f"end it first, or {_AGAIN}",
            )
        try:
            yield
        except BaseException:
            self.ended()
            raise

    def lock(self, folder: Path) -> None:
        """Keep others of this machine away from the folder of the run's state until `ended`, in this process too.

        Args:
            folder: exists.

        Raises:
            BadInputError: another training uses it, or its file system has no locks.
        """
        handle = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise BadInputError(
                f"{folder}: another training uses this state, and both would draw the same noise",
                fix="wait for it, or give this one a state_dir of its own",
            ) from None
        except OSError as error:
            os.close(handle)
            raise BadInputError(f"{folder}: it cannot be locked ({error.strerror})", fix="use a local disk") from None
        self._folder = handle

    def claim(self, weights: Iterable[Any]) -> None:
        """Keep other private models of this process away from the weights until `ended`.

        Args:
            weights: variables that the training moves.

        Raises:
            BadInputError: a training of another one moves one of them.
        """
        with _CLAIMS:
            references = [weight.ref() for weight in weights]
            if any(_TRAINED.get(reference, self) is not self for reference in references):
                raise BadInputError(
                    "another private model trains the same weights and is not done: each would account for its own "
                    "steps alone",
                    fix="end that training first (close it, where it was begun); this one then composes with it",
                )
            _TRAINED.update(dict.fromkeys(references, self))

    def ended(self) -> None:
        """Call when the training is over."""
        with _CLAIMS:
            for reference in [one for one, owner in _TRAINED.items() if owner is self]:
                del _TRAINED[reference]
        if self._folder is not None:
            os.close(self._folder)
            self._folder = None
        self._under_way.release()

    def require_process(self) -> None:
        """Hold the steps to the process that drew the key.

        Raises:
            BadInputError: this one was forked from it.
        """
        if os.getpid() != self._process:
            raise BadInputError(
                "this process was forked after make_private, and both would draw the same noise",
                fix="call make_private in the process that trains",
            )


class Uncopied:
    """Base of objects that hold a key, or lead to one: `copy` and `pickle` raise BadInputError."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise BadInputError("a private model cannot be copied: both would draw the same noise", fix=_AGAIN)
