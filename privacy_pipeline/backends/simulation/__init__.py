"""Parts of the federated backend: clients, silos, rounds, plans."""
