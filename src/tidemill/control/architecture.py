"""The architecture that is live: where each query of an application can go, and what is there."""

from __future__ import annotations

import html
from typing import Any, Literal

import msgspec

from tidemill.control.changes import METADATA, require
from tidemill.foundation.errors import Corrupted, Unavailable
from tidemill.foundation.home import Home
from tidemill.foundation.pages import page, rows
from tidemill.models import registry
from tidemill.serving.placement import decide_placement
from tidemill.serving.plan import Deployment
from tidemill.tables import catalog
from tidemill.tables.freshness import age_s, stale_from
from tidemill.tables.redis import is_published
from tidemill.tables.table import TableInfo

_UNITS = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))


class TablePart(msgspec.Struct, frozen=True, kw_only=True):
    """The table before a version: its keys, and the age of its answers in seconds.

    ``published`` says whether it is in Redis, where it is to be there; None where it is not.
    """

    id: str
    key: tuple[str, ...]
    rows: int
    bytes: int
    age_s: float
    stale: bool
    published: bool | None = None


class VersionPart(msgspec.Struct, frozen=True, kw_only=True):
    """One version: what answers before it does, and where it computes.

    Args:
        model: its name.
        version: its number.
        weight: as declared.
        share: of the queries that name no version.
        runtime: what computes it.
        compiled: whether it was compiled, and verified equal, when it was registered.
        table: before it, if any.
        placement: ``gateway``, ``worker`` or ``remote``.
        replicas: of it, for each gateway that computes itself, else of all gateways together.
    """

    model: str
    version: int
    weight: float
    share: float
    runtime: str
    compiled: bool
    table: TablePart | None
    placement: Literal["gateway", "worker", "remote"]
    replicas: int


class Architecture(msgspec.Struct, frozen=True, kw_only=True):
    """Where queries of one application go, as it is declared at this revision."""

    application: str
    revision: int
    slo_ms: float
    default: dict[str, Any] | None
    key: tuple[str, ...]
    max_age_s: float | None
    policy: dict[str, Any]
    cache_bytes: int
    cache_ttl_s: float | None
    max_batch: int
    device: str
    versions: tuple[VersionPart, ...]


def architecture(home: Home, application: str) -> Architecture:
    """Returns the architecture of what is live.

    Raises:
        NotFound: there is no such application.
    """
    now = home.clock.now()
    with home.store.read(*METADATA) as conn:
        found = require(conn, application)
        total = sum(each.weight for each in found.versions)
        parts = []
        for each in found.versions:
            manifest = registry.get_version(conn, each.model, each.version).manifest
            table = None if each.table is None else catalog.read_table(conn, each.table)
            placement = decide_placement(found.plan, manifest)
            parts.append(
                VersionPart(
                    model=each.model,
                    version=each.version,
                    weight=each.weight,
                    share=each.weight / total if total else 0.0,
                    runtime=manifest.runtime,
                    compiled=manifest.compiled_from is not None and manifest.runtime == "onnx",
                    table=None if table is None else _table(table, found, now),
                    placement=placement,
                    replicas=1 if placement == "gateway" else found.plan.replicas,
                )
            )
    plan = found.plan
    return Architecture(
        application=application,
        revision=found.revision,
        slo_ms=found.slo_ms,
        default=found.default,
        key=found.key,
        max_age_s=found.max_age_s,
        policy=msgspec.to_builtins(found.policy),
        cache_bytes=plan.cache_bytes,
        cache_ttl_s=plan.cache_ttl_s,
        max_batch=plan.max_batch,
        device=plan.device,
        versions=tuple(_asked(home, each) for each in parts),
    )


def _table(info: TableInfo, deployment: Deployment, now: float) -> TablePart:
    limit = stale_from(info, deployment.max_age_s)
    return TablePart(
        id=info.id,
        key=tuple(name for name, _ in info.key),
        rows=info.rows,
        bytes=info.bytes,
        age_s=age_s(info, now),
        stale=limit is not None and now >= limit,
    )


def _asked(home: Home, part: VersionPart) -> VersionPart:
    """Returns a version with whether its table is in Redis, where it is to be there."""
    if part.table is None or home.settings.tables.url is None:
        return part
    try:
        published = is_published(home, catalog.get_table(home.store, part.table.id))
    except (Unavailable, Corrupted):
        published = False
    table = msgspec.structs.replace(part.table, published=published)
    return msgspec.structs.replace(part, table=table)


def as_text(found: Architecture) -> str:
    """Returns the architecture in lines, one chain for each version."""
    lines = [f"{found.application}, revision {found.revision}: {_promise(found)}"]
    for each in found.versions:
        lines.append(f"  {_version(each)}")
        lines.append("    edge → " + " → ".join(text for _, text in _stages(found, each)))
    if not found.versions:
        lines.append("  no model: queries get the default, or an error")
    return "\n".join(lines) + "\n"


