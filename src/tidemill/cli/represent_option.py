"""The option that declares what represents the values of a column."""

from __future__ import annotations

from typing import Annotated

import typer

RepresentOption = Annotated[
    list[str] | None,
    typer.Option(
        "--represent",
        help="COLUMN=REPRESENTATION, as city=text; once for each, or none. Else as deployed.",
    ),
]
