"""All fuzzers by name."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tests.fuzz.watching import Case, Watch

Prepare = Callable[[Path, Watch], Callable[[Random], Case]]


@dataclass(frozen=True, kw_only=True)
class Fuzzer:
    """One fuzzer.

    Attributes:
        home: module and function that prepares it in an empty folder.
        codes: exit codes of commands that read such inputs, beside 0.
        inputs: of one seed, in `make test-slow`.
        slice: inputs of the slice that the fast tests run.
    """

    home: str
    codes: frozenset[int] = frozenset({2})
    inputs: int = 10_000
    slice: int = 100

    def load(self) -> Prepare:
        """The function that prepares it."""
        module, _, name = self.home.partition(":")
        prepare: Prepare = getattr(importlib.import_module(f"tests.fuzz.{module}"), name)
        return prepare


FUZZERS = {
    "configs": Fuzzer(home="settings:configs", codes=frozenset({1, 2, 4})),
    "experiments": Fuzzer(home="settings:experiments"),
    "policies": Fuzzer(home="settings:policies"),
    "parties": Fuzzer(home="settings:parties"),
    "facts": Fuzzer(home="settings:facts"),
    "schemas": Fuzzer(home="data_files:schemas", slice=300),
    "csv": Fuzzer(home="data_files:csv_files"),
    "receipts": Fuzzer(home="messages:receipts", codes=frozenset({1, 2}), slice=300),
    "frames": Fuzzer(home="messages:messages", slice=300),
    "builds": Fuzzer(home="messages:answers_of_builds", slice=300),
    "networks": Fuzzer(home="models:networks", slice=300),
    "plans": Fuzzer(home="models:plans", codes=frozenset({1, 2}), slice=40),
    "keras": Fuzzer(home="keras_models:keras_models", inputs=2_000, slice=40),
}
