"""The events that the worker process sends to the command line, as one JSON message each."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter


class _Event(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Loaded(_Event):
    """TFX is imported and the pipeline compiled."""

    event: Literal["loaded"] = "loaded"
    seconds: float


class NodeStarted(_Event):
    """A node began."""

    event: Literal["started"] = "started"
    node: str


class Progress(_Event):
    """How far a node is."""

    event: Literal["progress"] = "progress"
    node: str
    done: int
    total: int
    unit: str


class NodeEnded(_Event):
    """A node succeeded, or was served from cache."""

    event: Literal["ended"] = "ended"
    node: str
    cached: bool
    seconds: float
    detail: str


class NodeFailed(_Event):
    """A node (or, with node "", the worker itself) failed."""

    event: Literal["failed"] = "failed"
    node: str
    message: str
    fix: str
    exit_code: int


Event = Loaded | NodeStarted | Progress | NodeEnded | NodeFailed
_ADAPTER: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="event")])


def parse(message: bytes) -> Event:
    """Return an event from its JSON."""
    return _ADAPTER.validate_json(message)
