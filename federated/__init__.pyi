from .aggregation import MeanAggregator
from .algorithms.algorithm import Algorithm
from .clients.origin import ClientOrigin
from .clients.splits import IidSplit, LabelSkewSplit, QuantitySkewSplit, split_rows
from .clients.store import ClientStore
from .clients.tff_data import from_client_data, to_client_data
from .contract import Engine, RoundResult, RoundState
from .evaluation import ClientMetrics, Evaluator, Personalization, personalize
from .experiments.config import ExperimentConfig, load_experiment
from .experiments.run import run_point
from .fast.engine import FastEngine
from .model import FederatedModel
from .privacy.cohort_plan import Attendance
from .privacy.distributed import DistributedAggregator
from .privacy.gaussian import GaussianAggregator
from .privacy.plan import FederatedPlan
from .privacy.sampler import ClientSampler
from .silos.engine import SiloEngine
from .silos.plan import SiloPlan
from .silos.records import SiloRecords
from .tables import clients_by_rule, clients_from_table, silos_from_table
from .tff_engine.engine import TffEngine

__all__ = [
    "Algorithm",
    "Attendance",
    "ClientMetrics",
    "ClientOrigin",
    "ClientSampler",
    "ClientStore",
    "DistributedAggregator",
    "Engine",
    "Evaluator",
    "ExperimentConfig",
    "FastEngine",
    "FederatedModel",
    "FederatedPlan",
    "GaussianAggregator",
    "IidSplit",
    "LabelSkewSplit",
    "MeanAggregator",
    "Personalization",
    "QuantitySkewSplit",
    "RoundResult",
    "RoundState",
    "SiloEngine",
    "SiloPlan",
    "SiloRecords",
    "TffEngine",
    "clients_by_rule",
    "clients_from_table",
    "from_client_data",
    "load_experiment",
    "personalize",
    "run_point",
    "silos_from_table",
    "split_rows",
    "to_client_data",
]
