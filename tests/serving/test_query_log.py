"""The query log has one line for each query that it is told to have, within its limit."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tidemill.foundation.errors import DeadlineExceeded, InvalidInput, TidemillError
from tidemill.foundation.instruments import Instruments
from tidemill.foundation.logs import configure_logs
from tidemill.foundation.settings import LogSettings
from tidemill.serving.flight import Flight
from tidemill.serving.query import Query
from tidemill.serving.query_log import QueryLog

SECRET = 271828.1828


def query(took_s: float, error: TidemillError | None = None) -> tuple[Query, float]:
    """A query that has ended, with the moment."""
    made = Query(
        inputs={"salary": np.array([SECRET])},
        n=1,
        arrived=100.0,
        deadline=100.5,
        done=lambda _: None,
    )
    made.state = SimpleNamespace(name="app")
    made.request_id, made.version, made.error = "ab" * 16, 3, error
    replica: Any = SimpleNamespace(name="worker-1")
    Flight([made], 7, replica, 100.0 + took_s / 4).note().returned = 100.0 + took_s
    return made, 100.0 + took_s


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """What was written to standard error since the last look."""
    return [json.loads(each) for each in capsys.readouterr().err.splitlines()]


@pytest.fixture(autouse=True)
def _json_logs() -> Any:
    configure_logs("info", "json")
    yield
    configure_logs()


def test_a_line_says_all_but_the_input(capsys: pytest.CaptureFixture[str]) -> None:
    """Identifier, application, version, rows, times and place; no name or value of an input."""
    log = QueryLog(LogSettings(queries="all"), Instruments())
    log.ended(*query(0.4))
    (said,) = lines(capsys)
    assert said.pop("timestamp")
    assert said == {
        "event": "query.answered",
        "level": "info",
        "module": "serving.queries",
        "prediction_id": "ab" * 16,
        "application": "app",
        "version": 3,
        "rows": 1,
        "ms": 400.0,
        "source": "model",
        "queue_ms": 100.0,
        "compute_ms": 300.0,
        "batch_rows": 7,
        "replica": "worker-1",
    }


def test_an_error_says_its_kind_and_not_its_words(capsys: pytest.CaptureFixture[str]) -> None:
    """What an error quotes may be somebody's data."""
    log = QueryLog(LogSettings(), Instruments())
    log.ended(*query(0.6, InvalidInput(f"column 'salary' has {SECRET}")))
    log.ended(*query(0.6, DeadlineExceeded("too late")))
    written = capsys.readouterr().err
    assert "salary" not in written
    assert str(SECRET) not in written
    wrong, late = (json.loads(each) for each in written.splitlines())
    assert (wrong["event"], wrong["error"], wrong["slo"]) == (
        "query.failed",
        "InvalidInput",
        "failed",
    )
    assert (late["level"], late["error"], late["slo"]) == ("warning", "DeadlineExceeded", "missed")


@pytest.mark.parametrize(
    ("which", "every", "written"),
    [
        ("errors", False, ["query.failed"]),
        ("slow", True, ["query.answered", "query.failed"]),
        ("all", True, ["query.answered", "query.answered", "query.failed"]),
    ],
)
def test_the_setting_says_which(
    which: Any, written: list[str], capsys: pytest.CaptureFixture[str], *, every: bool
) -> None:
    """Errors alone, what was slow as well, or everything."""
    log = QueryLog(LogSettings(queries=which, slow_ms=50), Instruments())
    assert log.every is every
    for took_s, error in ((0.01, None), (0.2, None), (0.01, InvalidInput("wrong"))):
        ended, now = query(took_s, error)
        if log.every or error is not None:  # as the processor does
            log.ended(ended, now)
    assert [each["event"] for each in lines(capsys)] == written


def test_lines_are_bounded_and_the_rest_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    """A flood of errors writes so many lines a second and no more; none is lost uncounted."""
    instruments = Instruments()
    log = QueryLog(LogSettings(queries_per_s=5), instruments)
    failed, now = query(0.1, InvalidInput("wrong"))
    for _ in range(100):
        log.ended(failed, now)
    assert len(lines(capsys)) == 5
    assert instruments.snapshot()["tidemill_query_logs_suppressed"]["rows"] == [[[], 95]]
    log.ended(failed, now + 0.5)
    log.ended(failed, now + 0.5)
    log.ended(failed, now + 0.5)
    assert len(lines(capsys)) == 2
