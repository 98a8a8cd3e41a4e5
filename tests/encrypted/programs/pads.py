"""Is every message to a server under a one-time pad? Read off the graph: pads.py NETWORK [reused]. Prints JSON.

A pad is a piece of a draw (of one key, under one nonce) that the message has as a summand: of an addition or
subtraction in Z_2^64, or of an exclusive or. For each server the program looks for pads of all messages that it gets
from others, such that it holds none of the pads' keys, no two messages have the same pad, and the messages can be
ordered so that no message depends on the pad of an earlier one in any other way. Then the messages are, given all that
the server holds itself, a bijective image of uniform words: whatever the secrets are, they are uniform. Each pad is
then taken away in turn, to see that it is needed. `reused` makes every step take its pads from the same words.
"""

from __future__ import annotations

import json
import math
import sys
from functools import cache
from typing import Any, NamedTuple

import tensorflow as tf

from privacy_pipeline.encrypted.worker.evaluate import separate_parties
from privacy_pipeline.encrypted.worker.parties import CLIENT, SERVERS

THROUGH = ("Identity", "Reshape")
ADDING, XORING = ("AddV2", "Sub"), ("BitwiseXor",)


class Piece(NamedTuple):
    """Words `start` to `end` of what the key of operation `seed` gives under `nonce`."""

    seed: str
    nonce: int
    start: int
    end: int


class Finding(NamedTuple):
    """What was found of one server."""

    messages: int
    pads: dict[str, Piece]
    without: list[str]  # messages that have no pad
    depending: list[str]  # those that depend on each other's pads


def device(name: str) -> str:
    return name.rpartition("/")[2].lower()


class Reader:
    """Reads a graph; `public` are pieces that count as known to everyone."""

    def __init__(self, graph: Any, config: Any, public: frozenset[Piece] = frozenset()) -> None:
        self.operations = graph.get_operations()
        self.server_of = {device(config.get_player(name).device_name): name for name in SERVERS}
        self.client = device(config.get_player(CLIENT).device_name)
        self.public = public
        self.holders: dict[str, set[str]] = {}
        for operation in self.operations:
            for tensor in operation.inputs:
                if tensor.op.type == "SecureSeed":
                    self.holders.setdefault(tensor.op.name, {device(tensor.op.device)}).add(device(operation.device))
        self.piece = cache(self._piece)
        self.depending = cache(self._depends_on)

    def draws_twice(self) -> list[str]:
        """Draws of one key under one nonce that a party makes more than once, or whose key is older than the call."""
        seen, found = set(), []
        for operation in self.operations:
            if operation.type == "SecureSeededRandomUniform":
                key = (self._stream(operation), operation.device)
                if key in seen or key[0] is None:
                    found.append(operation.name)
                seen.add(key)
        return found

    def read(self, server: str) -> Finding:
        """Pads of all messages to a server."""
        own = next(place for place, name in self.server_of.items() if name == server)
        messages = {}
        for operation in self.operations:
            for tensor in operation.inputs:
                source = device(tensor.op.device)
                # A shape that is known when the graph is built says nothing.
                if device(operation.device) == own and source not in ("", own) and tensor.op.type != "Const":
                    messages.update({part.name: part for part in parts_of(tensor)})
        pads: dict[str, Piece] = {}
        without = []
        for name, tensor in messages.items():
            if tensor.op.type == "SecureSeed":  # the server is a holder of it, then
                continue
            hidden = [p for p in self.pads_of(tensor) if p not in self.public and own not in self.holders[p.seed]]
            fresh = [p for p in hidden if not any(overlap(p, used) for used in pads.values())]
            if fresh:
                pads[name] = fresh[0]
            else:
                without.append(name)
        return Finding(len(messages), pads, without, self._circle({n: messages[n] for n in pads}, pads))

    def _circle(self, messages: dict[str, Any], pads: dict[str, Piece]) -> list[str]:
        """Messages that cannot be ordered."""
        left = dict(messages)
        needed = {
            name: {o for o in messages if o != name and any(overlap(pads[o], p) for p in self.depends_on(tensor))}
            for name, tensor in messages.items()
        }
        while True:
            last = [name for name in left if not needed[name] & left.keys()]
            if not last:
                return sorted(left)
            for name in last:
                del left[name]

    def pads_of(self, tensor: Any) -> list[Piece]:
        """Pieces of which the tensor is a sum with what does not depend on them, or that it is."""
        while tensor.op.type in THROUGH:
            tensor = tensor.op.inputs[0]
        group = next((group for group in (ADDING, XORING) if tensor.op.type in group), ())
        summands = self._summands(tensor, group)
        found = []
        for index, summand in enumerate(summands):
            piece = self.piece(summand.op)
            others = [other for place, other in enumerate(summands) if place != index]
            alone = piece and not any(overlap(piece, p) for other in others for p in self.depends_on(other))
            if alone and summand.shape == tensor.shape:
                found.append(piece)
        return found

    def _summands(self, tensor: Any, group: tuple[str, ...]) -> list[Any]:
        if tensor.op.type not in group:
            return [tensor]
        return [summand for part in tensor.op.inputs for summand in self._summands(part, group)]

    def _piece(self, operation: Any) -> Piece | None:
        if operation.type == "SecureSeededRandomUniform":
            stream = self._stream(operation)
            return stream and Piece(*stream, 0, math.prod(operation.outputs[0].shape.as_list()))
        if operation.type in THROUGH:
            return self.piece(operation.inputs[0].op)
        if operation.type == "StridedSlice" and operation.inputs[0].shape.rank == 1:
            whole = self.piece(operation.inputs[0].op)
            begin, end, step = (int(tf.get_static_value(value)[0]) for value in operation.inputs[1:])
            if whole is None or step != 1 or operation.get_attr("ellipsis_mask"):
                return None
            first = 0 if operation.get_attr("begin_mask") else begin
            last = whole.end - whole.start if operation.get_attr("end_mask") else end
            return Piece(whole.seed, whole.nonce, whole.start + first, whole.start + last)
        return None

    def _stream(self, operation: Any) -> tuple[str, int] | None:
        """Operation that draws the key, and nonce; None if the key is not drawn in this graph."""
        seed = operation.inputs[1].op
        nonce = 0
        if seed.type == "AddV2":
            nonce = int(tf.get_static_value(seed.inputs[1]))
            seed = seed.inputs[0].op
        return (seed.name, nonce) if seed.type == "SecureSeed" else None

    def depends_on(self, tensor: Any) -> frozenset[Piece]:
        return self.depending(tensor.ref())

    def _depends_on(self, reference: Any) -> frozenset[Piece]:
        tensor = reference.deref()
        found = self.piece(tensor.op)
        if found is not None:
            return frozenset([found])
        part = part_of_message(tensor)
        given = tensor.op.inputs if part is None else [part]
        return frozenset().union(*(self.depends_on(one) for one in given))


