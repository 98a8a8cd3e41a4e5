"""Where a record comes from."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timezone

from privacy_pipeline.releases.statistics import DpStatistics


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """Where a record comes from: run, pipeline, and hashes of code, lock and data.

    `begun` is before the training reads a row, so that the record does not reveal how long that took.
    `schema_is_public` is True if no domain or range was read off the data (or all were reviewed since).
    `statistics` was released from the train split before, in place of ranges and domains that are not public.
    """

    run_id: str
    pipeline: str
    code: str
    lock: str
    data: str
    schema_is_public: bool
    statistics: DpStatistics | None = None
    begun: str = field(default_factory=lambda: datetime.now(timezone.utc).isoformat(timespec="seconds"))
