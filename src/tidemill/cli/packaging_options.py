"""Options that say how a model is packaged: the same for every verb that does it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

TrustCodeOption = Annotated[
    bool, typer.Option("--trust-code", help="Vouch for code that the file runs.")
]
SignatureOption = Annotated[
    str | None,
    typer.Option(help="What it takes and gives, as JSON or a file of it; else inferred."),
]
CompileOption = Annotated[
    bool,
    typer.Option("--compile/--no-compile", help="Compile it if that changes no answer."),
]
RequirementsOption = Annotated[
    Path | None,
    typer.Option(help="What the model's own environment is to hold (requirements.txt)."),
]