def part_of_message(tensor: Any) -> Any:
    """What was put into a message as the part that this is cut out of it; None for everything else."""
    if tensor.op.type != "SplitV":
        return None
    message, sizes, axis = tensor.op.inputs
    parts, sizes = list(message.op.inputs[:-1]), list(tf.get_static_value(sizes))
    axes = [tf.get_static_value(one) for one in (axis, message.op.inputs[-1])]
    whole = message.op.type == "ConcatV2" and axes == [0, 0] and [part.shape[0] for part in parts] == sizes
    return parts[tensor.value_index] if whole else None


def parts_of(tensor: Any) -> list[Any]:
    """What was sent as one message."""
    while tensor.op.type in THROUGH:
        tensor = tensor.op.inputs[0]
    if tensor.op.type != "ConcatV2":
        return [tensor]
    return [part for one in tensor.op.inputs[:-1] for part in parts_of(one)]


def overlap(one: Piece, other: Piece) -> bool:
    return (one.seed, one.nonce) == (other.seed, other.nonce) and one.start < other.end and other.start < one.end


def graph_of(network: str, config: Any) -> Any:
    from networks import layered, mlp

    from privacy_pipeline.encrypted.worker.predictor import build

    model = mlp([3, 2, 1]) if network == "mlp" else layered()
    return build(model, 2, config).graph.graph


def reuse_words() -> None:
    """Breaks `Masks`: it never notes what it gave."""
    from privacy_pipeline.encrypted.worker.shares import Masks

    take = Masks.take

    def again(self: Any, pair: Any, shape: Any) -> Any:
        left = dict(self._left)
        found = take(self, pair, shape)
        self._left = left
        return found

    Masks.take = again


def main(network: str, *broken: str) -> None:
    config = separate_parties()
    if broken:
        reuse_words()
    graph = graph_of(network, config)
    sys.setrecursionlimit(100_000)
    reader = Reader(graph, config)
    found = {server: reader.read(server) for server in SERVERS}
    pieces = {pad for finding in found.values() for pad in finding.pads.values()}
    unneeded = []
    for piece in pieces:
        weaker = Reader(graph, config, frozenset([piece]))
        if all(not weaker.read(server).without for server in SERVERS):
            unneeded.append(str(piece))
    print(
        json.dumps(
            {
                "drawn twice": reader.draws_twice(),
                "servers": {server: finding._asdict() for server, finding in found.items()},
                "pads": len(pieces),
                "not needed": unneeded,
            }
        )
    )


main(*sys.argv[1:])
