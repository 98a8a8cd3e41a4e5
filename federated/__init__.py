"""Federated simulation: clients, engines, algorithms, privacy for users and inside silos, and experiments.

    engine = FastEngine(model=FederatedModel(model, loss="mse"), clients=clients, algorithm=algorithm)
    state = engine.run_round(engine.initial_state(), cohort).state

Names load on first use (`__init__.pyi` lists them).
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
