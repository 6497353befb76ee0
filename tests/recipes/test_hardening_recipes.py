"""A recipe that cannot work is told what is wrong with it before anything is trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tidemill.control.runs import run_recipe
from tidemill.foundation.errors import TidemillError
from tidemill.foundation.home import open_home
from tidemill.foundation.settings import Settings
from tidemill.recipes.intake import take


def test_slices_that_the_select_does_not_give(
    tmp_path: Path, trips_csv: Callable[..., Path], trips_recipe: dict[str, Any]
) -> None:
    """The column is named, and so are those that there are."""
    recipe = {**trips_recipe, "slices": ["airline"]}
    with open_home(Settings(home=tmp_path / "home", recipes={"trips": recipe})) as home:
        take(home, "trips", [trips_csv(tmp_path / "1.csv", rows=200)])
        with pytest.raises(TidemillError, match=r"Transform.*no column 'airline'"):
            run_recipe(home, "trips", by="tests", reason="wrong slice")
