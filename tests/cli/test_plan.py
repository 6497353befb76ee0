"""``tidemill plan`` from a terminal: of requirements, and of an application with a trace."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
import tomllib
import urllib.request
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tidemill.control.audit import read_audit
from tidemill.control.deployments import get_deployment
from tidemill.data.ledger import LedgerWriter, PredictionRecord
from tidemill.foundation.clock import iso
from tidemill.foundation.home import Home, open_home
from tidemill.foundation.settings import Settings
from tidemill.planning.costs import Costs
from tidemill.planning.latency import LatencyLaw
from tidemill.recipes.rehearsal.kept import keep_costs
from tidemill.tables.catalog import get_table

REQUIREMENTS = """
[traffic]
rate_rps = {rate}
cardinality = {cardinality}
zipf_exponent = {exponent}
[promise]
slo_ms = 50.0
max_age_s = {age}
refresh_s = {age}
[model]
row_ms = {row_ms}
"""
FIELDS = (
    "choice head_keys replicas batch_limit cache_entries cpu_us_per_query bytes cost_per_million "
    "p99_ms mean_ms reasons alternatives"
)


def planned(cli: Any, *flags: str, **declared: float) -> dict[str, Any]:
    """Returns the plan of requirements: few keys, asked often, that cost much, unless declared."""
    plain = {"rate": 50.0, "cardinality": 200, "exponent": 0.5, "age": 86400.0, "row_ms": 4.0}
    cli.write("r.toml", REQUIREMENTS.format(**{**plain, **declared}))
    said = cli("plan", "--requirements", "r.toml", *flags, "--json")
    assert said.code == 0, said.out
    found: dict[str, Any] = said.json()
    return found


def test_the_choice_follows_the_traffic_and_what_things_cost(cli: Any) -> None:
    """Few keys are stored whole; many that hardly repeat, or age soon, are computed."""
    few = planned(cli)
    assert set(FIELDS.split()) <= few.keys()
    assert (few["choice"], few["head_keys"], len(few["reasons"])) == ("static", 200, 2)
    assert planned(cli, cardinality=10_000_000, exponent=0.0)["choice"] == "dynamic"
    assert planned(cli, age=0.5)["choice"] == "dynamic"
    assert planned(cli, "--memory-gb-month", "1e9")["choice"] == "dynamic"


def test_a_choice_demands_something_of_training(cli: Any) -> None:
    """When inputs are known, how slow the model may be, and where the choice flips: it does."""
    static = planned(cli)["demands"]
    assert (static["at_query"], static["ahead"]) == (False, True)
    assert static["refreshed_every_s"] == pytest.approx(86400.0, rel=0.01)
    low, high = static["same_choice_ms"]
    assert (low, high > 4.0) == (None, True)
    assert planned(cli, row_ms=1.5 * high)["choice"] != "static"
    assert planned(cli, row_ms=high / 1.5)["choice"] == "static"
    dynamic = planned(cli, cardinality=10_000_000, exponent=0.0)["demands"]
    assert (dynamic["at_query"], dynamic["ahead"]) == (True, False)
    at_most = dynamic["row_ms_at_most"]
    slower = planned(cli, cardinality=10_000_000, exponent=0.0, row_ms=1.3 * at_most)
    assert (at_most > 4.0, slower["feasible"]) == (True, False)
    assert any("up to" in each for each in dynamic["sentences"])


def test_what_comes_with_the_query_cannot_be_kept(cli: Any) -> None:
    """An input that no key determines rules tables and caches out; a wrong word is told."""
    asked = REQUIREMENTS.format(rate=50.0, cardinality=200, exponent=0.5, age=86400.0, row_ms=4.0)
    cli.write("r.toml", asked + '[inputs]\nairport = "key"\nsize = "ahead"\n')
    assert cli("plan", "--requirements", "r.toml", "--json").json()["choice"] == "static"
    cli.write("r.toml", asked + '[inputs]\nairport = "key"\nweather = "at query"\n')
    found = cli("plan", "--requirements", "r.toml", "--json").json()
    assert (found["choice"], found["late"], len(found["alternatives"])) == (
        "dynamic", ["weather"], 1
    )  # fmt: skip
    assert "'weather' comes with the query" in found["reasons"][1]
    said = cli("plan", "--requirements", "r.toml")
    assert "demands of training" in said.out
    cli.write("r.toml", asked + '[inputs]\nweather = "late"\n')
    wrong = cli("plan", "--requirements", "r.toml", "--json").json()
    assert (wrong["exit_code"], "late" in wrong["error"]) == (2, True)


def test_people_get_reasons_a_table_and_a_page(cli: Any) -> None:
    """And nothing that is a script."""
    planned(cli)
    said = cli("plan", "--requirements", "r.toml", "--report", "plan.html")
    assert said.code == 0
    assert "Static: a table of all 200 keys" in " ".join(said.out.split())
    page = (cli.folder / "plan.html").read_text()
    assert (page.count("<svg"), "<script" in page) == (2, False)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[traffic]\nrate_rps = 0\ncardinality = 1\n", "rate_rps"),
        ("[traffic]\nrate_rps = 1\ncardinality = 1\n", "how queries share their keys"),
        ("[traffic]\nrate = 1\n", "traffic.rate is unknown"),
        ("[trafic]\n", "'trafic' is unknown"),
        ("rate_rps = 1\n", "Known: traffic, promise, model, prices, inputs."),
        ("[traffic]\nrate_rps = inf\ncardinality = 9\nzipf_exponent = 1\n", "traffic.rate_rps"),
        ("[traffic]\nrate_rps = 1\ncardinality = 9\ntop = [[1, 2.0]]\n", "traffic.top[0][1]"),
        (
            "[traffic]\nrate_rps = 1\ncardinality = 9\ntop = [[5, 0.5], [2, 0.4]]\n",
            "traffic.top has [2, 0.4] after [5, 0.5]",
        ),
        ("[promise]\nslo_ms = inf\n[traffic]\nrate_rps = 1\ncardinality = 9\n", "promise.slo_ms"),
        ("not toml", "cannot be read"),
    ],
)
def test_wrong_requirements_are_told(cli: Any, text: str, said: str) -> None:
    """With the field, and the nearest that is known."""
    cli.write("bad.toml", text)
    found = cli("plan", "--requirements", "bad.toml", "--json").json()
    assert found["exit_code"] == 2
    assert said in found["error"]


def test_an_application_is_planned_from_a_trace_and_applied(live: Any) -> None:
    """Its model's measured time, its promise; the document goes into service as it is."""
    random = np.random.default_rng(0)
    times, hours = np.cumsum(random.exponential(0.01, 3000)), random.zipf(1.3, 3000) % 24
    pq.write_table(pa.table({"time": times, "hour": hours}), live.folder / "t.parquet")
    flags = ("--trace", "t.parquet", "--key", "hour", "--out", "plan.toml")
    found = live("plan", "trips", *flags, "--json").json()
    assert found["choice"] in {"static", "dynamic", "hybrid"}
    document = tomllib.loads((live.folder / "plan.toml").read_text())
    assert document["applications"]["trips"]["plan"]["max_batch"] == found["batch_limit"]
    assert live("apply", "plan.toml", "--yes").code == 0
    assert live("plan", "trips", *flags, "--max-age-s", "600", "--json").code == 0
    assert live("apply", "plan.toml", "--yes").code == 0
    (shown,) = live("describe", "trips", "--json").json()["applications"].values()
    assert (shown["max_age_s"], shown["plan"]["cache_ttl_s"]) == (600.0, 600.0)
    again = live("plan", "trips", *flags, "--json").json()
    assert again["promise"]["max_age_s"] == 600.0
    wrong = live("plan", "trips", *flags, "--slo-ms", "-1", "--json").json()
    assert wrong["exit_code"] == 2
    for flags in ((), ("trips", "--requirements", "r.toml")):
        assert live("plan", *flags, "--json").json()["exit_code"] == 2


