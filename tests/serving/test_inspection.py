"""What a running server tells of itself: an application's state, and what its processes say."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.control.local import ask_server
from tidemill.foundation.clock import FakeClock
from tidemill.foundation.errors import InvalidInput, NotFound, Unavailable
from tidemill.foundation.home import open_home
from tidemill.foundation.settings import Settings
from tidemill.serving import log_ring
from tidemill.serving.hearing import Hearing
from tidemill.serving.log_ring import LogRing


def lines_of(server: Any, application: str | None = None) -> list[str]:
    where = "" if application is None else f"applications/{application}/"
    found = ask_server(server.home, "GET", f"/admin/v1/{where}logs?limit=1000")
    return [each["line"] for each in found["lines"]]


def test_an_application_is_inspected_as_it_runs(launch: Any) -> None:
    """Versions, what was learned of them, replicas and workers, from every gateway."""
    with launch(TIDEMILL_SERVE_GATEWAYS="2") as server:
        plan = {"placement": "worker", "replicas": 2}
        server.deploy("add", "add", 2, plan=plan, slo_ms=5000.0)
        with server.client() as client:
            for x in range(20):
                client.post("/v1/models/add:predict", json={"instances": [x]}).raise_for_status()
        shown = ask_server(server.home, "GET", "/admin/v1/applications/add")
        assert shown["application"] == "add"
        assert {each["gateway"] for each in shown["gateways"]} == {"gateway-0", "gateway-1"}
        versions = [version for each in shown["gateways"] for version in each["versions"]]
        assert {(each["model"], each["version"]) for each in versions} == {("add", 2)}
        assert any(each["service_time"] is not None for each in versions)
        assert all(
            [replica["alive"] for replica in each["replicas"]] == [True, True] for each in versions
        )
        assert len(shown["workers"]) == 2
        with pytest.raises(NotFound, match="nothing"):
            ask_server(server.home, "GET", "/admin/v1/applications/nothing")


def test_what_processes_say_is_kept_by_application(launch: Any) -> None:
    """A worker's end is among its application's lines; a look after a number shows what is new."""
    with launch() as server:
        plan = {"placement": "worker"}
        server.deploy("add", "add", 1, plan=plan, slo_ms=5000.0)
        (worker,) = [w for w in server.health()["workers"] if w["application"] == "add"]
        seen = ask_server(server.home, "GET", "/admin/v1/applications/add/logs")["newest"]
        os.kill(worker["pid"], signal.SIGKILL)
        server.until(
            lambda: any("ended with" in line for line in lines_of(server, "add")), "the end"
        )
        later = ask_server(server.home, "GET", f"/admin/v1/applications/add/logs?after={seen}")
        assert all(each["number"] > seen for each in later["lines"])
        assert {each["application"] for each in later["lines"]} <= {"add", None}
        assert lines_of(server)
        with pytest.raises(InvalidInput, match="after is 'x'"):
            ask_server(server.home, "GET", "/admin/v1/logs?after=x")


def test_the_door_is_the_owners_and_closes_with_the_server(launch: Any, tmp_path: Any) -> None:
    """Its socket can be opened by the owner alone; without a server there is a clear error."""
    with launch() as server:
        (door,) = server.home.run_path.glob("admin-*.sock")
        assert stat.S_IMODE(door.stat().st_mode) == 0o600
    assert not door.exists()
    with (
        open_home(Settings(home=tmp_path / "home")) as home,
        pytest.raises(Unavailable, match=r"no server of .* runs"),
    ):
        ask_server(home, "GET", "/admin/v1/logs")


@given(
    st.lists(
        st.tuples(st.sampled_from([None, "a", "b"]), st.text(max_size=30)), min_size=1, max_size=60
    ),
    st.integers(0, 70),
    st.integers(1, 20),
)
def test_the_newest_lines_are_kept_and_numbered(
    said: list[tuple[str | None, str]], after: int, limit: int
) -> None:
    """In order, each once, none that was seen; an application's are its own."""
    ring = LogRing(FakeClock(at=5.0))
    for application, line in said:
        ring.add(application, "worker-1", line)
    assert ring.newest == len(said)
    shown = ring.read(None, after=after, limit=limit)
    expected = list(enumerate(said, start=1))[after:][-limit:]
    assert [(each.number, (each.application, each.line)) for each in shown] == expected
    own = [each.line for each in ring.read("a", limit=100) if each.application == "a"]
    assert own == [line for application, line in said if application == "a"]


def test_what_is_kept_is_bounded() -> None:
    """By lines, by bytes, by the length of one line and by applications."""
    ring = LogRing(FakeClock())
    for _ in range(log_ring.MAX_LINES + 10):
        ring.add("many", "w", "x")
    assert len(ring.read("many", limit=10_000)) == log_ring.MAX_LINES
    for _ in range(2 * log_ring.MAX_BYTES // log_ring.MAX_LINE_BYTES):
        ring.add("long", "w", "y" * (2 * log_ring.MAX_LINE_BYTES))
    kept = ring.read("long", limit=10_000)
    assert sum(len(each.line) for each in kept) <= log_ring.MAX_BYTES
    assert max(len(each.line) for each in kept) == log_ring.MAX_LINE_BYTES
    for number in range(log_ring.MAX_APPLICATIONS):
        ring.add(f"app-{number}", "w", "z")
    assert ring.read("many") == []


def test_a_childs_words_are_heard_line_by_line() -> None:
    """However they are cut, and to the last one without an end; what is no text is shown."""

    async def main() -> None:
        heard: list[str] = []
        hearing = Hearing(heard.append)
        writing = hearing.open()
        for part in (b"one\ntw", b"o\n\n", b"\xff!\n", b"z" * 20_000, b"\nlast"):
            os.write(writing, part)
            await asyncio.sleep(0.01)
        os.close(writing)
        hearing.close()
        assert heard[:3] == ["one", "two", "\\xff!"]
        assert set("".join(heard[3:-1])) == {"z"}
        assert heard[-1] == "last"
        hearing.close()

    asyncio.run(main())
