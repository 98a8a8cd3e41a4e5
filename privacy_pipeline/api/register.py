"""Register a dataset with its ledger."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from privacy_pipeline.api.configs import Given, load_config
from privacy_pipeline.errors import BadInputError
from privacy_pipeline.files.file_rights import for_this_user
from privacy_pipeline.ledger.state.policy import load_policy
from privacy_pipeline.pictures.fragment import fragment, paragraph, table
from privacy_pipeline.pipelines.registration.register import register_dataset
from privacy_pipeline.text.shown_text import visible

if TYPE_CHECKING:
    from privacy_pipeline.ledger.state.policy import Policy
    from privacy_pipeline.ledger.state.registration import Registration

_DELTA = 1e-5


@dataclass(frozen=True, kw_only=True)
class Registered:
    """What was registered. A notebook shows it as a table.

    Attributes:
        registration: the facts; the splits are fixed from here on.
        epsilon: cap of the dataset's budget over all runs.
        delta: delta of the cap.
        notes: what a person should know although it is not an error.
    """

    registration: Registration
    epsilon: float
    delta: float
    notes: tuple[str, ...] = ()

    @property
    def sizes(self) -> str:
        """Rows and units of each split in words, unless the relation keeps them secret."""
        known = self.registration
        if known.public_splits is None:
            return f"{' and '.join(known.splits)}, of sizes that {known.relation.value} keeps secret"
        return ", ".join(f"{name} {c.rows:,} rows of {c.units:,} units" for name, c in known.public_splits.items())

    def to_json(self) -> dict[str, Any]:
        """Return plain values for scripts; secret sizes are left out."""
        sizes = self.registration.public_splits
        told = None if sizes is None else {name: dataclasses.asdict(size) for name, size in sizes.items()}
        return {**dataclasses.asdict(self.registration), "splits": told}

    def __str__(self) -> str:
        """Return the dataset, its sizes and its budget."""
        budget = f"epsilon {self.epsilon:g} at delta {self.delta:g} over all runs"
        return visible(f"dataset {self.registration.name} is registered: {self.sizes}; {budget}")

    def _repr_html_(self) -> str:
        known = self.registration
        rows = [
            ("splits", self.sizes),
            ("privacy unit", f"{known.unit}, at most {known.contribution_bound} row(s) of each"),
            ("relation", known.relation.value),
            ("budget", f"epsilon {self.epsilon:g} at delta {self.delta:g}, over all runs"),
        ]
        notes = [paragraph(f"note: {note}") for note in self.notes]
        return fragment(paragraph(f"dataset {known.name} is registered", bold=True), table(rows), *notes)


def register(
    config: Given,
    *,
    epsilon: float | None = None,
    delta: float | None = None,
    policy: str | os.PathLike[str] | None = None,
    overrides: Sequence[str] = (),
    disjoint: bool = False,
    existing_key: bool = False,
    id_space: str = "",
    reason: str = "",
    distinct_rows: str = "",
    note: Callable[[str], None] = lambda _: None,
) -> Registered:
    """Register the dataset of a config: its splits, its number of units, and its budget.

    The data is read once, to count it and to fix its digest. The splits cannot change afterwards.

    >>> import privacy_pipeline as pp
    >>> known = pp.register("config.yaml", epsilon=3.0)
    >>> known.sizes
    'eval 40 rows of 40 units, train 160 rows of 160 units'

    Args:
        config: path of a YAML file, a mapping or a config; see `load_config`.
        epsilon: cap of the dataset's budget over all runs.
        delta: delta of the cap; 1e-5 by default.
        policy: file with the caps, applied together with the registration; then `epsilon` and `delta` are left out.
        overrides: `section.key=value` each.
        disjoint: gives the span its own budget, if its units are in no other span.
        existing_key: a new ledger uses the key that was made for it beforehand.
        id_space: names the numbering of the keys, where they name other units than the same keys of other datasets.
        reason: why, which is journalled.
        distinct_rows: why rows that other datasets have too belong to other people.
        note: called with each of the notes as it is found.

    Raises:
        BadInputError: config, policy or data are not usable, or there is no cap; or the dataset is registered with
            other facts.
        LedgerError: the ledger cannot be written.
    """
    cap, at, loaded = _cap(epsilon, delta, None if policy is None else Path(policy))
    notes: list[str] = []

    def tell(what: str) -> None:
        notes.append(what)
        note(what)

    with for_this_user():
        registration = register_dataset(
            config=load_config(config, overrides=overrides),
            epsilon=cap,
            delta=at,
            policy=loaded,
            disjoint=disjoint,
            existing_key=existing_key,
            id_space=id_space,
            reason=reason,
            distinct_rows=distinct_rows,
            tell=tell,
        )
    return Registered(registration=registration, epsilon=cap, delta=at, notes=tuple(notes))


def _cap(epsilon: float | None, delta: float | None, policy: Path | None) -> tuple[float, float, Policy | None]:
    """Return epsilon and delta as given, or from the policy, which has both."""
    if policy is None and epsilon is not None:
        return epsilon, _DELTA if delta is None else delta, None
    if policy is None or epsilon is not None or delta is not None:
        raise BadInputError(
            "a budget needs a cap, once: give epsilon (and delta), or a file with a policy, which has both",
            fix="--epsilon CAP --delta DELTA, or --policy FILE (privacy-pipeline budget init DATASET writes one)",
        )
    loaded = load_policy(policy)
    return loaded.epsilon, loaded.delta, loaded
