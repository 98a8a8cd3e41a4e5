"""The parties of `training.encrypted.parties`: which of them the pipeline is, and what they protect."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from privacy_pipeline.encrypted.model.threat_model import (
    ThreatModel,
    deployed_for_evaluation,
    is_this_machine,
    of_parties,
)
from privacy_pipeline.encrypted.server import party
from privacy_pipeline.encrypted.transport.dialing import Address, addresses
from privacy_pipeline.encrypted.worker.parties import CLIENT, PROVIDER, SERVERS
from privacy_pipeline.errors import BadInputError, PipelineError

_KEY = "training.encrypted.parties"
_ROLES = (party.DRIVER, PROVIDER, CLIENT)


@dataclass(frozen=True, kw_only=True)
class OwnParties:
    """Parties through which the pipeline evaluates.

    Attributes:
        folder: of `init_parties`, absolute.
        addresses: of all parties.
    """

    folder: Path
    addresses: dict[str, Address]

    @property
    def hosts(self) -> dict[str, str]:
        """Of the servers."""
        return {name: self.addresses[name][0] for name in SERVERS}

    @property
    def local(self) -> bool:
        """Whether all servers are of this machine, so that the pipeline starts them."""
        return all(is_this_machine(host) for host in self.hosts.values())

    @property
    def threat_model(self) -> ThreatModel:
        """What protects the eval split and the model, by the rule of the service and its clients."""
        found = of_parties(local=self.local, hosts=self.hosts)
        return deployed_for_evaluation() if found.protection == "encrypted" else found


def read(folder: Path) -> OwnParties:
    """Read who the parties are.

    Raises:
        BadInputError: parties.yaml is missing or broken.
    """
    try:
        return OwnParties(folder=folder.absolute(), addresses=addresses(folder.absolute()))
    except BadInputError as error:
        raise BadInputError(f"{_KEY}: {error.message}", fix=error.fix) from None


def require_usable(folder: Path) -> OwnParties:
    """Read who they are, and make sure that this machine has the keys of those that the pipeline is, or start.

    Raises:
        BadInputError: parties.yaml is not usable, or a party's folder is missing or not usable; names it.
    """
    found = read(folder)
    for name in (*_ROLES, *(SERVERS if found.local else ())):
        if not (found.folder / name).is_dir():
            raise BadInputError(
                f"{_KEY}: {folder} has no folder {name}, and the pipeline "
                + ("starts that server" if name in SERVERS else "is that party"),
                fix=f"copy {name} there from where `privacy-pipeline encrypted init-parties` made it",
            )
        try:
            party.load(name=name, folder=found.folder)
        except PipelineError as error:
            raise BadInputError(f"{_KEY}: {error.message}", fix=error.fix) from None
    return found
