"""Measures what serving costs beside answering: starting, resting, memory, a soak, a useless cache.

    python -m bench.footprint [--smoke | --quick | --brief] [--soak SECONDS] [--only PART]

Parts: the forest ``compiled`` and as it is (``original``), ``fastapi`` beside it, ``cache``, and
``soak``. A framework's own import is measured beside it and taken off what starting and pushing
took.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Collection
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bench.effort import Effort, chosen_effort, effort_parser
from bench.footprint.claims import PARTS, WITH, WITHOUT, claims
from bench.footprint.soak import CHORES, soak
from bench.measure import Target, check, measure, summarised
from bench.ours import Installation, infer_url
from bench.peers import install
from bench.peers.catalog import PEERS, Launch
from bench.questions import read_bodies
from bench.results import Record, claims_table, say
from bench.servers import BenchmarkFailed, Server, free_port, header_fields, run, running
from bench.serving.work import Work, make_work
from bench.turns import take_turns

from tidemill.serving.plan import ServingPlan

FASTAPI = "FastAPI"
USELESS_BYTES = 64 << 10
"""Holds a part of the questions that go round: each is forgotten before it comes again."""
ANSWER_S, CHORES_S = 30.0, 60.0
IDLE_S = {"smoke": 1.0, "quick": 5.0, "brief": 5.0, "full": 60.0}
ONNX, SKLEARN = ("onnxruntime",), ("sklearn.ensemble", "joblib")
PUSHES = (*SKLEARN, *ONNX, "onnx")


@dataclass(frozen=True, kw_only=True)
class Forest:
    """The forest in two installations, compiled and as it is, each with the key that it asks."""

    work: Work
    folder: Path
    compiled: Installation
    original: Installation
    keys: dict[str, str]

    def server(self, name: str, log: str) -> Server:
        """Returns one of the two servers, not yet started."""
        installation: Installation = getattr(self, name)
        return installation.server("rf", log=self.folder / f"{log}.log", key=self.keys[name])


def run_parts(effort: Effort, only: Collection[str] = PARTS) -> Record:
    """Runs parts of the benchmark; what is found is on disk as it comes, a failure is named."""
    record = Record(
        "footprint",
        effort=effort.name,
        repeats=effort.repeats,
        seconds=effort.seconds,
        facts={},
        failed={},
        finished=False,
    )
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        parts: dict[str, Callable[[], Any]] = {"cache": partial(_cache, folder, effort)}
        if set(only) - parts.keys():
            forest = _pushed(folder, effort, record.values["facts"])
            parts |= {
                "compiled": partial(_served, forest, "compiled", effort),
                "original": partial(_served, forest, "original", effort),
                "fastapi": partial(_fastapi_pss, forest.work, folder, effort),
                "soak": partial(_soaked, forest, effort),
            }
        for name in (each for each in PARTS if each in only):
            try:
                record.values["facts"][name] = parts[name]()
            except BenchmarkFailed as error:
                say(f"{name} FAILED: {error}")
                record.values["failed"][name] = str(error)
            record.write(claims=claims(record.values["facts"]))
    record.write(finished=not record.values["failed"] and set(PARTS) <= set(only))
    return record


def main() -> None:
    """Runs the benchmark, prints the claims, and says where the figures are."""
    parser = effort_parser("bench.footprint", __doc__)
    parser.add_argument("--only", choices=PARTS, action="append", help="only this part")
    options = parser.parse_args()
    try:
        record = run_parts(chosen_effort(options), options.only or PARTS)
    except BenchmarkFailed as error:
        sys.exit(f"bench.footprint: {error}")
    print(claims_table(record.values["claims"]))
    say(f"written to {record.path}")
    if record.values["failed"]:
        sys.exit(f"bench.footprint: failed: {', '.join(record.values['failed'])}")


def _pushed(folder: Path, effort: Effort, facts: dict[str, Any]) -> Forest:
    work = make_work("rf", folder / "rf")
    compiled = Installation(home=folder / "compiled")
    original = Installation(home=folder / "original")
    # Each into a home that knows nothing yet: the same model again would be compiled no more.
    fresh = [Installation(home=folder / f"pushed{each}") for each in range(1, effort.repeats)]
    pushes = [_timed(partial(each.push, work.model, "rf")) for each in (*fresh, compiled)]
    compiled.deploy("rf", "rf")
    original.push_original(work.model, "rf", folder / "model")
    original.deploy("rf", "rf")
    imports = {"push": PUSHES, "compiled": ONNX, "original": SKLEARN}
    facts["push_s"], facts["pushes_s"] = statistics.median(pushes), pushes
    facts["import_s"] = {name: _import_s(modules) for name, modules in imports.items()}
    say(f"  pushed in {facts['push_s']:.2f} s, of it {facts['import_s']['push']:.2f} s imports")
    keys = {"compiled": compiled.make_key(), "original": original.make_key()}
    return Forest(work=work, folder=folder, compiled=compiled, original=original, keys=keys)


def _soaked(forest: Forest, effort: Effort) -> dict[str, Any]:
    with running(forest.server("compiled", "soak")) as server:
        target = _target(server, forest.work)
        check(target)
        return soak(target, seconds=effort.soak_s)


def _served(forest: Forest, name: str, effort: Effort) -> dict[str, Any]:
    work, start = forest.work, partial(forest.server, name, name)
    starts = []
    for _ in range(effort.repeats):
        server = start()
        with ExitStack() as stack:
            stack.callback(server.stop)
            starts.append(_timed(partial(_first_answer, server, work)))
    with running(start()) as server:
        target = _target(server, work)
        check(target)
        measure(target, connections=64, seconds=effort.seconds)
        pss = _at_rest(server)
        pss_bytes = sum(pss.values())
        time.sleep(0.5)
        before, rest_s = server.cpu_s() + server.ended_cpu_s(), IDLE_S[effort.name]
        time.sleep(rest_s)
        idle = (server.cpu_s() + server.ended_cpu_s() - before) / rest_s
        facts = {
            "start_s": statistics.median(starts),
            "starts_s": starts,
            "pss_bytes": pss_bytes,
            "pss_by_process": pss,
            "idle_share": idle,
        }
    say(
        f"  first answer after {facts['start_s']:.2f} s, {pss_bytes / 1e6:.0f} MB, "
        f"{100 * idle:.2f}% of a core at rest"
    )
    return facts


def _at_rest(server: Server) -> dict[str, int]:
    """Returns the memory of each process once no chore runs beside them any more."""
    deadline = time.monotonic() + CHORES_S
    while time.monotonic() < deadline:
        pss = server.pss_by_process()
        if not any(CHORES in name for name in pss):
            return pss
        time.sleep(0.5)
    raise BenchmarkFailed(f"its chores do not end within {CHORES_S:.0f} s: {pss}")


def _first_answer(server: Server, work: Work) -> None:
    body = read_bodies(work.bodies["v2"])[0].data
    question = urllib.request.Request(
        infer_url(server, "rf"), data=body, headers=header_fields(server.headers)
    )
    server.start()
    deadline = time.monotonic() + ANSWER_S
    while True:
        try:
            with urllib.request.urlopen(question, timeout=5):
                return
        except urllib.error.HTTPError as error:
            error.close()
        except OSError:
            pass
        if time.monotonic() > deadline or server.process.poll() is not None:
            raise BenchmarkFailed(f"no answer within {ANSWER_S:.0f} s:\n{server.tail()}")
        time.sleep(0.005)


def _fastapi_pss(work: Work, folder: Path, effort: Effort) -> dict[str, Any]:
    reason = install.install("fastapi")
    if reason is not None:
        say(f"LEFT OUT: FastAPI: {reason}")
        return {"left_out": reason}
    peer = next(each for each in PEERS if each.name == FASTAPI)
    port, place = free_port(), folder / "fastapi"
    place.mkdir()
    launch = Launch(workload=work.name, columns=work.columns, model=work.model, folder=place)
    with running(peer.server(launch, port)) as server:
        target = Target(
            name=FASTAPI,
            server=server,
            url=f"http://127.0.0.1:{port}{peer.path}",
            format=peer.format,
            bodies=work.bodies[peer.body],
            expected=work.expected,
        )
        check(target)
        measure(target, connections=64, seconds=effort.seconds)
        return {"pss_bytes": server.pss_bytes()}


def _cache(folder: Path, effort: Effort) -> list[dict[str, Any]]:
    work = make_work("sum", folder / "sum")
    installation = Installation(home=folder / "cache")
    installation.push(work.model, "without")
    for name, size in (("without", 0), ("with", USELESS_BYTES)):
        plan = ServingPlan(cache_bytes=size, placement="gateway")
        installation.deploy(name, "without", plan)
    log, key = folder / "cache.log", installation.make_key()
    with running(installation.server("with", log=log, key=key)) as server:
        targets = [
            Target(
                name=name,
                server=server,
                url=infer_url(server, application),
                format="v2",
                bodies=work.bodies["v2"],
                expected=work.expected,
                connections=(64,),
            )
            for name, application in ((WITHOUT, "without"), (WITH, "with"))
        ]
        for target in targets:
            check(target)
        repeats = max(2, effort.repeats)
        return summarised(take_turns(targets, repeats=repeats, seconds=effort.seconds))


def _target(server: Server, work: Work) -> Target:
    return Target(
        name="tidemill",
        server=server,
        url=infer_url(server, "rf"),
        format="v2",
        bodies=work.bodies["v2"],
        expected=work.expected,
    )


def _timed(act: Callable[[], None]) -> float:
    start = time.perf_counter()
    act()
    return time.perf_counter() - start


def _import_s(modules: tuple[str, ...]) -> float:
    """Returns what importing takes beside Python's own start, once the files are in memory."""
    found = {}
    for code in (f"import {', '.join(modules)}", "pass"):
        run((sys.executable, "-c", code))
        found[code] = min(_timed(partial(_python, code)) for _ in range(3))
    importing, nothing = found.values()
    return importing - nothing


def _python(code: str) -> None:
    run((sys.executable, "-c", code))


if __name__ == "__main__":
    main()
