"""Names of the parties. Imports nothing, so that it can come before TensorFlow starts."""

from __future__ import annotations

SERVERS = ("server0", "server1", "server2")
PROVIDER, CLIENT = "weights-provider", "prediction-client"
PARTIES = (*SERVERS, PROVIDER, CLIENT)
# Of the servers' TensorFlow, on the loopback of every namespace: a server's own, and tunnels to the others. Below the
# range of the kernel's own choices (32768 on), where who knocks at a closed port can get that very port, and itself.
PORTS = (27200, 27201, 27202)
EVERYONES_HOSTS = {name: f"127.0.0.1:{port}" for name, port in zip(SERVERS, PORTS, strict=True)}
JOB = "tfe"  # of the cluster, as TF-Encrypted's RemoteConfig calls it
