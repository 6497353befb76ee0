"""The documentation says what the code does: every setting, link and example is checked."""

from __future__ import annotations

import doctest
import importlib
import re
import sys
from pathlib import Path

import pytest

from tidemill.foundation.settings import KEYS, Settings, variable

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").rglob("*.md")) + sorted(ROOT.glob("*.md"))
EXAMPLES = [
    path for path in sorted((ROOT / "src").rglob("*.py")) if ">>> " in path.read_text("utf-8")
]


def name_of(path: Path) -> str:
    """Says which file it is, from the top of the repository."""
    return path.relative_to(ROOT).as_posix()


def default_of(key: str) -> str:
    """Says what the reference must show as the default of a setting."""
    if key in {"home", "store.url", "files.url"}:
        return ""
    value: object = Settings(home=Path("home"))
    for name in key.split("."):
        value = getattr(value, name)
    text = str(value).lower() if isinstance(value, bool) or value is None else str(value)
    return text.removesuffix(".0")


@pytest.mark.parametrize("key", KEYS)
def test_every_setting_is_in_the_reference(key: str) -> None:
    """Each setting has one row, with its environment variable and its default."""
    page = (ROOT / "docs/reference/settings.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith(f"| `{key}` |")]
    assert len(rows) == 1
    cells = [cell.strip() for cell in rows[0].strip("|").split("|")]
    assert cells[1] == f"`{variable(key)}`"
    assert default_of(key) in cells[2].strip("`")
    assert len(cells[3]) > 10


def test_the_reference_has_no_setting_of_its_own() -> None:
    """What the reference lists as a setting is one."""
    page = (ROOT / "docs/reference/settings.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `([a-z_.]+)` \|", page, re.MULTILINE)) == set(KEYS)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    """A link to a file of this repository finds it."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s#]+)[^)]*\)", text):
        if "://" not in target and not target.startswith("mailto:"):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("path", EXAMPLES, ids=name_of)
def test_examples_run(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every example in a docstring gives what it says."""
    monkeypatch.chdir(tmp_path)
    parts = path.relative_to(ROOT / "src").with_suffix("").parts
    module = importlib.import_module(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    result = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    sys.stdout.flush()
    assert result.attempted > 0
    assert result.failed == 0
