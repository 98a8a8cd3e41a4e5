"""Is every message to a server under a one-time pad? Read off the graph: pads.py NETWORK [HOW]. Prints JSON.

A pad is a piece of a draw (of one key, under one nonce) that the message has as a summand: of an addition or
subtraction in Z_2^64, or of an exclusive or. For each server the program looks for pads of all messages that it gets
from others, such that it holds none of the pads' keys, no two messages have the same pad, and the messages can be
ordered so that no message depends on the pad of an earlier one in any other way. Then the messages are, given all that
the server holds itself, a bijective image of uniform words: whatever the secrets are, they are uniform. Each pad is
then taken away in turn, to see that it is needed. A graph that could hide a message is refused. HOW is `deployed` for
the graph that servers run on their stores, or a way to break it.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow as tf

from privacy_pipeline.encrypted.model import shares
from privacy_pipeline.encrypted.worker.evaluate import separate_parties
from privacy_pipeline.encrypted.worker.parties import SERVERS

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
        self.public = public
        self.holders: dict[str, set[str]] = {}
        places = {device(player.device_name) for player in config.players}
        for operation in self.operations:
            if any(attr.HasField("func") for attr in operation.node_def.attr.values()):
                raise ValueError(f"{operation.name} calls a function, which is not looked into")
            for tensor in operation.inputs:
                if tensor.op.type == "SecureSeed":
                    self.holders.setdefault(tensor.op.name, {device(tensor.op.device)}).add(device(operation.device))
                ends = {device(operation.device), device(tensor.op.device)}
                if ends & self.server_of.keys() and not ends <= places and not public_input(tensor):
                    raise ValueError(f"{operation.name} or its input {tensor.name} is at no party")
        self.piece = cache(self._piece)
        self.depending = cache(self._depends_on)

    def bad_draws(self) -> list[str]:
        """Draws that a party makes twice (one key and nonce), or by a key of old, or not over all of Z_2^64."""
        seen, found = set(), []
        for operation in self.operations:
            if operation.type == "SecureSeededRandomUniform":
                key = (self._stream(operation), operation.device)
                limits = [tf.get_static_value(limit) for limit in operation.inputs[2:4]]
                narrow = operation.outputs[0].dtype != tf.int64 or limits != [tf.int64.min, tf.int64.max]
                if key in seen or key[0] is None or narrow:
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
                if device(operation.device) == own and source not in ("", own):
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
            masks = ("ellipsis_mask", "new_axis_mask", "shrink_axis_mask")
            if whole is None or step != 1 or any(operation.get_attr(mask) for mask in masks):
                return None
            first = 0 if operation.get_attr("begin_mask") else begin
            last = whole.end - whole.start if operation.get_attr("end_mask") else end
            if not 0 <= first < last <= whole.end - whole.start:
                return None
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
    message, *numbers = tensor.op.inputs
    sizes, axis = (tf.get_static_value(number) for number in numbers)
    if message.op.type != "ConcatV2" or sizes is None:
        return None
    parts, axes = list(message.op.inputs[:-1]), [axis, tf.get_static_value(message.op.inputs[-1])]
    whole = axes == [0, 0] and [part.shape[0] for part in parts] == list(sizes)
    return parts[tensor.value_index] if whole else None


def public_input(tensor: Any) -> bool:
    """What comes from no party's device and everybody may know: a constant, a name of a batch."""
    return not tensor.op.device and (tensor.op.type == "Const" or tensor.dtype == tf.string)


def parts_of(tensor: Any) -> list[Any]:
    """What was sent as one message."""
    while tensor.op.type in THROUGH:
        tensor = tensor.op.inputs[0]
    if tensor.op.type != "ConcatV2":
        return [tensor]
    return [part for one in tensor.op.inputs[:-1] for part in parts_of(one)]


def overlap(one: Piece, other: Piece) -> bool:
    return (one.seed, one.nonce) == (other.seed, other.nonce) and one.start < other.end and other.start < one.end


def graph_of(network: str, config: Any, *, deployed: bool) -> Any:
    import networks

    from privacy_pipeline.encrypted.worker import predictor, secure_aby3, stored

    model = networks.PADDED[network]()
    if not deployed:
        return predictor.build(model, 2, config).graph.graph
    protocol = secure_aby3.activate(config)
    with tempfile.TemporaryDirectory() as folder:
        stores = stored.Stores(roots=tuple(Path(folder) / name for name in SERVERS))
        write_weights(model, stores)
        weights = stored.load_weights(protocol, model, stores)
        return stored.StoredPredictor(protocol, model, weights, stores=stores, bucket=2).graph.graph


def write_weights(model: Any, stores: Any) -> None:
    """Shares of all weights, as the weights provider leaves them."""
    scales = {f"{one.name}/{role}": model.weight_scale(one, role) for one in model.layers for role in one.weights}
    for name, weight in model.weights.items():
        parts = shares.split(shares.encode(weight, scale=scales[name]))
        for number, root in enumerate(stores.roots):
            for half, share in enumerate(shares.held(parts, number)):
                path = root / shares.half(shares.weight_stem(*name.split("/")), half)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(shares.to_bytes(share))


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


def draw_narrowly() -> None:
    """Breaks all masks of `Masks`: their highest bits are known."""
    from privacy_pipeline.encrypted.worker import shares as worker_shares

    draw = worker_shares.secure_random.seeded_random_uniform
    limits = {"minval": -(1 << 40), "maxval": 1 << 40, "dtype": tf.int64}
    worker_shares.uniform_words = lambda shape, seed: draw(list(shape), seed=seed, **limits)


def tell_server_1() -> None:
    """Breaks the last step: server 1 is shown what server 0 subtracts, by way of an operation at no party."""
    from privacy_pipeline.encrypted.worker import comparison

    share = comparison.shared_again

    def told(protocol: Any, share_at_0: Any, share_at_1: Any, masks: Any) -> Any:
        with tf.device(None):
            seen = share_at_0 + 0
        with comparison.on(protocol, 1):
            return share(protocol, share_at_0, share_at_1 + 0 * seen, masks)

    comparison.shared_again = told


BREAKS = {"reused": reuse_words, "narrow": draw_narrowly, "told": tell_server_1}


def main(network: str, how: str = "") -> None:
    config = separate_parties()
    if how in BREAKS:
        BREAKS[how]()
    graph = graph_of(network, config, deployed=how == "deployed")
    sys.setrecursionlimit(100_000)
    try:
        reader = Reader(graph, config)
    except ValueError as error:
        print(json.dumps({"refused": str(error)}))
        return
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
                "badly drawn": reader.bad_draws(),
                "servers": {server: finding._asdict() for server, finding in found.items()},
                "pads": len(pieces),
                "not needed": unneeded,
            }
        )
    )


main(*sys.argv[1:])
