"""Names of the parties. Imports nothing, so that it can come before TensorFlow starts."""

from __future__ import annotations

SERVERS = ("server0", "server1", "server2")
PROVIDER, CLIENT = "weights-provider", "prediction-client"
PARTIES = (*SERVERS, PROVIDER, CLIENT)
