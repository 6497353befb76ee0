"""The pages say what the code has: every verb, flag, metric, error, key, column, room and route."""

from __future__ import annotations

import ast
import json
import re
import tomllib
from collections.abc import Iterator
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import typer

from tidemill.cli.app import VERBS, build
from tidemill.cli.session import EXIT_CODES
from tidemill.control.admin import admin_app
from tidemill.control.documents import read_document
from tidemill.control.profiling import Profiler
from tidemill.control.scores import score_application
from tidemill.control.scoring import Scorer
from tidemill.data.anomaly_kinds import ABSENT, DETECTED, OWN
from tidemill.data.ledger import LabelRecord, LedgerWriter, PredictionRecord, export_parquet
from tidemill.data.ledger_tables import label_schema, prediction_schema
from tidemill.data.quarantine import HELD_SCHEMA
from tidemill.data.records import DatasetOptions
from tidemill.data.schema import Column, Schema
from tidemill.foundation import errors
from tidemill.foundation.home import Home
from tidemill.foundation.instruments import Instruments
from tidemill.foundation.settings import Settings, load_settings
from tidemill.planning.requirements import read_requirements
from tidemill.recipes.recipe import Recipe, Split, TableRecipe, recipes_of
from tidemill.serving.exchange import _STATUS
from tidemill.serving.plan import ServingPlan
from tidemill.training.evaluator import BlessingRules

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
PAGES = sorted((ROOT / "docs").rglob("*.md")) + sorted(ROOT.glob("*.md"))
RECORDS = sorted((ROOT / "docs/adr").glob("[0-9]*.md"))
SHARED_FLAGS = {"--home", "--config", "--json"}
ERRORS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, errors.TidemillError)
]


def page(name: str) -> str:
    """Reads a page."""
    return (ROOT / name).read_text(encoding="utf-8")


def name_of(path: Path) -> str:
    """Says which file it is, from the top of the repository."""
    return path.relative_to(ROOT).as_posix()


def rows_of(text: str) -> dict[str, list[str]]:
    """Returns the rows of all tables of a page by the words in code in their first cell."""
    found = {}
    for line in text.splitlines():
        if line.startswith("|"):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            for name in re.findall(r"`([^`]+)`", cells[0]):
                found[name] = cells[1:]
    return found


def blocks(language: str) -> Iterator[tuple[str, str]]:
    """Yields the code blocks of one language, with the page that each stands on."""
    for path in PAGES:
        for text in re.findall(rf"```{language}\n(.*?)```", path.read_text("utf-8"), re.DOTALL):
            yield name_of(path), text


# Commands


