"""The newest span of a pattern, and in it the newest version."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.data.ingest import ingest
from tidemill.data.sources import locate
from tidemill.data.spans import is_pattern, read_pattern, resolve
from tidemill.foundation.errors import InvalidInput, NotFound
from tidemill.foundation.home import Home


@pytest.mark.parametrize(
    ("text", "paths", "span", "version", "chosen"),
    [
        ("s{SPAN}", ["s9", "s10", "s010x", "t11", "s-12"], 10, None, ["s10"]),
        ("s{SPAN:3}", ["s009", "s10", "s1000"], 9, None, ["s009"]),
        ("s{SPAN}/v{VERSION}", ["s1/v9", "s2/v1", "s2/v03", "s2/x"], 2, 3, ["s2/v03"]),
        ("s{SPAN}/v{VERSION:2}/*.csv", ["s2/v03/a.csv", "s2/v03/b.csv", "s2/v4/c.csv"], 2, 3, None),
        (
            "{YYYY}-{MM}-{DD}",
            ["1970-01-02", "2020-02-29", "2019-12-31"],
            18321,
            None,
            ["2020-02-29"],
        ),
        ("{DD}.{MM}.{YYYY}?", ["01.02.2020a", "31.01.2020a"], 18293, None, ["01.02.2020a"]),
        ("[a]/{SPAN}", ["[a]/1", "a/2"], 1, None, ["[a]/1"]),
    ],
)
def test_the_largest_span_wins_then_the_largest_version(
    text: str, paths: list[str], span: int, version: int | None, chosen: list[str] | None
) -> None:
    """Numbers are compared as numbers; what does not match whole is not there."""
    found = resolve(read_pattern(text), paths)
    assert (found.span, found.version) == (span, version)
    assert list(found.paths) == (chosen or paths[: 2 if version else 1])


@pytest.mark.parametrize(
    "text",
    [
        *("{VERSION}", "{SPAN}{SPAN}", "{SPAN}/{YYYY}{MM}{DD}", "{YYYY}{MM}", "{SPAN:0}"),
        *("{SPAN}{VERSION}{VERSION}", "{YYYY}{YYYY}{MM}{DD}", "{SPAN:x}", "{SPAN}{VERSION:}"),
    ],
)
def test_a_pattern_names_one_span(text: str) -> None:
    """Anything else is refused, by its name."""
    assert is_pattern(text)
    with pytest.raises(InvalidInput, match="does not name a span once"):
        read_pattern(text)


@given(st.sets(st.tuples(st.integers(0, 50), st.integers(0, 20)), min_size=1))
def test_order_does_not_matter(pairs: set[tuple[int, int]]) -> None:
    """It is the largest pair, in whatever order the paths come."""
    paths = [f"s{span}/v{version}.csv" for span, version in pairs]
    found = resolve(read_pattern("s{SPAN}/v{VERSION}.csv"), paths)
    assert (found.span, found.version) == max(pairs)
    assert found == resolve(read_pattern("s{SPAN}/v{VERSION}.csv"), reversed(paths))


def test_ingest_takes_the_newest(home: Home, tmp_path: Path) -> None:
    """Files and folders of it, with a note that says which; a day in no calendar is an error."""
    for day, version in (("2020-01-09", 3), ("2020-01-10", 1), ("2020-01-10", 2)):
        folder = tmp_path / day / f"v{version}"
        folder.mkdir(parents=True)
        (folder / "a.csv").write_text(f"x\n{version}\n")
        (folder / "b.csv").write_text(f"x\n{version}0\n")
    text = f"{tmp_path}/{{YYYY}}-{{MM}}-{{DD}}/v{{VERSION}}"
    found, _ = locate([text])
    assert [file.path.relative_to(tmp_path).as_posix() for file in found] == [
        "2020-01-10/v2/a.csv",
        "2020-01-10/v2/b.csv",
    ]
    result = ingest(home, "d", [Path(text) / "b*"])
    assert result.accepted == 1
    (note,) = (one for one in result.anomalies if one.kind == "newest_span")
    assert "is span 18271, version 2: 1 paths" in note.message
    with pytest.raises(NotFound, match="nothing matches"):
        locate([text + "/c.csv"])
    (tmp_path / "2020-02-30").mkdir()
    with pytest.raises(InvalidInput, match="names no day"):
        locate([f"{tmp_path}/{{YYYY}}-{{MM}}-{{DD}}"])