def test_what_is_live_is_drawn(live: Any) -> None:
    """In words, as a chart, as one JSON object and as a page; of one application only."""
    words = live("describe", "trips", "--architecture")
    assert (words.code, "edge → table: " in words.out) == (0, True)
    assert live("describe", "trips", "--diagram").out.startswith("flowchart LR\n")
    found = live("describe", "trips", "--page", "a.html", "--json").json()
    assert found["architecture"]["versions"][0]["table"]["rows"] > 0
    assert found["diagram"].startswith("flowchart LR\n")
    assert "<svg" in (live.folder / "a.html").read_text()
    assert live("describe", "--diagram", "--json").json()["exit_code"] == 2
    shown = live("table", "show", "trips", "--json").json()
    assert (shown["application"], shown["asked"], shown["stale"]) == ("trips", None, False)
    assert "asked: nothing lately" in live("table", "show", "trips").out


def test_costs_that_another_simulation_was_fitted_to_are_told_and_not_taken(live: Any) -> None:
    """The plan goes by what is typical, as if nothing was measured, and says to measure again."""
    with open_home(Settings(home=live.folder / ".tidemill")) as home:
        asked_six(home)
        answers = get_deployment(home, "trips").versions[0]
        costs = Costs(law=LatencyLaw(a_s=1.0, b_s=1.0))
        keep_costs(home, answers.model, answers.version, costs)
        plan = ("plan", "trips", "--slo-ms", "60000", "--json")
        assert live(*plan).json()["costs_from"].startswith("measured on this machine at")
        (path,) = (home.cache_path / "costs").iterdir()
        path.chmod(0o600)
        path.write_text(json.dumps({**json.loads(path.read_bytes()), "law": 0}))
        found = live(*plan).json()
    assert "another simulation than this one's: run --calibrate again" in found["costs_from"]
    assert found["costs"]["law"]["a_s"] < 1.0