def commands() -> Iterator[tuple[str, Any]]:
    """Yields each command as it is typed, with its definition."""

    def walk(command: Any, words: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
        inner = getattr(command, "commands", None)
        if inner is None:
            yield " ".join(words), command
            return
        for name, each in inner.items():
            yield from walk(each, (*words, name))

    yield from walk(typer.main.get_command(build([])), ())


COMMANDS = dict(commands())


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_and_flag_is_on_the_page(command: str) -> None:
    """Each verb has a section that shows it and names its own flags."""
    verb = command.partition(" ")[0]
    sections = dict(
        re.findall(
            r"^## (\w+)\n(.*?)(?=^## |\Z)", page("docs/guide/cli.md"), re.DOTALL | re.MULTILINE
        )
    )
    assert f"`tidemill {command}" in sections[verb]
    rows = rows_of(sections[verb])
    named = {flag.partition(" ")[0] for flag in rows}
    for parameter in COMMANDS[command].params:
        flags = {*parameter.opts, *parameter.secondary_opts} if parameter.opts else set()
        for flag in flags:
            if flag.startswith("--") and flag not in SHARED_FLAGS:
                assert flag in named


def test_the_page_has_no_verb_or_flag_of_its_own() -> None:
    """What the page names as a flag or verb exists, and shared flags are said once."""
    text = page("docs/guide/cli.md")
    known = {
        flag
        for command in COMMANDS.values()
        for parameter in command.params
        for flag in (*parameter.opts, *parameter.secondary_opts)
    }
    assert {flag.partition(" ")[0] for flag in rows_of(text) if flag.startswith("--")} <= known
    assert set(rows_of(text)) >= {"--home PATH", "--config FILE", "--json"}
    for command, defined in COMMANDS.items():
        flags = {flag for each in defined.params for flag in each.opts}
        assert flags >= ({"--json"} if command in {"demo", "native"} else SHARED_FLAGS)
    assert set(re.findall(r"^## (\w+)$", text, re.MULTILINE)) == set(VERBS)


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_commands_in_examples_exist(path: Path) -> None:
    """Every ``tidemill …`` of an example is a command, with flags that it has."""
    for block in re.findall(r"```console\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL):
        for line in re.findall(r"^\$ (?:.*&& )?(tidemill .*)$", block, re.MULTILINE):
            words = re.split(r"\s+", re.split(r"\s[#&]|\s\\$", line)[0].strip())[1:]
            command = " ".join(words[:2]) if " ".join(words[:2]) in COMMANDS else words[0]
            known = {flag for each in COMMANDS[command].params for flag in each.opts}
            assert {word for word in words if word.startswith("--")} <= known, line


def test_exit_codes_are_on_the_page() -> None:
    """Each error with an exit code of its own stands in the row of that code."""
    text = page("docs/guide/cli.md")
    for kind, code in EXIT_CODES:
        row = next(line for line in text.splitlines() if line.startswith(f"| {code} |"))
        assert f"`{kind.__name__}`" in row


# Errors


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_every_error_is_on_a_page_with_its_status(kind: type[errors.TidemillError]) -> None:
    """Each error is in the table of serving, with the status that the edge gives it."""
    text = page("docs/guide/serving.md")
    assert f"`{kind.__name__}`" in text
    if kind is not errors.TidemillError:
        status = next((code for known, code in _STATUS if issubclass(kind, known)), 500)
        assert rows_of(text)[kind.__name__][0] == str(status)


# Metrics and routes


def metric_names() -> set[str]:
    """Returns every metric that the code registers, as a scrape shows it."""
    found = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            first = node.args[0] if node.args else None
            if node.func.attr in {"counter", "gauge", "histogram"} and isinstance(
                first, ast.Constant
            ):
                found.add(f"{first.value}{'_total' if node.func.attr == 'counter' else ''}")
    made = Instruments()
    Scorer(None, made)
    Profiler(None, made)
    shown = made.snapshot()
    return found | {f"{name}_total" if shown[name]["kind"] == "counter" else name for name in shown}


def test_every_metric_is_in_operations() -> None:
    """The page names the metrics that the code registers, and no others."""
    said = {name for name in rows_of(page("docs/guide/operations.md")) if "tidemill_" in name}
    assert {name for name in said if re.fullmatch(r"tidemill_[a-z_]+", name)} - {
        "tidemill_worker"
    } == metric_names()


def test_every_admin_route_is_in_operations(home: Home) -> None:
    """Each path of the admin API is on the page, under its method."""
    text = page("docs/guide/operations.md")
    app = admin_app(home, None, Instruments())
    for route in app.routes:
        (method,) = set(route.methods) - {"HEAD"}
        assert f"`{method} {route.path}`" in text


# Keys and columns

RECIPE_KEYS = {
    "": Recipe,
    "split.": Split,
    "rules.": BlessingRules,
    "ingest.": DatasetOptions,
    "table.": TableRecipe,
}
KEYED = [
    (prefix, field)
    for prefix, kind in RECIPE_KEYS.items()
    for field in msgspec.structs.fields(kind)
]


@pytest.mark.parametrize(("prefix", "field"), KEYED, ids=lambda each: getattr(each, "name", each))
def test_every_recipe_key_is_on_the_page(prefix: str, field: msgspec.structs.FieldInfo) -> None:
    """Each key has a row with its default and its meaning."""
    default, meaning = rows_of(page("docs/guide/recipes.md"))[f"{prefix}{field.name}"]
    assert len(meaning) > 10
    if field.required:
        assert default == "required"
    elif isinstance(field.default, int | float | str) and field.name != "split":
        assert str(field.default) in default


def test_the_recipe_page_has_no_key_of_its_own() -> None:
    """What the page lists as a key is one."""
    known = {f"{prefix}{field.name}" for prefix, field in KEYED}
    tables = re.findall(
        r"^\| key \|.*?(?=\n\n)", page("docs/guide/recipes.md"), re.DOTALL | re.MULTILINE
    )
    assert {name for table in tables for name in rows_of(table)} == known


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("docs/guide/serving.md", ServingPlan.__struct_fields__),
        ("docs/guide/data.md", DatasetOptions.__struct_fields__),
        ("docs/guide/schema.md", set(Column.__struct_fields__) - {"name"}),
        ("docs/guide/schema.md", {*DETECTED, *OWN, *ABSENT}),
        ("docs/guide/data.md", HELD_SCHEMA.names),
        ("docs/guide/ledger.md", prediction_schema(sequence=True).names),
        ("docs/guide/ledger.md", label_schema().names),
    ],
)
def test_every_field_and_column_has_a_row(name: str, words: tuple[str, ...]) -> None:
    """The page has a row for each field of the record or column of the file."""
    assert set(words) <= set(rows_of(page(name)))


