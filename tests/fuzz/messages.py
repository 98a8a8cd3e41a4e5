"""Fuzzers of what comes back from elsewhere: receipts, public keys, and messages between processes."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import sqlalchemy as sa

from privacy_pipeline.backends.isolated import frames as isolated
from privacy_pipeline.encrypted.model import model_format
from privacy_pipeline.encrypted.server.share_server import ShareServer
from privacy_pipeline.encrypted.server.share_store import Store
from privacy_pipeline.encrypted.transport import frames
from privacy_pipeline.ledger.audit.receipts import read_receipts
from privacy_pipeline.ledger.ledger import Ledger
from privacy_pipeline.ledger.storage import keys
from privacy_pipeline.pipelines.workspace.workspace import RunFolder
from tests.encrypted.programs.networks import mlp
from tests.fuzz.mutations import VALUES, as_json, mutated_bytes, mutated_tree
from tests.fuzz.watching import Case, Watch, WrongValueError
from tests.reports.report_project import make_project

_SURROGATES = ("\ud800", {"\udcff": 1}, "a\x00b")


def receipts(folder: Path, watch: Watch) -> Callable[[Random], Case]:
    """Records of runs with receipts, by themselves and in folders; some are looked up in the ledger."""
    url = make_project(folder)
    ledger = Ledger.open(url)
    run = folder / "workspace" / "runs" / "run-1"
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    trees = [summary, summary["record"], {"record": {"composition": summary["record"]["composition"]}}]
    pem = keys.public_file(keys.key_file(sa.make_url(url))).read_bytes()
    inside = folder / "elsewhere" / "runs" / "run-1"
    inside.mkdir(parents=True)

    def draw(rng: Random) -> Case:
        if rng.random() < 0.05:
            return _public_key(folder / "key.pub", mutated_bytes(rng, pem))
        tree = rng.choice(trees)
        values = (*VALUES, *_SURROGATES)
        changed = mutated_tree(rng, tree, trees, values)
        if rng.random() < 0.5:  # the receipt itself
            stamp = tree.get("record", tree)["composition"]
            changed = {"record": {"composition": mutated_tree(rng, stamp, [stamp], values)}}
        raw = as_json(rng, json.dumps(changed))
        whole, looked_up = rng.random() < 0.3, rng.random() < 0.05

        def read() -> None:
            file = inside / "summary.json"
            file.write_bytes(raw)
            found = read_receipts([folder / "elsewhere"] if whole else [file])
            if looked_up:
                ledger.verify(receipts=found)
            if whole:
                RunFolder(inside).read_summary()

        return Case(content=raw, read=read)

    return draw


def _public_key(file: Path, raw: bytes) -> Case:
    def read() -> None:
        file.write_bytes(raw)
        keys.read_public(file)

    return Case(content=raw, read=read, told="a public key")


class Screen:
    """Stands for a peer's end: takes what is sent."""

    def __init__(self) -> None:
        self.sent = bytearray()

    def write(self, content: bytes) -> None:
        self.sent += content

    async def drain(self) -> None:
        """Nothing waits."""

    def close(self) -> None:
        """Nothing is open."""


def _framed(rng: Random, header: bytes, payload: bytes) -> bytes:
    """A message; its lengths may lie."""
    longs = [len(header), len(payload)]
    if rng.random() < 0.15:
        at = rng.randrange(2)
        longs[at] = rng.choice((0, 1, longs[at] + 1, max(longs[at] - 1, 0), 2**31, 2**32 - 1))
    return struct.pack(">I", longs[0]) + header + struct.pack(">Q", longs[1]) + payload


