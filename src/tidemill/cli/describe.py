"""``tidemill describe``: what is live, as a document for ``tidemill apply`` or as it is drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from tidemill.cli.session import ConfigOption, HomeOption, JsonOption, Session, plain, session
from tidemill.control.architecture import architecture, as_mermaid, as_page, as_text
from tidemill.control.deployments import get_deployment, list_deployments
from tidemill.control.documents import document_of, show_document
from tidemill.foundation.errors import InvalidInput
from tidemill.foundation.files import write_atomic


def register(app: typer.Typer) -> None:
    """Adds the verb."""

    @app.command("describe")
    def describe(
        application: Annotated[str | None, typer.Argument(help="One application only.")] = None,
        drawn: Annotated[
            bool, typer.Option("--architecture", help="Where its queries go, instead.")
        ] = False,
        diagram: Annotated[
            bool, typer.Option("--diagram", help="The same as a flowchart in Mermaid's language.")
        ] = False,
        report: Annotated[
            Path | None, typer.Option("--page", help="Also write the same as a page to this file.")
        ] = None,
        home: HomeOption = None,
        config: ConfigOption = None,
        json: JsonOption = False,
    ) -> None:
        """Print what is live: a document that changes nothing when applied, or a drawing of it."""
        if (drawn or diagram or report is not None) and application is None:
            raise InvalidInput(
                "an architecture is one application's", remedy="Name the application."
            )
        with session(home=home, config=config, json=json) as on:
            if application is not None and (drawn or diagram or report is not None):
                _draw(on, application, diagram=diagram, report=report)
                return
            found = (
                list_deployments(on.home)
                if application is None
                else [get_deployment(on.home, application)]
            )
            shown = {"applications": {each.application: document_of(each) for each in found}}
            text = show_document(found)
            on.show(shown, lambda out: out.print(Text(plain(text)), soft_wrap=True, end=""))


def _draw(on: Session, application: str, *, diagram: bool, report: Path | None) -> None:
    found = architecture(on.home, application)
    mermaid = as_mermaid(found)
    if report is not None:
        write_atomic(report, as_page(found).encode())
    text = mermaid if diagram else as_text(found)
    on.show(
        {"architecture": found, "diagram": mermaid},
        lambda out: out.print(Text(plain(text)), soft_wrap=True, end=""),
    )
