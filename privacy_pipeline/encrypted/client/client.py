"""The client of private prediction: shares its rows, has them evaluated, and alone joins the shares of the answer."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privacy_pipeline.encrypted.model import shares
from privacy_pipeline.encrypted.model.published import Published
from privacy_pipeline.encrypted.model.threat_model import Protection, of_parties
from privacy_pipeline.encrypted.transport.certificates import PartyContext, client_context
from privacy_pipeline.encrypted.transport.dialing import Address, Link, PartyError, SilentError, dial
from privacy_pipeline.encrypted.transport.frames import Header
from privacy_pipeline.encrypted.transport.tunnel import SHARES
from privacy_pipeline.encrypted.worker.parties import SERVERS
from privacy_pipeline.errors import BadInputError, PipelineError

_SERVICE = "driver"
_DROP_SECONDS = 2.0
_LANES = 2  # requests under way at once: one is sent or fetched while another is evaluated
_MOST_ROWS = 1024  # of one request

Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Client:
    """Where the parties are, and who is asking.

    Attributes:
        folder: the client's own folder of `init_parties`.
        addresses: of all parties.
        published: the public side of the model.
        seconds: limit for each request.
    """

    folder: Path
    addresses: Mapping[str, Address]
    published: Published
    seconds: float = 120.0

    async def predict(self, inputs: Mapping[str, Array], *, progress: Callable[[int], None]) -> NDArray[np.float64]:
        """Return the logits of all rows.

        Args:
            inputs: by name, each [rows, *shares.encoded_shape(input)].
            progress: gets the number of rows that were just answered.

        Returns:
            What the network's last layer gives, [rows, ...].

        Raises:
            BadInputError: the service serves another model, or a value is beyond what can be shared.
            PartyError: a party does not answer in time, or refuses; names it.
            PipelineError: the servers' shares of an answer do not fit together.
        """
        async with contextlib.AsyncExitStack() as stack:
            sessions = [await stack.enter_async_context(self.session())]
            if len(next(iter(inputs.values()))) > sessions[0].largest:
                sessions += [await stack.enter_async_context(self.session()) for _ in range(_LANES - 1)]
            return await _answered(sessions, inputs, progress)

    @contextlib.asynccontextmanager
    async def session(self) -> AsyncIterator[Session]:
        """Open connections to all parties, for predictions one after the other; the parties close idle ones after a
        while.

        Raises:
            BadInputError: the service serves another model.
            PartyError: a party is not reached, or refuses; names it.
            PipelineError: the service is not ready; gives the reason.
        """
        async with contextlib.AsyncExitStack() as stack:
            context = self._context()
            # All at once: over a slow network each takes several round trips.
            opening = {
                party: asyncio.ensure_future(stack.enter_async_context(self._link(context, party)))
                for party in (_SERVICE, *SERVERS)
            }
            try:
                # The service first: its answer explains best why a server may not be reached.
                hello = await self._hello(await opening[_SERVICE])
                links = {party: await one for party, one in opening.items()}
            finally:
                for one in opening.values():
                    one.cancel()
                # All are waited for, so that those that were opened are closed where another one fails.
                await asyncio.gather(*opening.values(), return_exceptions=True)
            yield Session(client=self, links=links, largest=min(_largest(hello), _MOST_ROWS))

    async def require_ready(self) -> Protection:
        """Ask the service whether it serves this model now. No share leaves.

        Returns:
            "encrypted" if the service states it and the client's own addresses agree (`threat_model.of_parties`);
            else "simulated".

        Raises:
            BadInputError: it serves another model.
            PartyError: it does not answer, or not what protects the rows.
            PipelineError: it is not ready; gives the reason.
        """
        async with self._link(self._context(), _SERVICE) as service:
            said = (await self._hello(service)).get("inference_protection")
        if said not in ("encrypted", "simulated"):
            raise PartyError(_SERVICE, "does not state what protects the rows")
        hosts = {name: self.addresses[name][0] for name in SERVERS}
        return of_parties(local=said == "simulated", hosts=hosts).protection

    async def _hello(self, service: Link) -> Header:
        found, _ = await service.ask({"op": "hello"}, seconds=self.seconds)
        if found.get("model") != self.published.digest:
            raise BadInputError(
                "the service serves another model than the published one beside parties.yaml",
                fix="copy the folder `published` from the service's host",
            )
        if found.get("trouble"):
            raise PipelineError(f"the service is not ready: {found['trouble']}", fix="try again")
        return found

    def _context(self) -> PartyContext:
        return client_context(folder=self.folder, protocol=SHARES)

    def _link(self, context: PartyContext, party: str) -> contextlib.AbstractAsyncContextManager[Link]:
        return dial(context=context, address=self.addresses[party], expected=party)


@dataclass(frozen=True, kw_only=True)
class Session:
    """Open connections of a client. Not for two predictions at once.

    Attributes:
        client: whose.
        links: by party.
        largest: rows of one request; more are cut into several.
    """

    client: Client
    links: Mapping[str, Link]
    largest: int

    async def predict(
        self, inputs: Mapping[str, Array], *, progress: Callable[[int], None] = lambda rows: None
    ) -> NDArray[np.float64]:
        """Return the logits of all rows, and raise errors, as `Client.predict` does."""
        return await _answered([self], inputs, progress)

    async def evaluate(self, inputs: Mapping[str, Array], *, rows: int) -> Array:
        """Return the logits of at most `largest` rows; errors are those of `Client.predict`."""
        request, model = secrets.token_hex(16), self.client.published.model
        # The drivers of the computation get the id, and no share; each server gets two shares of three.
        held = [shares.split(shares.encode(inputs[one.name], scale=one.scale)) for one in model.inputs]
        try:
            header = {"op": "put", "request": request, "rows": rows, "model": self.client.published.digest}
            await self._of_all(
                lambda number: (header, [shares.to_bytes(s) for parts in held for s in shares.held(parts, number)]),
            )
            await self.links[_SERVICE].ask({"op": "run", "request": request, "rows": rows}, seconds=self.client.seconds)
            answers = await self._of_all(lambda number: ({"op": "fetch", "request": request}, []))
        except PipelineError as error:
            silent = await self._drop(request)
            if isinstance(error, SilentError) and error.party == _SERVICE and silent:
                raise silent[0] from None  # the service waits for this one
            raise
        shape = (rows, *model.shapes()[model.output])
        ring = shares.join([_held(answer, shape) for answer in answers])
        return shares.decode(ring, scale=model.scales()[model.output])

    async def _of_all(self, message: Callable[[int], tuple[Header, list[bytes]]]) -> list[tuple[str, bytes]]:
        async def ask(number: int) -> tuple[str, bytes]:
            header, parts = message(number)
            _, content = await self.links[SERVERS[number]].ask(header, parts, seconds=self.client.seconds)
            return SERVERS[number], content

        found = await asyncio.gather(*(ask(number) for number in range(len(SERVERS))), return_exceptions=True)
        answers = []
        for one in found:
            if isinstance(one, BaseException):
                raise one
            answers.append(one)
        return answers

    async def _drop(self, request: str) -> list[SilentError]:
        """Ask the servers to drop a request that failed; those that do not answer drop it by themselves."""
        asked = [self.links[name].ask({"op": "drop", "request": request}, seconds=_DROP_SECONDS) for name in SERVERS]
        return [one for one in await asyncio.gather(*asked, return_exceptions=True) if isinstance(one, SilentError)]


async def _answered(
    sessions: Sequence[Session], inputs: Mapping[str, Array], progress: Callable[[int], None]
) -> NDArray[np.float64]:
    """Return the logits of all rows; the sessions take turns."""
    rows, model = len(next(iter(inputs.values()))), sessions[0].client.published.model
    logits = np.empty((rows, *model.shapes()[model.output]))
    largest = min(session.largest for session in sessions)
    chunks = iter([slice(start, min(start + largest, rows)) for start in range(0, rows, largest)])

    async def lane(session: Session) -> None:
        for chunk in chunks:
            part = {name: value[chunk] for name, value in inputs.items()}
            logits[chunk] = await session.evaluate(part, rows=chunk.stop - chunk.start)
            progress(chunk.stop - chunk.start)

    lanes = [asyncio.ensure_future(lane(session)) for session in sessions]
    try:
        await asyncio.gather(*lanes)
    finally:
        for one in lanes:
            one.cancel()
        await asyncio.gather(*lanes, return_exceptions=True)
    return logits


def probabilities(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the sigmoid of one logit a row, [rows, 1]; softmax of several, [rows, classes]."""
    if logits.shape[-1] == 1:
        single: NDArray[np.float64] = np.exp(-np.logaddexp(0.0, -logits))
        return single
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    found: NDArray[np.float64] = powers / powers.sum(axis=-1, keepdims=True)
    return found


def _largest(hello: Header) -> int:
    largest = hello.get("largest")
    if not isinstance(largest, int) or largest < 1:
        raise PartyError(_SERVICE, "does not state how many rows a request may have")
    return largest


def _held(answer: tuple[str, bytes], shape: tuple[int, ...]) -> shares.Held:
    party, content = answer
    middle = len(content) // 2
    try:
        return shares.from_bytes(content[:middle], shape), shares.from_bytes(content[middle:], shape)
    except PipelineError as error:
        raise PartyError(party, f"answers with another number of rows ({error.message})") from None
