"""The weights provider: shares the weights and leaves two of three shares with each server, whenever the driver asks.

Only this process and the model's owner ever hold the weights.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path

from privacy_pipeline.encrypted.model import model_format, shares
from privacy_pipeline.encrypted.model.layers import Layer
from privacy_pipeline.encrypted.model.model_format import PrivateModel
from privacy_pipeline.encrypted.transport import frames
from privacy_pipeline.encrypted.transport.certificates import client_context
from privacy_pipeline.encrypted.transport.dialing import Address, dial, listen
from privacy_pipeline.encrypted.transport.frames import BadMessageError
from privacy_pipeline.encrypted.transport.identities import Peer
from privacy_pipeline.encrypted.transport.tunnel import SHARES
from privacy_pipeline.encrypted.worker.parties import PROVIDER, SERVERS
from privacy_pipeline.errors import PipelineError

PROVIDE_SECONDS = 300.0  # for all weights
_WEIGHT_SECONDS = 60.0  # for one


class Provider:
    """Answers the driver's one request, `provide`.

    Args:
        folder: the provider's own folder of `init_parties`.
        addresses: of all parties.
        private_model: folder of the converted model.

    Raises:
        BadInputError: the model is not usable.
    """

    def __init__(self, *, folder: Path, addresses: Mapping[str, Address], private_model: Path) -> None:
        self._folder, self._addresses = folder, addresses
        # One reading names the model; what is read after it has to be that one.
        self.digest = model_format.digest_of(private_model)
        self._architecture = model_format.architecture_of(private_model, digest=self.digest)
        self._model: PrivateModel = model_format.load(private_model, digest=self.digest)
        self._one_at_a_time = asyncio.Lock()
        self._report: Callable[[str], None] = lambda line: None

    async def serve(self, *, report: Callable[[str], None]) -> asyncio.AbstractServer:
        """Listen at the provider's address, for the driver alone.

        Args:
            report: gets a line whenever weights were sent, or could not be.

        Raises:
            PipelineError: the address cannot be bound.
        """
        self._report = report
        address = self._addresses[PROVIDER]
        return await listen(folder=self._folder, address=address, allowed=frozenset({"driver"}), serve=self._attend)

    async def provide(self) -> str:
        """Make new shares of all weights and send them to the servers.

        Returns:
            The id of this sharing.

        Raises:
            PartyError: a server does not answer, or refuses.
        """
        sharing = secrets.token_hex(16)
        parts = {
            f"{layer.name}/{role}": shares.split(_encoded(self._model, layer, role))
            for layer in self._model.layers
            for role in layer.weights
        }
        await asyncio.gather(*(self._send(number, sharing, parts) for number in range(len(SERVERS))))
        return sharing

    async def _send(self, number: int, sharing: str, parts: Mapping[str, tuple[shares.Ring, ...]]) -> None:
        name = SERVERS[number]
        context = client_context(folder=self._folder, protocol=SHARES)
        async with dial(context=context, address=self._addresses[name], expected=name) as link:
            header = {"op": "weights", "sharing": sharing}
            await link.ask(header, [self._architecture], seconds=_WEIGHT_SECONDS)
            for layer in self._model.layers:
                for role in layer.weights:
                    held = shares.held(parts[f"{layer.name}/{role}"], number)
                    header = {"op": "weight", "sharing": sharing, "layer": layer.name, "role": role}
                    await link.ask(header, [shares.to_bytes(share) for share in held], seconds=_WEIGHT_SECONDS)
            await link.ask({"op": "commit", "sharing": sharing}, seconds=_WEIGHT_SECONDS)

    async def _attend(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer: Peer) -> None:
        try:
            header, size = await asyncio.wait_for(frames.read_header(reader), _WEIGHT_SECONDS)
            await frames.read_payload(reader, size, expected=0)
            if frames.text(header, "op") != "provide":
                raise BadMessageError("the weights provider only provides")
            if frames.text(header, "model") != self.digest:  # no share leaves
                raise BadMessageError("the weights provider has another model than the service")
            async with self._one_at_a_time:
                sharing = await asyncio.wait_for(self.provide(), PROVIDE_SECONDS)
            self._report(f"sent the shares of the weights, sharing {sharing[:8]}")
            await frames.write(writer, {"sharing": sharing, "model": self.digest})
        except PipelineError as error:
            self._report(error.message)
            await _tell(writer, error.message)
        except asyncio.TimeoutError:
            await _tell(writer, f"the servers do not take the weights within {PROVIDE_SECONDS:g} s")
        except (EOFError, OSError):
            return  # the driver left


def _encoded(model: PrivateModel, layer: Layer, role: str) -> shares.Ring:
    return shares.encode(model.weights[f"{layer.name}/{role}"], scale=model.weight_scale(layer, role))


async def _tell(writer: asyncio.StreamWriter, why: str) -> None:
    try:
        await frames.write(writer, {"error": why})
    except OSError:
        return  # the driver left meanwhile
