"""Whatever a file is written like, flags of ``tidemill ingest`` say it; what came is told."""

from __future__ import annotations

import re
from typing import Any

HEAD = ("id", "price", "town")
ROWS = [(str(i), f"{i / 4:g}", ("Århus", "Bergen")[i % 2]) for i in range(60)]


def _text(sign: str) -> str:
    return "".join(sign.join(row) + "\n" for row in (HEAD, *ROWS))


def test_flags_say_how_text_is_written(cli: Any) -> None:
    """A separator, a tab as a shell passes it, an encoding; each error names its flag."""
    (cli.folder / "semicolon.csv").write_text(_text(";"), "utf-8")
    (cli.folder / "tab.csv").write_text(_text("\t"), "utf-16")
    told = cli("ingest", "towns", "semicolon.csv")
    assert (told.code, "--delimiter" in told.err) == (2, True)
    told = cli("ingest", "tabs", "tab.csv")
    assert (told.code, "--encoding utf-16" in told.err) == (2, True)
    found = cli("ingest", "towns", "semicolon.csv", "--delimiter", ";", "--json").json()
    assert (found["accepted"], found["quarantined"]) == (60, 0)
    flags = ("--delimiter", r"\t", "--encoding", "utf-16")
    found = cli("ingest", "tabs", "tab.csv", *flags, "--json").json()
    assert (found["accepted"], found["quarantined"]) == (60, 0)
    (cli.folder / "more.csv").write_text(_text(",").upper(), "utf-8")
    told = cli("ingest", "more", "more.csv", "--encoding", "utf-99")
    assert (told.code, "utf-99" in told.err) == (2, True)
    told = cli("ingest", "more", "more.csv", "--delimiter", "||")
    assert (told.code, "delimiter" in told.err) == (2, True)
    for flag, said in (("--delimiter", "\n"), ("--encoding", "zlib"), ("--encoding", "idna")):
        told = cli("ingest", "more", "more.csv", flag, said)
        assert (told.code, f"{flag[2:]} " in told.err, repr(said) in told.err) == (2, True, True)


def test_the_help_shows_what_may_be_typed(cli: Any) -> None:
    """A tab as the help writes it is taken as it stands there."""
    shown = re.search(r"(\S+)\s+is[\s│]+a tab", cli("ingest", "--help").out)
    assert shown is not None
    (cli.folder / "tab.csv").write_text(_text("\t"), "utf-8")
    found = cli("ingest", "tabs", "tab.csv", "--delimiter", shown[1], "--json").json()
    assert (shown[1], found["accepted"]) == (r"\t", 60)


def test_a_flag_leaves_the_other_options_as_they_are(cli: Any) -> None:
    """So a key that was declared once stays, and judges duplicates."""
    (cli.folder / "a.csv").write_text(_text(";"), "utf-8")
    assert cli("ingest", "towns", "a.csv", "--key", "id", "--delimiter", ";").code == 0
    (cli.folder / "b.csv").write_text(_text(";") + "90;-;Bergen\n91;?;Bergen\n", "utf-8")
    flags = ("--null-value", "-", "--null-value", "?", "--max-bad-fraction", "0.9")
    found = cli("ingest", "towns", "b.csv", *flags, "--json").json()
    assert (found["accepted"], found["duplicate"], found["quarantined"]) == (2, 60, 0)
    told = cli("ingest", "towns", "b.csv", "--max-bad-fraction", "7")
    assert (told.code, "max_bad_fraction" in told.err) == (2, True)


def test_what_came_is_told(cli: Any) -> None:
    """What was passed over, and what is odd, the gravest first; no row new means no snapshot."""
    folder = cli.folder / "in"
    folder.mkdir()
    (folder / "a.csv").write_text(_text(",").rstrip("\n"), "utf-8")
    (folder / "notes.txt").write_text("x")
    told = cli("ingest", "towns", "in", "--key", "id").out
    assert "warning: " in told
    assert told.index("no_final_newline") < told.index("ignored_file")
    (folder / "a.csv").write_text(_text(","), "utf-8")
    told = cli("ingest", "towns", "in").out
    assert "no snapshot: no row is new" in told
    assert "None" not in told


def test_columns_that_sql_cannot_tell_apart_are_refused(cli: Any) -> None:
    """At once, and not by the checks and the training that come later; nothing is recorded."""
    (cli.folder / "a.csv").write_text("id,ID,price\n1,2,3\n")
    told = cli("ingest", "twins", "a.csv")
    assert (told.code, "'id' and 'ID'" in told.err) == (2, True)
    assert cli("snapshots", "twins").code == 1
    (cli.folder / "b.csv").write_text("id,price\n1,2\n2,4\n")
    assert cli("ingest", "twins", "b.csv").code == 0
    found = cli("ingest", "twins", "a.csv", "--json").json()  # a column too many is told, as any is
    assert {one["kind"] for one in found["anomalies"]} == {"SCHEMA_NEW_COLUMN"}
    assert cli("validate", "twins").code == 0
