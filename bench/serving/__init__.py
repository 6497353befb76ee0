"""One row a request over HTTP: ours beside every peer, on the same work, in one run."""
