"""Measures what serving costs beside answering: starting, resting, memory, a soak, a useless cache.

    python -m bench.footprint [--smoke | --quick | --brief] [--soak SECONDS]

A framework's own import is measured beside it and taken off what starting and pushing took.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from bench.effort import Effort, parse_effort
from bench.footprint.soak import soak, soak_claims
from bench.measure import Target, check, measure, summarised, take_turns
from bench.ours import Installation, infer_url
from bench.peers import install
from bench.peers.catalog import PEERS, Launch
from bench.questions import read_bodies
from bench.results import about, claim, claims_table, say, write_results
from bench.servers import BenchmarkFailed, Server, free_port, header_fields, run, running
from bench.serving.work import Work, make_work

from tidemill.serving.plan import ServingPlan

FASTAPI = "FastAPI"
USELESS_BYTES = 64 << 10
"""Holds a part of the questions that go round: each is forgotten before it comes again."""
ANSWER_S = 30.0
IDLE_S = {"smoke": 1.0, "quick": 5.0, "brief": 5.0, "full": 60.0}
WITHOUT, WITH = "no cache", "a cache that never helps"
ONNX, SKLEARN = ("onnxruntime",), ("sklearn.ensemble", "joblib")
PUSHES = (*SKLEARN, *ONNX, "onnx", "skl2onnx")


def measured(effort: Effort) -> dict[str, Any]:
    """Runs the benchmark and returns what is written as JSON."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        work = make_work("rf", folder / "rf")
        compiled = Installation(home=folder / "compiled")
        original = Installation(home=folder / "original")
        facts: dict[str, Any] = {"push_s": _timed(lambda: compiled.push(work.model, "rf"))}
        compiled.deploy("rf", "rf")
        original.push_original(work.model, "rf", folder / "model")
        original.deploy("rf", "rf")
        imports = {"push": PUSHES, "compiled": ONNX, "original": SKLEARN}
        facts["import_s"] = {name: _import_s(modules) for name, modules in imports.items()}
        say(f"  pushed in {facts['push_s']:.2f} s, of it {facts['import_s']['push']:.2f} s imports")
        keys: dict[str, str] = {}
        for name, installation in (("compiled", compiled), ("original", original)):
            keys[name] = installation.make_key()
            start = partial(installation.server, "rf", log=folder / f"{name}.log", key=keys[name])
            facts[name] = _served(start, work, effort)
        facts["fastapi"] = _fastapi_pss(work, folder, effort)
        facts["cache"] = _cache(folder, effort)
        log, key = folder / "soak.log", keys["compiled"]
        with running(compiled.server("rf", log=log, key=key)) as server:
            target = _target(server, work)
            check(target)
            found = soak(target, seconds=effort.soak_s)
    claims = _claims(facts) + soak_claims(found)
    return {
        "benchmark": "footprint",
        "effort": effort.name,
        **about(),
        "claims": claims,
        "facts": facts,
        "soak": found,
    }


def main() -> None:
    """Runs the benchmark, prints the claims, and says where the figures are."""
    effort, _ = parse_effort("bench.footprint", __doc__)
    try:
        results = measured(effort)
    except BenchmarkFailed as error:
        sys.exit(f"bench.footprint: {error}")
    print(claims_table(results["claims"]))
    say(f"written to {write_results('footprint', results)}")


def _served(start: Callable[[], Server], work: Work, effort: Effort) -> dict[str, Any]:
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
        pss = server.pss_by_process()
        pss_bytes = sum(pss.values())
        time.sleep(0.5)
        before, rest_s = server.cpu_s(), IDLE_S[effort.name]
        time.sleep(rest_s)
        idle = (server.cpu_s() - before) / rest_s
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
        return summarised(take_turns(targets, repeats=repeats, seconds=effort.seconds, say=say))


def _claims(facts: dict[str, Any]) -> list[dict[str, Any]]:
    imports, compiled, original = facts["import_s"], facts["compiled"], facts["original"]
    cpu = {each["target"]: each["cpu_us_per_request"]["median"] for each in facts["cache"]}
    fastapi = facts["fastapi"].get("pss_bytes")
    over = None if fastapi is None else (original["pss_bytes"] - fastapi) / 1e6
    idle = 100 * max(compiled["idle_share"], original["idle_share"])
    pushed = facts["push_s"] - imports["push"]
    starts = {
        "compiled": compiled["start_s"] - imports["compiled"],
        "not compiled": original["start_s"] - imports["original"],
    }
    return [
        claim("push of the forest, beyond the imports", pushed, "<=", 1.5, "s"),
        *(
            claim(f"serve to first answer, {name}, beyond the import", start, "<=", 1.5, "s")
            for name, start in starts.items()
        ),
        claim("CPU of all processes at rest", idle, "<=", 1.0, "% of a core"),
        claim("memory, forest compiled", compiled["pss_bytes"] / 1e6, "<=", 140, "MB"),
        claim("memory, forest not compiled, beyond FastAPI's", over, "<=", 60, "MB"),
        claim(
            "CPU per request: a cache that never helps / none", cpu[WITH] / cpu[WITHOUT], "<=", 1.1
        ),
    ]


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
