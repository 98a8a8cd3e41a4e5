"""User-level privacy of federated training: plan, sampling of clients, clipping, noise. The unit is the client."""
