"""Copies a blessed model to a numbered folder in one step."""

from __future__ import annotations

import errno
import os
import shutil
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tfx.components.pusher import executor as stock
from tfx.proto import pusher_pb2
from tfx.types import artifact_utils
from tfx.utils import io_utils, proto_utils

from privacy_pipeline.components.artifacts import Artifacts, require_model
from privacy_pipeline.errors import PipelineError
from privacy_pipeline.files.atomic import alone_in

_PART = ".part-"  # begins a name that servers pass over


class Executor(stock.Executor):
    """Executor of AtomicPusher."""

    def Do(self, input_dict: Artifacts, output_dict: Artifacts, exec_properties: dict[str, Any]) -> None:  # noqa: N802
        """Push the model if it is blessed.

        Raises:
            OSError: the folder cannot be written; nothing was pushed.
            PipelineError: the model's files are not those that were trained; nothing was pushed.
        """
        pushed = artifact_utils.get_single_instance(output_dict["pushed_model"])
        if not self.CheckBlessing(input_dict):
            self._MarkNotPushed(pushed)
            return
        destination = pusher_pb2.PushDestination()
        proto_utils.json_to_proto(exec_properties["push_destination"], destination)
        model = self.GetModelPath(input_dict)
        io_utils.copy_dir(model, pushed.uri)
        trained = artifact_utils.get_single_instance(input_dict["model"])
        target = push(
            model=Path(model),
            base=Path(destination.filesystem.base_directory),
            check=lambda copy: require_model(trained, copy),
        )
        self._MarkPushed(pushed, pushed_destination=str(target), pushed_version=target.name)


def push(*, model: Path, base: Path, check: Callable[[Path], None] = lambda copy: None) -> Path:
    """Copy a model below `base` under a number that no other version has; servers never see a part of it.

    The copy is made under a name that is not a number, which servers skip, and renamed when it is whole and on disk.
    One push at a time writes there, and removes the copies of those that were killed.

    Args:
        model: folder of the SavedModel.
        base: folder of the versions.
        check: looks at the whole copy before servers see it, and raises where it is not to be pushed.

    Returns:
        The new version's folder: its name is the time in seconds, or the next free number.

    Raises:
        OSError: the copy failed, and nothing is left of it.
    """
    base.mkdir(parents=True, exist_ok=True)
    with alone_in(base):
        for left in base.glob(f"{_PART}*"):  # of pushes that were killed
            shutil.rmtree(left, ignore_errors=True)
        part = base / f"{_PART}{uuid.uuid4().hex}"
        try:
            shutil.copytree(model, part)
            for path in part.rglob("*"):
                if path.is_file():
                    with open(path, "rb") as file:
                        os.fsync(file.fileno())
            check(part)
            return _publish(part, base)
        except (OSError, PipelineError):
            shutil.rmtree(part, ignore_errors=True)
            raise


def _publish(part: Path, base: Path) -> Path:
    version = int(time.time())
    while True:
        target = base / str(version)
        try:
            os.rename(part, target)
            return target
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
            version += 1