def asked_six(home: Home) -> None:
    """Writes to the ledger that six questions were asked, fifty times each."""
    keys = [(carrier, hour) for carrier in ("UA", "B6") for hour in (5, 6, 7)]
    now = home.clock.now()
    with LedgerWriter(home.ledger_path, f"gateway-{now:.0f}") as ledger:
        for number in range(300):
            carrier, hour = keys[number % len(keys)]
            inputs = {"carrier": carrier, "origin": "EWR", "hour": hour}
            ledger.append_predictions(
                [
                    PredictionRecord(
                        request_id=f"r{number}",
                        time=now - 1.0 + number / 1000.0,
                        application="trips",
                        version=1,
                        source="model",
                        inputs={name: np.array([value]) for name, value in inputs.items()},
                        outputs={"label": np.array([0])},
                        n=1,
                    )
                ]
            )


def test_a_plan_is_watched_proposed_and_made(live: Any) -> None:
    """What gains enough is said once, as a line, and made live where that is allowed, audited;
    what does not gain says nothing.
    """
    with open_home(Settings(home=live.folder / ".tidemill")) as home:
        asked_six(home)

        def watched(*flags: str) -> Any:
            once = ("--examinations", "1", "--interval-s", "0", "--confirm", "1", "--json")
            return live("plan", "trips", "--watch", *once, *flags)

        dear = ("--memory-gb-month", "1e9", "--cpu-hour", "1e-9")
        proposed = watched(*dear).json()
        assert (proposed["chosen"]["choice"], proposed["revision"]) == ("dynamic", None)
        change = watched(*dear, "--apply")
        made = change.json()
        assert f"{iso(made['at'])} trips: propose" in change.err
        after = get_deployment(home, "trips")
        assert (made["revision"], made["error"]) == (after.revision, None)
        assert after.versions[0].table is None
        entry = read_audit(home.store, subject="trips")[0]
        assert (entry.verb, entry.by) == ("apply", "plan --watch")
        quiet = watched(*dear)
        assert (quiet.code, quiet.out) == (0, "")
        assert "keep" in quiet.err
        cheap = ("--memory-gb-month", "1e-9", "--disk-gb-month", "1e-9", "--cpu-hour", "1e9")
        static = watched(*cheap, "--max-age-s", "3600", "--apply").json()
        live_now = get_deployment(home, "trips")
        table = live_now.versions[0].table
        assert (live_now.max_age_s, live_now.plan.cache_ttl_s) == (3600.0, 3600.0)
        assert (static["chosen"]["choice"], static["error"]) == ("static", None)
        assert table is not None
        assert get_table(home.store, table).rows == 6
        assert watched("--window-s", "0.001").out == ""
    for wrong in (
        *(("--gain", "0"), ("--confirm", "0"), ("--examinations", "0"), ("--out", "x")),
        *(("--key", "hour"), ("--interval-s", "nan"), ("--represent", "carrier=text")),
    ):
        assert live("plan", "trips", "--watch", *wrong, "--json").json()["exit_code"] == 2
    assert live("plan", "trips", "--apply", "--json").json()["exit_code"] == 2


