"""The Replica seam: takes a batch, gives answers. Nothing here decides what goes in a batch."""

from tidemill.serving.replicas.replica import Replica

__all__ = ["Replica"]
