"""Holds a step that is made again to what it was: the same noise on anything else would give the difference away.

A run that goes on from a checkpoint makes steps again that it had made before, with the same noise. Their state
follows from the checkpoint, except for what the caller's code does between two steps: a callback may move the
weights, the learning rate, or a variable of a loss. What it did is noted before the step is made, and compared when it
is made again.
No TensorFlow.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from privacy_pipeline.dp.training.run_state import CHANGES, PROGRESS, append_line, mismatch, overwrite
from privacy_pipeline.files.bounded import json_value

_BOOT = Path("/proc/sys/kernel/random/boot_id")


def _boot() -> str:
    """Return the identity of this boot of the machine; unlike any other where the system does not give it."""
    try:
        return _BOOT.read_text().strip()
    except OSError:
        return os.urandom(16).hex()


class Replays:
    """What a run notes of its steps, in its folder.

    How far it got is written to memory that the operating system keeps when a process dies; it reaches the disk some
    time later. After a restart of the machine the run is taken to have got to its last step.

    Args:
        folder: the run's folder, which `RunState` has opened.
        steps: steps of the plan.
        resumed: the folder holds a run that is to go on.

    Attributes:
        begun: steps that were begun so far, or may have been.
        changes: digest of the state before each step ahead of which somebody changed it.

    Raises:
        StateMismatch: the run's notes are lost or damaged.
    """

    def __init__(self, folder: Path, *, steps: int, resumed: bool) -> None:
        self._folder, self._boot = folder, _boot()
        self.begun = 0
        self.changes: dict[int, str] = {}
        if not resumed:
            self._note(0)
            return
        try:
            boot, begun = (folder / PROGRESS).read_text().split()
            self.begun = int(begun) if boot == self._boot else steps
            if (folder / CHANGES).exists():
                noted = [json_value(line) for line in (folder / CHANGES).read_text().splitlines()]
                self.changes = {int(one["step"]): str(one["digest"]) for one in noted}
        except (OSError, ValueError, KeyError, TypeError):
            raise mismatch("its notes are lost or damaged") from None

    def make(self, step: int, *, digest: str, expected: str) -> None:
        """Note a step before it is made, or hold it to what was noted.

        Args:
            step: number of the step.
            digest: of all that decides its release beside key, data and plan.
            expected: the same where nobody changed anything since the step before, or since the checkpoint.

        Raises:
            StateMismatch: the step was made before, or may have been, and from another state.
            PipelineError: the notes cannot be written.
        """
        before = self.changes.get(step, expected)
        if step < self.begun:
            if digest != before:
                raise mismatch(
                    f"step {step + 1} was made before, with other weights, another learning rate or another variable "
                    "of the model or loss, and its noise must not be used again"
                )
            return
        if digest != before:
            append_line(self._folder / CHANGES, json.dumps({"step": step, "digest": digest}))
            self.changes[step] = digest
        self._note(step + 1)

    def _note(self, begun: int) -> None:
        overwrite(self._folder / PROGRESS, f"{self._boot} {begun:020d}\n".encode())
        self.begun = begun