def as_mermaid(found: Architecture) -> str:
    """Returns the architecture as a flowchart in Mermaid's language.

    Example:
        >>> bare = Architecture(application="a", revision=1, slo_ms=50.0, default=None, key=(),
        ...     max_age_s=None, policy={"kind": "single"}, cache_bytes=0, cache_ttl_s=None,
        ...     max_batch=1, device="cpu", versions=())
        >>> print(as_mermaid(bare), end="")
        flowchart LR
          edge["a: SLO 50 ms, no default, single"]
    """
    lines = ["flowchart LR", f'  edge["{_escaped(f"{found.application}: {_promise(found)}")}"]']
    for at, each in enumerate(found.versions):
        before, arrow = "edge", f'-->|"{_escaped(_version(each))}"|'
        for name, text in _stages(found, each):
            lines.append(f'  {name}{at}["{_escaped(text)}"]')
            lines.append(f"  {before} {arrow} {name}{at}")
            before, arrow = f"{name}{at}", "-->"
    return "\n".join(lines) + "\n"


def as_page(found: Architecture) -> str:
    """Returns the architecture as a page: a drawing, and its figures; no script in it."""
    facts = [("promise", _promise(found)), ("key", ", ".join(found.key) or "none")]
    for each in found.versions:
        facts += [(_version(each), ""), *_stages(found, each)]
    title = f"Architecture of {found.application}"
    return page(
        title, f"{title}, revision {found.revision}", (_drawing(found), rows(("", ""), facts))
    )


def _drawing(found: Architecture) -> str:
    wide, high, gap = 150, 62, 34
    chains = [["edge", *(text for _, text in _stages(found, each))] for each in found.versions]
    chains = chains or [["edge"]]
    parts = []
    for row, chain in enumerate(chains):
        for column, text in enumerate(chain):
            x, y = column * (wide + gap), row * (high + 20)
            parts.append(
                f"<rect x={x} y={y} width={wide} height={high} rx=6 fill=#eef3f9 stroke=#2d6db4 />"
            )
            for below, words in enumerate(_wrapped(text, 24)[:3]):
                at = f"x={x + 8} y={y + 18 + 17 * below}"
                parts.append(f"<text {at} font-size=11>{html.escape(words)}</text>")
            if column:
                middle = y + high // 2
                start = x - gap
                line = f"M{start} {middle}H{x - 3}m-6 -5l6 5l-6 5"
                parts.append(f"<path d='{line}' fill=none stroke=#2d6db4 />")
    width = max(map(len, chains)) * (wide + gap) - gap
    height = len(chains) * (high + 20) - 20
    return f"<svg viewBox='-1 -1 {width + 2} {height + 2}' role=img>{''.join(parts)}</svg>"


def _wrapped(text: str, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + len(word) >= width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


def _promise(found: Architecture) -> str:
    stands_in = "no default" if found.default is None else "a default"
    return f"SLO {found.slo_ms:g} ms, {stands_in}, {found.policy['kind']}"


def _version(each: VersionPart) -> str:
    share = f"{each.share:.0%}" if each.weight else "only by number"
    return f"{each.model}:{each.version}, {share}"


def _stages(found: Architecture, each: VersionPart) -> list[tuple[str, str]]:
    """Returns what a query meets, in order: a word for each, and what it is."""
    stages = []
    if each.table is not None:
        stages.append(("table", _shown_table(each.table, found.max_age_s)))
    if found.cache_bytes:
        ttl = "" if found.cache_ttl_s is None else f", {found.cache_ttl_s:g} s"
        stages.append(("cache", f"cache: {_bytes(found.cache_bytes)} a gateway{ttl}"))
    stages.append(("batch", f"batch: at most {found.max_batch} rows"))
    where = {
        "gateway": "in each gateway",
        "worker": f"{each.replicas} in workers on {found.device}",
        "remote": f"{each.replicas} in another server",
    }
    compiled = ", compiled" if each.compiled else ""
    stages.append(("model", f"model: {each.runtime}{compiled}, {where[each.placement]}"))
    return stages


def _shown_table(table: TablePart, max_age_s: float | None) -> str:
    limit = "" if max_age_s is None else f" of {max_age_s:,.0f}"
    stale = ", stale: passed by" if table.stale else ""
    if table.published is False:
        stale += ", not in Redis now: passed by"
    key = ", ".join(table.key)
    return f"table: {table.rows:,} keys ({key}), {table.age_s:,.0f}{limit} s old{stale}"


def _bytes(size: int) -> str:
    for unit, name in _UNITS:
        if size >= unit:
            return f"{size / unit:g} {name}" if size % unit == 0 else f"{size / unit:.1f} {name}"
    return f"{size} bytes"


def _escaped(text: str) -> str:
    """Returns a text as Mermaid takes it in quotes, whatever names are in it."""
    return html.escape(text).replace("&#x27;", "'").replace("\n", " ")
