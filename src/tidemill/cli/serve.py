"""``tidemill serve``: answers queries for every application."""

from __future__ import annotations

from typing import Annotated

import typer

from tidemill.cli.serving import Asked, run
from tidemill.cli.session import ConfigOption, HomeOption, JsonOption, WithParentOption
from tidemill.foundation.settings import FlagValue


def register(app: typer.Typer) -> None:
    """Adds the verb."""

    @app.command("serve")
    def serve(
        host: Annotated[str | None, typer.Option(help="The address to listen on.")] = None,
        port: Annotated[int | None, typer.Option(help="The port of queries; 0 for any.")] = None,
        admin_port: Annotated[
            int | None, typer.Option(help="The port of the admin API; 0 for any.")
        ] = None,
        grpc_port: Annotated[
            int | None, typer.Option(help="The port of queries by gRPC; 0 for any; off without.")
        ] = None,
        gateways: Annotated[int | None, typer.Option(help="Gateway processes.")] = None,
        with_parent: WithParentOption = False,
        home: HomeOption = None,
        config: ConfigOption = None,
        json: JsonOption = False,
    ) -> None:
        """Serve every application until SIGTERM or Ctrl-C; follow what is promoted meanwhile."""
        flags: dict[str, FlagValue] = {
            "serve.host": host,
            "serve.port": port,
            "serve.admin_port": admin_port,
            "serve.grpc_port": grpc_port,
            "serve.gateways": gateways,
        }
        run(Asked(flags=flags, home=home, config=config, json=json, with_parent=with_parent))
