"""``tidemill describe``: what is live, as the document that ``tidemill apply`` takes."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text

from tidemill.cli.session import ConfigOption, HomeOption, JsonOption, plain, session
from tidemill.control.deployments import get_deployment, list_deployments
from tidemill.control.documents import document_of, show_document


def register(app: typer.Typer) -> None:
    """Adds the verb."""

    @app.command("describe")
    def describe(
        application: Annotated[str | None, typer.Argument(help="One application only.")] = None,
        home: HomeOption = None,
        config: ConfigOption = None,
        json: JsonOption = False,
    ) -> None:
        """Print what is live as a document; applied again, it changes nothing."""
        with session(home=home, config=config, json=json) as on:
            found = (
                list_deployments(on.home)
                if application is None
                else [get_deployment(on.home, application)]
            )
            shown = {"applications": {each.application: document_of(each) for each in found}}
            text = show_document(found)
            on.show(shown, lambda out: out.print(Text(plain(text)), soft_wrap=True, end=""))
