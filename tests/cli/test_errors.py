"""Whatever is wrong, a command says it in a sentence: never a traceback, always a code."""

from __future__ import annotations

import gzip
import json
import random
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tidemill.recipes.intake import take

Csv = Callable[..., Path]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("ingest trips nope.csv", 1, "nope.csv does not exist"),
        ("ingest ../trips 1.csv", 2, "dataset name"),
        ("ingest trips", 2, "Missing argument"),
        ("ingest trips . --lateness-s soon", 2, "'--lateness-s'"),
        ("ingest new 1.csv --schema nope.toml", 1, "nope.toml does not exist"),
        ("run nope", 1, "recipe 'nope' is not declared"),
        ("run trips --run ../x", 2, "run name"),
        ("push nope.onnx --name x", 2, "there is no file 'nope.onnx'"),
        ("push nope.onnx", 2, "--name"),
        ("push 1.csv --name x", 2, "does not look like a model"),
        ("models nope", 1, "model 'nope' does not exist"),
        ("promote nope 1", 1, "application 'nope' does not exist"),
        ("promote trips 7", 1, "no version 7"),
        ("promote trips 99999999999999999999", 1, "no version"),
        ("promote trips one", 2, "'version'"),
        ("promote trips 1 --table 0123456789abcdef", 1, "does not exist"),
        ("rollback nope", 1, "application 'nope' does not exist"),
        ("rollback trips", 1, "no previous champion"),
        ("table build nope --from 1.csv", 1, "application 'nope' does not exist"),
        ("table build trips --from nope.csv", 1, "nope.csv does not exist"),
        ("table build trips --from 1.csv --key tail", 2, "key column 'tail'"),
        ("table build trips", 2, "--from"),
        ("explain nope", 1, "run 'nope' does not exist"),
        ("snapshots nope", 1, "dataset 'nope' does not exist"),
        ("quarantine list nope", 1, "dataset 'nope' does not exist"),
        ("quarantine show nope", 1, "dataset 'nope' does not exist"),
        ("quarantine show trips --limit 0", 2, "'--limit'"),
        ("deployments nope", 1, "application 'nope' does not exist"),
        ("ledger score trips", 1, "no prediction of application 'trips'"),
        ("ledger export /proc/nowhere", 1, "/proc/nowhere"),
        ("watch nope .", 1, "recipe 'nope' is not declared"),
        ("watch trips nowhere", 1, "nowhere does not exist"),
        ("settings --config nope.toml", 2, "nope.toml"),
        ("models --home 1.csv", 2, "1.csv"),
        ("nonsense", 2, "nonsense"),
        ("models --nonsense", 2, "--nonsense"),
        ("serve --host 0.0.0.0 --port 0 --admin-port 0", 1, "0.0.0.0"),
        ("serve --port 99999", 2, "99999"),
    ],
)
def test_what_is_wrong_is_told(live: Any, trips_csv: Csv, words: str, code: int, said: str) -> None:
    """On standard error for people; as one JSON object on standard output for programs."""
    trips_csv(live.folder / "1.csv", rows=5, seed=2)
    answer = live(*words.split())
    assert answer.code == code
    assert said in answer.err
    assert not answer.out
    programs = live(*words.split(), "--json")
    assert programs.code == code
    found = programs.json()
    assert said in found["error"]
    assert found["exit_code"] == code
    assert found["kind"]


def _gzip(text: str) -> bytes:
    return gzip.compress(text.encode())


GOOD = "id,carrier,origin,hour,late\n" + "".join(f"x{n},AA,JFK,{n % 20},0\n" for n in range(2000))


@pytest.mark.parametrize(
    ("name", "data", "codes"),
    [
        ("empty.csv", b"", (2,)),
        ("header.csv", b"id,carrier,origin,hour,late\n", (0, 2, 3)),
        ("newlines.csv", b"\n\n\n", (2, 3)),
        ("cut.csv", GOOD.encode()[:-7], (0,)),
        ("cut.csv.gz", _gzip(GOOD)[:-200], (2,)),
        ("empty.csv.gz", b"", (2,)),
        ("cut.parquet", b"PAR1\x15\x04", (2,)),
        ("junk.csv", random.Random(1).randbytes(5000), (2, 3)),
        ("junk.zip", b"PK\x03\x04junk", (2,)),
        ("zeros.csv", bytes(5000), (2, 3)),
        ("one-line.csv", b"x" * 200_000, (2, 3)),
        ("utf16.csv", GOOD.encode("utf-16"), (2, 3)),
        ("twice.csv", b"id,id,origin,hour,late\n1,1,JFK,1,0\n", (2, 3)),
        ("other.txt", b"id\n1\n", (0, 2, 3)),
    ],
)
def test_bad_files_are_told(live: Any, name: str, data: bytes, codes: tuple[int, ...]) -> None:
    """Files that are cut off, empty or something else: the snapshots before are as they were."""
    live.write(name, data)
    answer = live("ingest", "trips", name)
    assert answer.code in codes, (answer.code, answer.out, answer.err)
    programs = live("ingest", "trips", name, "--json").json()
    if answer.code == 2:
        assert answer.err
        assert name.split(".", maxsplit=1)[0] in programs["error"]
    else:
        names = ("accepted", "quarantined", "duplicate", "late")
        assert programs["received"] == sum(programs[each] for each in names)


