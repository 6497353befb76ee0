"""What workloads and servers of ours are called in results, and where they are compared."""

WORKLOADS = ("sum", "lr", "rf", "mlp")
GATEWAY, WORKER = "tidemill", "tidemill, worker"
ORIGINAL, BINARY = "tidemill, not compiled", "tidemill, binary"
AT = 64
"""Throughput is compared at so many connections."""
