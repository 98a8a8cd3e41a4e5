"""Declares the atomic Pusher."""

from __future__ import annotations

from tfx import types
from tfx.components.pusher import component as stock
from tfx.dsl.components.base import executor_spec
from tfx.proto import pusher_pb2

from privacy_pipeline.components.pusher import executor


class AtomicPusher(stock.Pusher):
    """Stock Pusher, except that a version appears whole or not at all, and never twice under one number.

    Args:
        model: the candidate.
        model_blessing: PrivacyGate's verdict.
        directory: folder of the versions.
    """

    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.Executor)

    def __init__(self, *, model: types.BaseChannel, model_blessing: types.BaseChannel, directory: str) -> None:
        filesystem = pusher_pb2.PushDestination.Filesystem(base_directory=directory)
        super().__init__(
            model=model,
            model_blessing=model_blessing,
            push_destination=pusher_pb2.PushDestination(filesystem=filesystem),
        )
