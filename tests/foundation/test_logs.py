"""Logs go to standard error only, readable by whoever reads them."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tidemill.foundation import logs
from tidemill.foundation.logs import configure_logs, log


@pytest.fixture(autouse=True)
def unconfigured() -> Iterator[None]:
    """Logs as they are before anybody configured them, and again afterwards."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    before = vars(logs._current).copy()
    vars(logs._current).update(vars(logs._Configuration()))
    yield
    vars(logs._current).update(before)
    root.handlers[:] = handlers
    root.setLevel(level)


def test_json_where_nobody_watches(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a terminal a line is one JSON object, on standard error."""
    log("tidemill.x").info("started", port=8080)
    out, err = capsys.readouterr()
    assert out == ""
    event = json.loads(err)
    assert (event["event"], event["port"], event["level"]) == ("started", 8080, "info")
    assert event["module"] == "tidemill.x"
    assert event["timestamp"].endswith("Z")


def test_text_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    """Text is asked for by name where there is no terminal."""
    configure_logs("info", "text")
    log("tidemill.x").warning("slow", seconds=3)
    assert "slow" in capsys.readouterr().err


def test_levels(capsys: pytest.CaptureFixture[str]) -> None:
    """What is under the level is not written, by loggers made before it was set too."""
    logger = log("tidemill.x")
    configure_logs("warning", "json")
    logger.info("quiet")
    logger.warning("loud")
    assert [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()] == ["loud"]


def test_libraries_speak_the_same_way(capsys: pytest.CaptureFixture[str]) -> None:
    """A library's warning is one of our lines; its chatter is not passed on."""
    configure_logs("debug", "json")
    configure_logs("debug", "json")
    logging.getLogger("library").info("chatter")
    logging.getLogger("library").warning("trouble with %s", "it")
    out, err = capsys.readouterr()
    assert out == ""
    event = json.loads(err)
    assert (event["event"], event["logger"]) == ("trouble with it", "library")


def test_secrets_are_masked(capsys: pytest.CaptureFixture[str]) -> None:
    """A password in a URL never reaches a log."""
    log("tidemill.x").info("opened", url="postgresql://a:hunter2@b/c")
    assert "hunter2" not in capsys.readouterr().err


def test_an_exception_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """An exception is a field of its event, not a spill of lines."""
    try:
        int("nothing")
    except ValueError:
        log("tidemill.x").exception("failed")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert json.loads(lines[0])["exception"][0]["exc_type"] == "ValueError"


def test_nothing_is_imported_before_the_first_line() -> None:
    """A command that logs nothing does not pay for the logging library."""
    script = (
        "import sys; from tidemill.foundation.logs import configure_logs, log\n"
        "configure_logs('info', 'json'); logger = log('x')\n"
        "print('structlog' in sys.modules); logger.info('now'); print('structlog' in sys.modules)"
    )
    found = subprocess.run((sys.executable, "-c", script), capture_output=True, check=True)
    assert found.stdout.split() == [b"False", b"True"]
    assert json.loads(found.stderr)["event"] == "now"


def test_bound_fields_stay(capsys: pytest.CaptureFixture[str]) -> None:
    """A logger can be given fields that all its lines carry."""
    log("tidemill.x").bind(request="r1").info("done")
    assert json.loads(capsys.readouterr().err)["request"] == "r1"
