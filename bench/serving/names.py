"""What workloads and servers of ours are called in results, claims and tables."""

WORKLOADS = ("sum", "lr", "rf", "mlp")
GATEWAY, WORKER = "tidemill", "tidemill, worker"
ORIGINAL, BINARY = "tidemill, not compiled", "tidemill, binary"