def test_a_server_measures_the_workload_that_a_watched_plan_goes_by(live: Any) -> None:
    """Again and again, by a chore beside the queries, as metrics and for whoever examines a plan:
    nobody who does so within the interval reads a day of the ledger himself.
    """
    path = live.folder / ".tidemill"
    with open_home(Settings(home=path)) as home:
        asked_six(home)
    process = subprocess.Popen(
        [sys.executable, "-m", "tidemill", "serve", "--json", "--port=0", "--admin-port=0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert process.stdout is not None
        admin_port = json.loads(process.stdout.readline())["admin_port"]
        shown = 'tidemill_workload_keys{application="trips"} 6'
        deadline = time.monotonic() + 60.0
        while shown not in _text(f"http://127.0.0.1:{admin_port}/metrics"):
            assert time.monotonic() < deadline
            time.sleep(0.1)
    finally:
        process.terminate()
        process.communicate(timeout=30)
    watch = ("plan", "trips", "--watch", "--examinations", "1")
    shutil.rmtree(path / "ledger")
    assert "trips: keep" in live(*watch, "--gain", "0.99").err
    for other in (("--interval-s", "0.001"), ("--window-s", "1000")):
        assert "there is no request" in live(*watch, *other).err
    shutil.rmtree(path / "cache" / "workloads")
    assert "there is no request" in live(*watch).err


def _text(url: str) -> str:
    with urllib.request.urlopen(url, timeout=20) as response:
        return str(response.read(), "utf-8")


def test_of_two_that_watch_a_plan_one_changes_it(live: Any) -> None:
    """Both have something to propose at the same moment: one makes it live, once, and the other
    says that somebody does; who only watches is told what would be better, and is in nobody's way.
    """
    once = ("--examinations", "3", "--interval-s", "0.5", "--confirm", "1", "--json")
    dear = ("--memory-gb-month", "1e9", "--cpu-hour", "1e-9")
    command = (sys.executable, "-m", "tidemill", "plan", "trips", "--watch", *once, *dear)

    def begun(*flags: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*command, *flags],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    with open_home(Settings(home=live.folder / ".tidemill")) as home:
        asked_six(home)
        before = get_deployment(home, "trips")
        ended = []
        for each in [begun("--apply"), begun("--apply"), begun()]:
            with each:
                said, _ = each.communicate(timeout=120)
                ended.append((each.returncode, [json.loads(line) for line in said.splitlines()]))
        *both, (watched, _) = ended
        (won, (made,)), (lost, (refused,)) = sorted(both, key=lambda each: each[0])
        assert (won, lost, watched) == (0, refused["exit_code"], 0)
        assert "another plan --watch --apply" in refused["error"]
        after = get_deployment(home, "trips")
        assert (made["error"], made["revision"]) == (None, after.revision)
        assert after.revision == before.revision + 1
        entries = read_audit(home.store, subject="trips")
        assert [each.by for each in entries].count("plan --watch") == 1


def test_a_plan_of_the_ledger_is_put_into_service_with_its_table(live: Any) -> None:
    """One document: its table is built of what was asked, or taken away; applied again it changes
    nothing, and says beforehand what it would do.
    """
    with open_home(Settings(home=live.folder / ".tidemill")) as home:
        asked_six(home)
        flags = ("--cpu-hour", "1000", "--memory-gb-month", "0", "--disk-gb-month", "0")
        key = ("--key", "carrier,origin,hour")
        found = live("plan", "trips", *key, *flags, "--out", "plan.toml", "--json").json()
        assert (found["choice"], found["head_keys"]) == ("static", 6)
        before = get_deployment(home, "trips")
        seen = live("apply", "plan.toml", "--dry-run")
        assert "head_keys: " in seen.out
        assert get_deployment(home, "trips") == before
        done = live("apply", "plan.toml", "--yes", "--json").json()
        after = get_deployment(home, "trips")
        assert done["changes"][0]["revision"] == after.revision
        assert get_table(home.store, str(after.versions[0].table)).rows == 6
        assert after.plan.max_batch == found["batch_limit"]
        assert "no change" in live("apply", "plan.toml", "--yes").out
        dear = ("--memory-gb-month", "1e9", "--cpu-hour", "1e-9")
        assert live("plan", "trips", *dear, "--out", "none.toml").code == 0
        assert live("apply", "none.toml", "--yes").code == 0
        assert get_deployment(home, "trips").versions[0].table is None