def test_the_plan_has_its_defaults_on_the_page() -> None:
    """The table of the plan shows the defaults that hold."""
    rows = rows_of(page("docs/guide/serving.md"))
    for name, value in msgspec.structs.asdict(ServingPlan()).items():
        assert rows[name][0].strip("`") == ("none" if value is None else str(value))


def test_every_reason_to_hold_a_row_is_on_the_page() -> None:
    """Each reason that the gate gives has a row, and each kind of anomaly is named."""
    text = page("docs/guide/data.md")
    for path in (ROOT / "src/tidemill/data").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            maker = ast.unparse(node.func)
            for word in node.keywords:
                if not isinstance(word.value, ast.Constant):
                    continue
                if (maker, word.arg) in {("Rule", "reason"), ("Unreadable", "reason")}:
                    assert word.value.value in rows_of(text)
                if (maker, word.arg) == ("Anomaly", "kind"):
                    assert f"`{word.value.value}`" in text + page("docs/guide/schema.md")


# The map


def test_every_room_is_in_the_architecture() -> None:
    """The table of floors has the rooms of the import contract, in their order, and no others."""
    contract = ConfigParser()
    contract.read(ROOT / ".importlinter")
    layers = contract["importlinter:contract:floors"]["layers"].split("\n")
    floors = [
        re.findall(r"\w+", layer)
        for layer in layers
        if layer.strip() and not layer.strip().startswith(("(", "__"))
    ]
    table = page("ARCHITECTURE.md").split("| floor |")[1].split("\n\n")[0]
    shown = [re.findall(r"`(\w+)`", line.split("|")[1]) for line in table.splitlines()[2:]]
    assert shown == floors
    for room in (ROOT / "src").rglob("__init__.py"):
        name = room.parent.relative_to(ROOT / "src").as_posix().removeprefix("tidemill/")
        assert f"`{name}`" in page("ARCHITECTURE.md")


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_files_that_pages_name_exist(path: Path) -> None:
    """A source file that a page names in code is there."""
    for name in re.findall(r"`((?:[a-z_]+/)+[a-z_]+\.(?:py|md|toml))`", path.read_text("utf-8")):
        places = (ROOT / name, ROOT / "src/tidemill" / name)
        assert any(place.exists() for place in places), name


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_links_to_headings_lead_somewhere(path: Path) -> None:
    """The heading that a link names is on the page that it leads to."""
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target, heading in re.findall(r"\]\(([^)\s#]*)#([^)]+)\)", text):
        if "://" not in target:
            other = (path.parent / target).resolve() if target else path
            headings = re.findall(r"^#+ (.*)$", other.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = {re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings}
            assert heading in anchors, f"{target}#{heading}"


# Decisions


@pytest.mark.parametrize("path", RECORDS, ids=name_of)
def test_a_decision_has_its_parts_and_is_listed(path: Path) -> None:
    """Each record has its number, status, context, decision and consequences, and is indexed."""
    text = path.read_text(encoding="utf-8")
    number, title = re.match(r"# (\d{4})\. (.+)\n", text).groups()
    assert path.name.startswith(f"{number}-")
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == [
        *("Status", "Context", "Decision", "Consequences")
    ]
    assert f"| {number} | [{title}]({path.name}) |" in page("docs/adr/README.md")


def test_decisions_are_numbered_without_holes() -> None:
    """The numbers of the records are 1, 2, 3 and so on."""
    assert [int(path.name[:4]) for path in RECORDS] == list(range(1, len(RECORDS) + 1))


# Examples


@pytest.mark.parametrize(("name", "text"), list(blocks("toml")))
def test_settings_and_schemas_in_examples_are_valid(name: str, text: str, tmp_path: Path) -> None:
    """Every TOML example is a schema, applications, requirements, or settings with recipes."""
    if "[traffic]" in text:
        (tmp_path / "requirements.toml").write_text(text, encoding="utf-8")
        assert read_requirements(tmp_path / "requirements.toml").traffic.rate_rps > 0.0
        return
    if "[applications." in text:
        assert read_document(text.encode(), origin=name).applications
        return
    if "columns" in tomllib.loads(text):
        assert Schema.from_toml(text, origin=name).columns
        return
    if "dataset" not in text and "[recipes." in text:  # a part of a recipe
        recipe = re.findall(r"\[recipes\.([\w-]+)", text)[0]
        text = f'[recipes.{recipe}]\ndataset = "d"\nfeatures = ["x"]\nlabel = "y"\n{text}'
    file = tmp_path / "tidemill.toml"
    file.write_text(text, encoding="utf-8")
    recipes_of(load_settings(file=file, environ={}).settings)


@pytest.mark.parametrize(("name", "text"), list(blocks("json")))
def test_json_in_examples_is_json(name: str, text: str) -> None:
    """Every JSON example can be read."""
    assert json.loads(text), name


def test_the_sql_of_the_ledger_page_gives_the_served_auc(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The query on the page, run on an export, gives what the score says, ties and all."""
    import duckdb

    rng = np.random.default_rng(7)
    scores = rng.integers(0, 40, 300) / np.float32(40)
    with LedgerWriter(home.ledger_path, "gateway-0") as writer:
        for row, score in enumerate(scores):
            outputs = {"probabilities": np.array([[1 - score, score]], np.float32)}
            record = PredictionRecord(
                request_id=f"{row:032x}",
                time=float(row),
                application="late-orders",
                version=1,
                source="model",
                n=1,
                inputs={"x": np.array([1.0])},
                outputs=outputs,
            )
            writer.append_predictions([record])
        labels = [
            LabelRecord(
                prediction_id=f"{row:032x}",
                application="late-orders",
                label=int(rng.random() < (score if attempt else 0.5)),
                observed_at=float(row),
                received_at=float(row + 1000 * attempt),
            )
            for attempt in (0, 1)
            for row, score in enumerate(scores[:250])
        ]
        writer.append_labels(labels, lambda _: None)
    (tmp_path / "out").mkdir()
    export_parquet(home.ledger_path, tmp_path / "out")
    monkeypatch.chdir(tmp_path)
    (sql,) = (text for name, text in blocks("sql") if name.endswith("ledger.md"))
    with duckdb.connect() as connection:
        (auc,) = connection.execute(sql).fetchone()
    assert auc == pytest.approx(score_application(home, "late-orders").report.overall.auc, 1e-12)


def test_the_version_of_python_and_the_extras_are_those_of_the_project() -> None:
    """What the first page says of Python and of extras is what the project declares."""
    project = tomllib.loads(page("pyproject.toml"))["project"]
    text = page("README.md")
    assert f"Python {project['requires-python'].removeprefix('>=')}" in text
    for extra in set(project["optional-dependencies"]) - {"test", "check", "bench"}:
        assert f"`{extra}`" in text
    assert Settings(home=Path("x")).serve.port == 8080
    assert "localhost:8080" in text
