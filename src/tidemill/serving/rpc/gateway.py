"""A gateway process for gRPC: ``python -m tidemill.serving.rpc.gateway --fd N --control-fd M``.

The same gateway as for HTTP but for its front: it obeys the same supervisor, by the same brain.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from tidemill.serving.gateway import run_gateway
from tidemill.serving.rpc.front import GrpcFront


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a gateway for gRPC."""
    return run_gateway("tidemill.serving.rpc.gateway", GrpcFront, arguments)


if __name__ == "__main__":
    sys.exit(main())
