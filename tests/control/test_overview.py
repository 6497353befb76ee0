"""Between two looks, a person sees rates, quantiles and shares; counters that began again count."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator

import pytest
from rich.console import Console

from tidemill.cli.top import view
from tidemill.control.overview import Look, look, overview, quantile
from tidemill.foundation.errors import Unavailable
from tidemill.foundation.instruments import Instruments, render
from tidemill.serving.measures import VersionMeasures


def shown(*versions: tuple[int, int, float], at: float, missed: int = 0) -> Look:
    """A look at versions of ``app`` that answered so many queries in so many seconds each."""
    from prometheus_client.parser import text_string_to_metric_families

    instruments = Instruments()
    for version, count, seconds in versions:
        of = VersionMeasures(instruments, "app", version)
        of.outcomes["met"].value += count - missed
        of.outcomes["missed"].value += missed
        of.answers["model"].value += 3 * count
        of.answers["cache"].value += count
        of.seconds.observe_many(seconds, count)
        for name, level in (("tidemill_queue_rows", 7), ("tidemill_replicas_alive", 2)):
            instruments.gauge(name, "level", ("application", "version")).of(
                "app", str(version)
            ).value = level
    cpu = instruments.counter("tidemill_process_cpu_seconds", "CPU", ("process",))
    cpu.of("gateway-0").value = at / 4
    memory = instruments.gauge("tidemill_process_resident_memory_bytes", "memory", ("process",))
    memory.of("gateway-0").value = 50e6
    samples = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(render([instruments.snapshot()]).decode())
        for sample in family.samples
    }
    refused = [{"application": "other", "reason": "no such \x1b[2Jfile"}]
    health = {"port": 8080, "revision_live": 4, "refused": refused}
    return Look(at=at, samples=samples, health=health)


def test_two_looks_make_rates_and_shares() -> None:
    """Only what happened between them counts; levels are those of the second."""
    before = shown((1, 100, 0.3), at=10.0)
    after = shown((1, 100, 0.3), (2, 50, 0.002), at=12.0, missed=5)
    made = overview(before, after)
    assert (made.port, made.revision, made.seconds) == (8080, 4, 2.0)
    old, new = made.applications
    assert (old.version, new.version) == ("1", "2")
    assert new.queries_per_s == 25.0
    assert new.sources == {"model": 0.75, "cache": 0.25}
    assert new.attained == pytest.approx(0.9)
    assert 1.0 <= (new.p50_ms or 0) <= (new.p99_ms or 0) <= 2.5
    assert (new.queue_rows, new.replicas_alive, new.batches_out) == (7, 2, None)
    assert (old.queries_per_s, old.p99_ms, old.sources) == (0.0, None, {})
    (process,) = made.processes
    assert (process.process, process.cpu, process.memory_bytes) == ("gateway-0", 0.25, 50_000_000)
    assert made.refused[0].startswith("other: ")


def test_a_counter_that_began_again_counts_from_nothing() -> None:
    """A gateway that was replaced makes no negative rate."""
    made = overview(shown((1, 1000, 0.01), at=0.0), shown((1, 30, 0.01), at=1.0))
    assert made.applications[0].queries_per_s == 30.0


def test_quantiles_lie_in_their_bucket() -> None:
    """Linear within a bucket; beyond the last bound, on it; of nothing, none."""
    empty = shown((1, 0, 0.0), at=0.0)
    assert quantile(empty, "tidemill_query_seconds", 0.5, version="1") is None
    made = shown((1, 10, 0.0007), at=0.0)
    assert quantile(made, "tidemill_query_seconds", 0.5, version="1") == pytest.approx(0.00075)
    assert quantile(made, "tidemill_query_seconds", 1.0, version="1") == pytest.approx(0.001)
    slow = shown((1, 10, 99.0), at=0.0)
    assert quantile(slow, "tidemill_query_seconds", 0.5, version="1") == 10.0


@pytest.mark.parametrize("width", [80, 140])
def test_a_view_fits_its_terminal(width: int) -> None:
    """Every number is there, no line is longer than the terminal, and data commands nothing."""
    made = overview(shown((1, 0, 0.1), at=0.0), shown((1, 40, 0.1), at=1.0))
    console = Console(width=width, force_terminal=True)
    with console.capture() as captured:
        console.print(view(made, width))
    assert "\x1b[2J" not in captured.get()
    console = Console(width=width)
    with console.capture() as captured:
        console.print(view(made, width))
    lines = captured.get().splitlines()
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    for word in ("app", "40.0", "100%", "gateway-0", "25%", "50", "other"):
        assert word in text
    assert ("model 75%" in text) == (width == 140)


class Other(http.server.BaseHTTPRequestHandler):
    """Something that is no Tidemill."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/admin/v1/health" else 404)
        self.send_header("content-length", "5")
        self.end_headers()
        self.wfile.write(b"hello")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def other() -> Iterator[int]:
    """The port of some other server."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Other) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def test_no_server_is_said_plainly(other: int) -> None:
    """Nobody there, or somebody else: what is wrong and what to do."""
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(Unavailable, match=f"no server answers at 127.0.0.1:{port}.*tidemill serve"):
        look(port, 0.0)
    with pytest.raises(Unavailable, match=f"at 127.0.0.1:{other} is not Tidemill's admin API"):
        look(other, 0.0)
