"""``tidemill serve``: answers queries for every application."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from tidemill.cli.parent import WithParentOption, stop_with_parent
from tidemill.cli.session import ConfigOption, HomeOption, JsonOption, print_json, session
from tidemill.control.server import Serving
from tidemill.control.server import serve as serve_home


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
        flags = {
            "serve.host": host,
            "serve.port": port,
            "serve.admin_port": admin_port,
            "serve.grpc_port": grpc_port,
            "serve.gateways": gateways,
        }
        if with_parent:
            stop_with_parent()
        with session(home=home, config=config, json=json, flags=flags) as on:

            def ready(serving: Serving) -> None:
                if json:
                    print_json(serving)
                    return
                names = ", ".join(serving.applications) or "no application yet"
                scheme = "https" if serving.tls else "http"
                admin = f"127.0.0.1:{serving.admin_port}/admin/v1/health"
                on.out.print(f"serving {names} on {scheme}://{serving.host}:{serving.port}")
                if serving.grpc_port is not None:
                    on.out.print(f"gRPC on {serving.host}:{serving.grpc_port}")
                on.out.print(f"admin API on {scheme}://{admin}")

            asyncio.run(serve_home(on.home, ready=ready))