def messages(folder: Path, watch: Watch) -> Callable[[Random], Case]:
    """Messages to a party's share server, from each of its peers, and the answers that a peer may get."""
    model = mlp([4, 8, 1])
    model_format.save(model, folder / "model")
    architecture = (folder / "model" / model_format.ARCHITECTURE).read_bytes()
    digest = model_format.digest_of(folder / "model")
    ids = [f"{n:032x}" for n in range(3)]
    talk = _conversations(model, architecture, digest, ids)
    numbers = iter(range(10**9))

    def draw(rng: Random) -> Case:
        role, known = rng.choice(talk)
        lines = [role.encode() if rng.random() < 0.95 else rng.choice((b"\xff", b"", b"a" * 70_000, b"driver x"))]
        stream = lines[0] + b"\n"
        listed = [rng.choice(known) for _ in range(rng.choice((1, 2, 3)))]
        if rng.random() < 0.5:
            listed = known[: rng.randrange(1, len(known) + 1)]
        odd = rng.randrange(len(listed))
        for at, (header, payload) in enumerate(listed):
            if at == odd:
                header = mutated_tree(rng, header, [one for one, _ in known], (*VALUES[:40], *_SURROGATES))
                payload = mutated_bytes(rng, payload) if rng.random() < 0.2 else payload
            stream += _framed(rng, as_json(rng, json.dumps(header), garbage=0.1), payload)
        if rng.random() < 0.1:
            stream = mutated_bytes(rng, stream)
        return Case(content=stream, read=lambda: asyncio.run(_attended(stream, folder / f"store{next(numbers)}")))

    return draw


async def _attended(stream: bytes, folder: Path) -> None:
    """A share server of its own hears the stream; each of its answers is a message that a peer can read."""
    reader, screen = asyncio.StreamReader(), Screen()
    reader.feed_data(stream)
    reader.feed_eof()
    await ShareServer(Store(folder)).attend(reader, screen)  # type: ignore[arg-type]
    answers = asyncio.StreamReader()
    answers.feed_data(bytes(screen.sent))
    answers.feed_eof()
    while True:
        try:
            answer, size = await frames.read_header(answers)
        except EOFError:
            break
        await frames.read_payload(answers, size, expected=size)
        if "error" in answer and not 0 < len(json.dumps(answer["error"])) < 2_000:
            raise WrongValueError(f"a refusal of {len(str(answer['error']))} letters")


def _conversations(
    model: model_format.PrivateModel, architecture: bytes, digest: str, ids: Sequence[str]
) -> list[tuple[str, list[tuple[dict[str, Any], bytes]]]]:
    """What each peer says, in order."""
    weights = [
        ({"op": "weight", "sharing": ids[0], "layer": layer.name, "role": role}, bytes(16 * int(np.prod(shape))))
        for layer in model.layers
        for role, shape in layer.weights.items()
    ]
    sharing = {"op": "weights", "sharing": ids[0]}
    return [
        ("weights-provider", [(sharing, architecture), *weights, ({"op": "commit", "sharing": ids[0]}, b"")]),
        (
            "prediction-client",
            [
                ({"op": "put", "request": ids[1], "rows": 2, "model": digest}, bytes(16 * 2 * 4)),
                ({"op": "fetch", "request": ids[1]}, b""),
                ({"op": "drop", "request": ids[1]}, b""),
            ],
        ),
        (
            "driver",
            [
                ({"op": "status"}, b""),
                ({"op": "reset"}, b""),
                (
                    {"op": "batch", "batch": ids[2], "bucket": 4, "requests": [{"request": ids[1], "rows": 2}]},
                    b"",
                ),
                ({"op": "finish", "batch": ids[2], "boot": ids[0], "sharing": ids[0]}, b""),
                ({"op": "discard", "batch": ids[2]}, b""),
            ],
        ),
    ]


def answers_of_builds(folder: Path, watch: Watch) -> Callable[[Random], Case]:
    """What a user's code, built apart, answers with."""
    header = {"kind": "model", "names": ["a", "b"], "config": {"layers": [{"units": 3}]}}
    arrays = [np.ones((2, 3), np.float32), np.zeros((4,), np.int64)]
    whole = isolated.pack(header, arrays)
    start = 8 + int.from_bytes(whole[:8], "big")
    tree = json.loads(whole[8:start])

    def draw(rng: Random) -> Case:
        raw = mutated_bytes(rng, whole)
        if rng.random() < 0.7:
            text = as_json(rng, json.dumps(mutated_tree(rng, tree, [tree], (*VALUES, *_SURROGATES))), garbage=0.15)
            raw = len(text).to_bytes(8, "big") + text + whole[start:]
        return Case(content=raw, read=lambda: isolated.unpack(raw))

    return draw
