"""Every verb speaks to people and to programs, and ends with a code that means something."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from tidemill import __version__
from tidemill.cli.app import VERBS

GROUPS = {
    "applications": (
        *("register", "list", "link", "unlink", "weights", "version", "replicas", "stop"),
        "inspect",
    ),
    "keys": ("create", "list", "revoke"),
    "table": ("build", "list"),
    "ledger": ("score", "export", "compact", "withdraw"),
    "quarantine": ("list", "show", "reviews", "release", "discard", "impact"),
    "schema": ("show", "infer", "diff", "update"),
}
Csv = Callable[..., Path]


@pytest.fixture
def double(tmp_path: Path) -> str:
    """The path of an ONNX model that doubles its input."""
    sides = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 2]) for name in "xy"]
    node = helper.make_node("Add", ["x", "x"], ["y"])
    graph = helper.make_graph([node], "double", [sides[0]], [sides[1]])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    path = tmp_path / "double.onnx"
    onnx.save(model, path)
    return str(path)


@pytest.mark.parametrize(
    "words",
    [
        *([verb] for verb in VERBS),
        *([group, inner] for group, verbs in GROUPS.items() for inner in verbs),
    ],
    ids=" ".join,
)
def test_every_verb_has_help(cli: Any, words: list[str]) -> None:
    """It says how it is used and what it does, and opens nothing."""
    said = cli(*words, "--help")
    assert said.code == 0
    assert f"tidemill {' '.join(words)}" in said.out
    assert "--json" in said.out or words[0] in GROUPS
    assert not (cli.folder / ".tidemill").exists()


def test_the_first_help_lists_every_verb(cli: Any) -> None:
    """So does no verb at all; the version is one line."""
    said = cli("--help")
    assert said.code == 0
    assert all(verb in said.out for verb in VERBS)
    assert cli().code == 2
    assert cli("--version").out == f"tidemill {__version__}\n"


@pytest.mark.parametrize(
    ("words", "essentials", "keys"),
    [
        ("models", ["trips", "champion", "onnx", "yes"], {"versions", "history"}),
        ("models trips", ["History", "champion", "tests"], {"versions", "history"}),
        ("deployments", ["trips", "100", "deploy", "first"], {"live", "changes"}),
        ("deployments trips", ["trips", "revision"], {"live", "changes"}),
        ("explain", ["first", "train-trips", "finished"], {"runs"}),
        ("explain first", ["InfraValidator", "finished", "Pusher"], {"run", "steps"}),
        ("snapshots trips", ["1,500", "1.csv"], {"dataset", "snapshots"}),
        ("quarantine list trips", ["No row of trips is held"], {"dataset", "rows", "held"}),
        ("quarantine show trips", ["No such row"], {"dataset", "rows"}),
        ("quarantine reviews trips", ["No held row of trips"], {"dataset", "reviews"}),
        ("quarantine release trips --all", ["Nothing changed"], {"dataset", "review"}),
        ("quarantine discard trips --all --why x", ["No such row"], {"dataset", "review"}),
        ("quarantine impact trips", ["0 rows are held", "No model version"], {"models", "held"}),
        ("table list", ["trips", "examples of run first"], {"tables"}),
        ("table list trips", ["trips"], {"tables"}),
        ("settings", ["serve.port", "8080", "default", "recipes"], {"serve.port", "home"}),
        ("ledger compact", ["0 segments"], None),
        ("ledger export out", ["0 predictions", "predictions.parquet"], {"predictions", "labels"}),
        ("promote trips 1", ["trips answers with version 1"], {"application", "revision"}),
        ("run trips", ["version 1", "candidate", "AUC", "live as trips"], {"trained", "revision"}),
        ("watch trips . --once", [], {"launches"}),
    ],
)
def test_a_verb_speaks_to_people_and_programs(
    live: Any, words: str, essentials: list[str], keys: set[str] | None
) -> None:
    """People read the essentials; programs get exactly one JSON object on standard output."""
    said = live(*words.split())
    assert said.code == 0, said.err
    for word in essentials:
        assert word in said.out
    answer = live(*words.split(), "--json")
    assert answer.code == 0, answer.err
    assert (keys or set()) <= set(answer.json())


def test_ingest_counts_every_row(cli: Any, trips_csv: Csv) -> None:
    """Received is the sum of the rest; the same file again says that nothing changed."""
    lines = trips_csv(cli.folder / "1.csv", rows=50).read_text()
    cli.write("1.csv", lines + lines.splitlines()[1] + "\nbad,row\n")
    said = cli("ingest", "trips", "1.csv")
    assert said.code == 0
    for word in ("received", "52", "accepted", "50", "held: 1 for duplicate", "snapshot "):
        assert word in said.out
    again = cli("ingest", "trips", "1.csv")
    assert (again.code, "ingested before" in again.out) == (0, True)
    counts = cli("ingest", "trips", "1.csv", "--json").json()
    assert counts["repeated"] is True
    names = ("received", "accepted", "quarantined", "duplicate", "late")
    assert [counts[name] for name in names] == [52, 50, 1, 1, 0]
    held = cli("quarantine", "list", "trips", "--json").json()
    assert held["rows"] == 2
    shown = cli("quarantine", "show", "trips", "--reason", "wrong_fields")
    assert "1.csv:" in shown.out
    assert "bad,row" in shown.out


def test_held_rows_are_released_and_discarded(cli: Any) -> None:
    """A release says what became of the rows, a discard needs a reason, and both stay on record."""
    cli.write("1.csv", "id,x\n1,1\n2,2\n3,300\n4,-4\n5,1,2\n6,6\n")
    cli.write("strict.toml", "[columns.x]\nmin = 0\nmax = 9\n")
    cli.write("wide.toml", "[columns.x]\nmin = 0\nmax = 1000\n")
    assert cli("ingest", "odd", "1.csv", "--schema", "strict.toml").code == 0
    some = ("quarantine", "release", "odd", "--reason", "out_of_range")
    said = cli(*some, "--schema", "wide.toml", "--why", "a new\x1b sensor", "--by", "[red]ann")
    assert said.code == 0, said.err
    for line in ("1 of 2 rows are accepted", "1 are held again", "snapshot "):
        assert line in said.out
    done = cli("quarantine", "discard", "odd", "--where", "line = 6", "--why", "junk", "--json")
    assert (done.code, done.json()["review"]["rows"]) == (0, 1)
    listed = cli("quarantine", "list", "odd", "--json").json()
    found = {one["reason"]: one["discarded"] for one in listed["held"]}
    assert found == {"out_of_range": 0, "wrong_fields": 1}
    reviews = cli("quarantine", "reviews", "odd")
    assert "[red]ann" in reviews.out
    assert "\x1b" not in reviews.out
    acts = [one["act"] for one in cli("quarantine", "reviews", "odd", "--json").json()["reviews"]]
    assert acts == ["release", "discard"]
    for words, text in (
        (("release", "odd"), "no rows are chosen"),
        (("release", "odd", "--all", "--reason", "late"), "--all is given"),
        (("release", "odd", "--kind", "nice"), "kind 'nice' is not known"),
        (("release", "odd", "--all", "--lateness-s", "-1"), "lateness of -1"),
        (("discard", "odd", "--all", "--why", " "), "no reason is given"),
        (("discard", "odd", "--all", "--why", "x", "--by", ""), "nobody is named"),
        (("discard", "odd", "--all"), "--why"),
        (("show", "odd", "--where", "reason = "), "the condition"),
    ):
        wrong = cli("quarantine", *words)
        assert (wrong.code, text in wrong.err) == (2, True), wrong.err


def test_ingest_takes_its_options(cli: Any) -> None:
    """Key, time and lateness may be said instead of declared, and are kept for the next file."""
    cli.write("1.csv", "id,at,x\n1,1000,1\n2,5000,2\n1,5000,3\n")
    options = ("--key", "id", "--time", "at", "--lateness-s", "100")
    counts = cli("ingest", "others", "1.csv", *options, "--json").json()
    assert (counts["accepted"], counts["duplicate"], counts["late"]) == (2, 1, 0)
    cli.write("2.csv", "id,at,x\n3,4899,1\n4,4901,2\n")
    counts = cli("ingest", "others", "2.csv", "--json").json()
    assert (counts["accepted"], counts["late"]) == (1, 1)


def test_a_file_that_the_gate_refuses_ends_with_3(live: Any) -> None:
    """A column is missing in a later file, or its values are of another type: nothing is taken."""
    live.write("2.csv", "id,carrier\n1,AA\n")
    said = live("ingest", "trips", "2.csv")
    assert said.code == 3
    assert "refused: column" in said.out
    assert "hour" in said.out
    live.write("3.csv", "id,carrier,origin,hour,late\n1,AA,JFK,noon,1\n2,AA,JFK,dawn,0\n")
    answer = live("ingest", "trips", "3.csv", "--json")
    assert answer.code == 3
    found = answer.json()
    assert (found["accepted"], found["quarantined"], found["snapshot"]) == (0, 2, None)
    assert "wrong_type" in found["refused"]
    assert len(live("snapshots", "trips", "--json").json()["snapshots"]) == 1


def test_a_model_that_is_not_blessed_ends_with_4(live: Any) -> None:
    """The reasons are told, and what was live stays."""
    text = (live.folder / "tidemill.toml").read_text()
    live.settings(text + "rules = { min_auc_gain = 0.49 }\n")
    said = live("run", "trips")
    assert said.code == 4
    assert "not blessed: nothing went live" in said.out
    assert "is not above 0.9900" in said.out
    answer = live("run", "trips", "--json")
    assert answer.code == 4
    assert answer.json()["revision"] is None
    assert live("deployments", "--json").json()["live"][0]["revision"] == 1


def test_a_blessed_version_need_not_go_live(live: Any) -> None:
    """With --no-deploy it says so."""
    said = live("run", "trips", "--no-deploy")
    assert (said.code, "not live" in said.out) == (0, True)


def test_steps_are_told_while_they_run(live: Any) -> None:
    """On standard error, so that results can be piped."""
    said = live("run", "trips")
    assert "reused Trainer" in said.err
    assert "ran Pusher" in said.err
    assert "Trainer" not in said.out


def test_a_model_is_pushed_promoted_and_rolled_back(live: Any, double: str) -> None:
    """One after the other, each with its revision; the table of before comes back."""
    said = live("push", double, "--name", "double")
    assert said.code == 0
    for word in ("double version 1 (onnx)", "takes x; gives y", "tidemill serve"):
        assert word in said.out
    kept = live("push", double, "--name", "other", "--no-deploy", "--json").json()
    assert (kept["model"]["version"], kept["revision"]) == (1, None)
    assert "tidemill promote" in live("push", double, "--name", "other", "--no-deploy").out
    table = live("deployments", "trips", "--json").json()["live"][0]["versions"][0]["table"]
    live.write("keys.csv", "carrier,origin,hour\nAA,JFK,7\n")
    assert live("table", "build", "trips", "--from", "keys.csv").code == 0
    again = ("promote", "trips", "1", "--table", table, "--reason", "[/b] the old table")
    assert live(*again).code == 0
    assert "[/b] the old table" in live("deployments").out  # words are never markup
    said = live("rollback", "trips")
    assert (said.code, "no previous champion" in said.err) == (1, True)


def test_a_table_that_is_built_again_says_what_changed(live: Any) -> None:
    """New keys are scored, others kept or dropped; a full build takes nothing over."""
    live.write("keys.csv", "carrier,origin,hour\nAA,JFK,7\nB6,EWR,9\n")
    first = live("table", "build", "trips", "--from", "keys.csv", "--full", "--json").json()
    assert (first["build"]["base"], first["build"]["keys"]["new"]) == (None, 2)
    live.write("keys.csv", "carrier,origin,hour\nAA,JFK,7\nUA,LGA,3\n")
    said = live("table", "build", "trips", "--from", "keys.csv", "--keep").out
    assert f"beside table {first['table']['id']}: 1 new, 0 changed, 1 unchanged, 1 kept" in said
    again = live("table", "build", "trips", "--from", "keys.csv", "--json").json()
    assert again["build"]["keys"] == {
        "new": 0, "changed": 0, "unchanged": 2, "kept": 0, "dropped": 1,
    }  # fmt: skip
    both = live("table", "build", "trips", "--from", "keys.csv", "--full", "--keep")
    assert (both.code, "nothing over to keep" in both.err) == (2, True)


def test_a_table_is_built_for_the_live_version(live: Any) -> None:
    """From a file, under the key of before or another one; its keys are counted."""
    live.write("keys.csv", "carrier,origin,hour\nAA,JFK,7\nAA,JFK,7\nB6,EWR,9\n")
    said = live("table", "build", "trips", "--from", "keys.csv")
    assert said.code == 0
    assert "2 keys" in said.out
    answer = live("table", "build", "trips", "--from", "keys.csv", "--key", "hour, carrier")
    assert answer.code == 0
    deployed = live("deployments", "trips", "--json").json()["live"][0]
    assert deployed["key"] == ["hour", "carrier"]
    listed = live("table", "list", "--json").json()["tables"]
    assert [each["rows"] for each in listed] == [2, 2, listed[-1]["rows"]]
    wrong = live("table", "build", "trips", "--from", "keys.csv", "--key", "origin", "--json")
    assert wrong.code == 0  # each origin has one carrier and hour there
    live.write("keys.csv", "carrier,origin,hour\nAA,JFK,7\nB6,JFK,9\n")
    refused = live("table", "build", "trips", "--from", "keys.csv", "--key", "origin", "--json")
    assert refused.code == 2
    assert "does not determine carrier, hour" in refused.json()["error"]


def test_a_table_has_one_source_and_sql_asks_its_predictions(live: Any) -> None:
    """Of several sources or none, nobody could say which; what was built is there to be asked."""
    for flags in ((), ("--from", "x.csv", "--ledger"), ("--snapshot", "trips", "--head", "3")):
        assert live("table", "build", "trips", *flags, "--json").json()["exit_code"] == 2
    built = live("table", "build", "trips", "--snapshot", "trips", "--json")
    assert built.code == 0, built.out
    rows = built.json()["table"]["rows"]
    said = live("sql", "select count(*) n from predictions.trips", "--json").json()
    assert (said["columns"], said["rows"], said["more"]) == (["n"], [[rows]], False)
    shown = live("sql", "select carrier, label, built_at from predictions.trips", "--limit", "2")
    assert (shown.code, "and more" in shown.out) == (0, True)
    written = live("sql", "select * from snapshots.trips", "--out", "rows.parquet", "--json").json()
    assert written["rows"] > rows
    assert live("sql", "select 1", "--limit", "0", "--json").json()["exit_code"] == 2
    odd = live("sql", """select 'a[/b]' as "[bold]x" """)
    assert "[bold]x" in odd.out  # words of data are never markup
    assert "a[/b]" in odd.out
    wrong = live("sql", "select * from nowhere", "--json").json()
    assert (wrong["kind"], wrong["exit_code"]) == ("InvalidInput", 2)
    empty = live("table", "build", "trips", "--ledger", "--json").json()
    assert empty["exit_code"] == 3  # nobody has asked anything yet


def test_settings_say_where_they_come_from(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Defaults, the file, the environment, flags; secrets are masked."""
    cli.settings('[serve]\nport = 9000\n[store]\nurl = "postgresql://me:secret@host/db"\n')
    monkeypatch.setenv("TIDEMILL_SERVE_ADMIN_PORT", "9001")
    said = cli("settings", "--home", "elsewhere")
    assert said.code == 0
    assert "secret" not in said.out
    found = cli("settings", "--home", "elsewhere", "--json").json()
    assert found["serve.port"]["value"] == "9000"
    assert "tidemill.toml" in found["serve.port"]["origin"]
    assert found["serve.admin_port"]["origin"] == "environment TIDEMILL_SERVE_ADMIN_PORT"
    assert "flag" in found["home"]["origin"]
    assert "secret" not in json.dumps(found)


