"""What one client is, and where the clients came from: a sentence and a rule for the privacy record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from privacy_pipeline.errors import BadInputError


@dataclass(frozen=True, kw_only=True)
class ClientOrigin:
    """Origin of the clients of a store.

    Attributes:
        client_is: what one client is, such as "one value of column 'idcode' of nlswork.csv". A user-level guarantee
            protects this and nothing larger: two clients of one person are two units.
        synthetic: the clients are not real persons or sites; a stated rule dealt the rows out.
        rule: the rule and its parameters (JSON values), empty where the clients are real.

    Raises:
        BadInputError: synthetic clients without a rule, or real ones with one.
    """

    client_is: str
    synthetic: bool = False
    rule: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.synthetic != bool(self.rule):
            raise BadInputError("synthetic clients need the rule that made them, real ones have none")

    def as_record(self) -> dict[str, Any]:
        """Return the JSON values for a record."""
        return {"client_is": self.client_is, "synthetic": self.synthetic, "rule": dict(self.rule)}


UNSTATED = ClientOrigin(client_is="one value of the key that the rows were given with")