def test_a_truncated_file_loses_no_row(live: Any) -> None:
    """A last line that is cut is a row too: received, and held with its text."""
    live.write("cut.csv", GOOD.encode()[:-7])
    counts = live("ingest", "trips", "cut.csv", "--json").json()
    assert (counts["received"], counts["accepted"], counts["quarantined"]) == (2000, 1999, 1)


@pytest.mark.parametrize(
    ("settings", "words", "said"),
    [
        ("[recipes.r]\nfeatures = ['a']\nlabel = 'b'\n", "run r", "`dataset`"),
        ("[recipes.r]\ndataset = 'd'\nlabel = 'b'\nfeatures = 'a'\n", "run r", "`$.features`"),
        (
            "[recipes.r]\ndataset = 'd'\nfeatures = ['a']\nlabel = 'b'\nmodle = 'x'\n",
            "run r",
            "`modle`",
        ),
        (
            "[recipes.r]\ndataset = 'd'\nfeatures = ['a']\nlabel = 'b'\nsplit.evalution = 0.2\n",
            "run r",
            "`evalution` - at `$.split`",
        ),
        (
            "[recipes.r]\ndataset = 'd'\nfeatures = ['a']\nlabel = 'b'\nsplit.evaluation = 2\n",
            "ingest d 1.csv",
            "`$.split.evaluation`",
        ),
        ("[recipes.'../r']\ndataset = 'd'\nfeatures = []\nlabel = 'b'\n", "run ../r", "name"),
        ("[serve]\nprot = 1\n", "settings", "serve.port"),
        ("[serve]\nport = 'x'\n", "settings", "serve.port"),
        ("[serve\n", "models", "cannot be read"),
        ("[store]\nurl = 'mysql://u:secret@h/d'\n", "models", "'mysql'"),
    ],
)
def test_wrong_settings_are_told_with_their_path(
    cli: Any, settings: str, words: str, said: str
) -> None:
    """The key, where it is, and never a secret; the code is that of a wrong usage."""
    cli.settings(settings)
    cli.write("1.csv", "a,b\n1,2\n")
    answer = cli(*words.split())
    assert answer.code == 2
    assert said in answer.err.replace("\n", " ")
    assert "secret" not in answer.err


@pytest.mark.parametrize("data", [b"", b"SQLite format 3\x00" + bytes(200), bytes(range(256)) * 64])
def test_a_damaged_store_is_told(live: Any, data: bytes) -> None:
    """One that is no database is damaged; nothing writes over it. An empty file is a new one."""
    store = live.folder / ".tidemill" / "store.db"
    store.write_bytes(data)
    answer = live("models", "--json")
    if not data:
        assert answer.json() == {"versions": [], "history": []}
        return
    assert answer.code == 1
    assert answer.json()["kind"] == "Corrupted"
    assert "is damaged" in answer.json()["error"]
    assert store.read_bytes() == data


def test_a_damaged_model_file_is_told(live: Any) -> None:
    """A stored file that is not what was registered is never used."""
    shutil.rmtree(live.folder / ".tidemill" / "cache")
    for path in (live.folder / ".tidemill" / "files" / "models").rglob("*"):
        if path.is_file():
            path.chmod(0o600)
            path.write_bytes(path.read_bytes()[:-1] + b"x")
    live.write("keys.csv", "carrier,origin,hour\nAA,JFK,7\n")
    answer = live("table", "build", "trips", "--from", "keys.csv", "--json")
    assert answer.code == 1
    assert answer.json()["kind"] == "Corrupted"


@pytest.mark.parametrize("flag", ["--port", "--admin-port"])
def test_a_port_in_use_is_told(live: Any, flag: str) -> None:
    """With the port, before anything is started."""
    other = {"--port": "--admin-port", "--admin-port": "--port"}[flag]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        answer = live("serve", flag, port, other, "0", "--json")
    assert answer.code == 1
    assert port in answer.json()["error"]
    assert answer.json()["kind"] == "Conflict"


def test_what_is_not_foreseen_is_one_sentence(
    cli: Any, monkeypatch: pytest.MonkeyPatch, trips_csv: Csv
) -> None:
    """A bug, or a machine that fails: its kind is told, and the debug log says where."""
    import tidemill.cli.ingest as verb

    def broken(*args: Any, **more: Any) -> Any:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(verb, "take", broken)
    answer = cli("ingest", "trips", "1.csv")
    assert answer.code == 1
    assert "ZeroDivisionError: division by zero" in answer.err
    assert cli("ingest", "trips", "1.csv", "--json").json()["exit_code"] == 1

    def full(*args: Any, **more: Any) -> Any:
        raise OSError(28, "No space left on device", "store.db")

    monkeypatch.setattr(verb, "take", full)
    assert "No space left on device" in cli("ingest", "trips", "1.csv").err
    monkeypatch.setattr(verb, "take", take)
    trips_csv(cli.folder / "1.csv", rows=5)
    assert cli("ingest", "trips", "1.csv").code == 0


def test_a_reader_that_goes_away_is_no_error(cli: Any) -> None:
    """As in ``tidemill settings | head -1``."""
    code = "import sys; sys.stdin.readline()"
    reader = f"{sys.executable} -c '{code}'"
    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m tidemill settings | {reader}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""


def test_one_json_object_is_all_on_standard_output(cli: Any) -> None:
    """Also from a process of its own, where logs and libraries might speak."""
    cli.write("1.csv", "id,x\n1,2\n")
    done = subprocess.run(
        [sys.executable, "-m", "tidemill", "ingest", "d", "1.csv", "--json"],
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert json.loads(done.stdout)["accepted"] == 1