def test_data_never_commands_the_terminal(cli: Any) -> None:
    """Markup and control characters in rows, names and reasons are shown as they are."""
    rows = "".join(f"{n},1\n" for n in range(20))
    cli.write("[b]1.csv", f"id,x\n{rows}[/red]\x1b[2J,1,2\n\x1b]0;title\x07,[/]\n")
    assert cli("ingest", "odd", "[b]1.csv").code == 0
    for words in (("quarantine", "list", "odd"), ("quarantine", "show", "odd")):
        said = cli(*words)
        assert said.code == 0
        assert "\x1b" not in said.out
    assert "[/red]\\x1b[2J" in said.out
    assert "[b]1.csv" in cli("snapshots", "odd").out
    error = cli("ingest", "odd", "[/b]\x1b[2J.csv")
    assert "\x1b" not in error.err
    assert "[/b]" in error.err


def test_try_asks_a_model_and_keeps_nothing(cli: Any, tmp_path: Path) -> None:
    """A file is tried before it is pushed, a version before it is live; a wrong input is code 2."""
    sides = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "g", sides[:1], sides[1:])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(made, tmp_path / "neg.onnx")
    said = cli("try", str(tmp_path / "neg.onnx"), "--input", "[1, 2]", "--json")
    assert said.code == 0, said.err
    assert said.json()["answers"] == [-1.0, -2.0]
    assert cli("models", "--json").json()["versions"] == []
    assert cli("push", str(tmp_path / "neg.onnx"), "--name", "neg", "--no-deploy").code == 0
    told = cli("try", "neg:1", "--input", '{"instances": [7]}')
    assert told.code == 0
    assert "-7.0" in told.out
    assert "in the gateways" in told.out
    assert cli("try", "neg:1", "--input", '["a"]').code == 2
    assert cli("try", "neg:9").code == 1
    assert cli("try", str(tmp_path / "nothing.onnx")).code == 2


_PRIORITY = """
import os, sys
sys.argv = ["tidemill", *sys.argv[1:]]
os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))  # whatever this one was begun by
from tidemill.__main__ import main
heavy = [name for name in ("numpy", "typer") if name in sys.modules]
try:
    main()
except SystemExit:
    print("idle" if os.sched_getscheduler(0) == os.SCHED_IDLE else "normal", *heavy)
"""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("table", "build", "app"), "idle"),
        (("table", "rescore", "app", "--from", "a", "--sql", "b"), "idle"),
        (("table", "list"), "normal"),
    ],
)
def test_a_build_yields_before_anything_is_imported(
    words: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    """Even one that is refused for its usage: importing takes as long as many queries."""
    command = [sys.executable, "-c", _PRIORITY, *words]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=60, cwd=tmp_path
    )
    assert done.stdout.strip().splitlines()[-1:] == [said], done.stderr
