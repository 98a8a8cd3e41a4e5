"""The fuzzers find what they look for: each kind of fault, made on purpose."""

from __future__ import annotations

import json
import subprocess
import sys
from random import Random

import pytest

from tests.fuzz import mutations
from tests.fuzz.test_fuzz import ROOT

# What a reader does, and what is said of it: exit code, kind of fault, a part of its detail.
READERS = {
    "pass": "0 None None",
    "raise BadInputError('a: wrong')": "2 None None",
    "raise BadInputError('x' * 3000, fix='y' * 3000)": "2 None None",
    "raise ValueError('x')": "0 traceback ValueError: x",
    "raise PipelineError('x')": "1 exit code error: x",
    "open('/no/such/file')": "1 exit code error: /no/such/file",
    "raise BadInputError('')": "2 message",
    "error = BadInputError('x'); error.message = 'x' * 3000; raise error": "2 message",
    "while True: pass": "0 hang over 0.3 s of processor time",
    "sum(range(3 * 10**7))": "hang",
    "bytearray(2 << 30)": "0 memory",
    "raise KeyboardInterrupt": "1 exit code",
    "with watch.dp_check(): spin(0.6)": "0 None None",
}
_JUDGE = """
import json, sys, time
from privacy_pipeline.errors import BadInputError, PipelineError
from tests.fuzz import watching
from tests.fuzz.watching import Case, Watch
watching.CPU_SECONDS = 0.3
watch = Watch(codes=frozenset({2}))

def spin(seconds):
    start = time.process_time()
    while time.process_time() - start < seconds:
        pass

for reader in json.load(sys.stdin):
    code, fault = watch.judge(Case(content=b"x", read=lambda: exec(reader)))
    print(code, fault and fault.kind, fault and fault.detail[:80].strip().replace("\\n", " "))
"""


@pytest.fixture(scope="module")
def judged() -> dict[str, str]:
    """What a watch says of each reader, in a process of its own."""
    command = [sys.executable, "-c", _JUDGE]
    given = json.dumps(list(READERS))
    done = subprocess.run(command, cwd=ROOT, input=given, capture_output=True, text=True, check=True)
    return dict(zip(READERS, done.stdout.splitlines(), strict=True))


@pytest.mark.parametrize("reader", READERS)
def test_each_kind_of_fault_is_found(judged: dict[str, str], reader: str) -> None:
    assert READERS[reader] in judged[reader]


def test_inputs_follow_from_their_seed_alone() -> None:
    tree = {"a": [1, {"b": "c"}], "d": 1.5}

    def drawn(seed: int) -> bytes:
        rng = Random(seed)
        return mutations.as_yaml(rng, mutations.mutated_tree(rng, tree, [tree]))

    assert [drawn(seed) for seed in range(50)] == [drawn(seed) for seed in range(50)]
    assert len({drawn(seed) for seed in range(50)}) > 30
