"""A NumPy engine for tests: federated averaging of logistic regression, one gradient step a client."""

from __future__ import annotations

import numpy as np

from federated.contract import RoundResult, RoundState
from federated.experiments.simulation import Simulation


class LogisticEngine:
    """Keeps `federated.contract.Engine`; `aggregator` gets the stacked updates, as in the real engines."""

    def __init__(self, config, clients, aggregator, *, width, seed):
        self.rate = config.algorithm.client_optimizer.learning_rate
        self.clients = clients
        rng = np.random.default_rng(seed)
        self.first = (rng.normal(size=(width, 1)).astype(np.float32) * 0.01, np.zeros(1, np.float32))
        self.aggregator = aggregator([part.shape for part in self.first]) if aggregator else None

    def initial_state(self):
        aggregator = self.aggregator.initial_state() if self.aggregator else {}
        return RoundState(round_number=0, weights=self.first, aggregator=aggregator)

    def run_round(self, state, cohort):
        updates, counts = [], []
        for client in cohort:
            features, labels = self.clients.examples_of(int(client))
            x, y = np.asarray(features["features"]), np.asarray(labels, np.float32)[:, np.newaxis]
            wrong = y - 1 / (1 + np.exp(-(x @ state.weights[0] + state.weights[1])))
            updates.append([self.rate * x.T @ wrong / len(x), self.rate * wrong.mean(axis=0)])
            counts.append(len(x))
        after = state.aggregator
        if self.aggregator is None:
            total = [np.average([u[place] for u in updates], axis=0, weights=counts) for place in range(2)]
        else:
            stacked = [np.array([u[place] for u in updates], np.float32) for place in range(2)]
            sums = None
            if updates:
                ones = np.ones(len(updates), np.float32)
                sums = self.aggregator.partial(after, stacked, np.array(counts, np.float32), ones)
            total, after, _ = self.aggregator.finish(after, sums, state.round_number)
            if total is None:
                total = [np.zeros_like(part) for part in state.weights]
        weights = tuple(
            (old + np.asarray(new)).astype(np.float32) for old, new in zip(state.weights, total, strict=True)
        )
        size = len(cohort) * sum(part.nbytes for part in weights)
        return RoundResult(
            state=RoundState(round_number=state.round_number + 1, weights=weights, aggregator=after),
            metrics={} if self.aggregator else {"loss": 0.0},
            clients=len(cohort),
            examples=sum(counts),
            bytes_down=size,
            bytes_up=size,
        )


def predict(state, features):
    return features["features"] @ state.weights[0] + state.weights[1]


def build(config, clients, aggregator, *, width, seed):
    return Simulation(engine=LogisticEngine(config, clients, aggregator, width=width, seed=seed), predict=predict)
