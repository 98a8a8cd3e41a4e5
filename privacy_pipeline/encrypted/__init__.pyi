from .client.client import Client, Session, probabilities
from .evaluation.measured import EncryptedEvaluation
from .model.conversion.convert import convert
from .model.model_format import PrivateModel
from .model.published import Published
from .model.ranges import Range
from .model.threat_model import ThreatModel
from .transport.certificates import init_parties
from .transport.dialing import Address, addresses

__all__ = [
    "Address",
    "Client",
    "EncryptedEvaluation",
    "PrivateModel",
    "Published",
    "Range",
    "Session",
    "ThreatModel",
    "addresses",
    "convert",
    "init_parties",
    "probabilities",
]
