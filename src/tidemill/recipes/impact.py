"""Which models were trained without the rows that are held, and which lack released ones."""

from __future__ import annotations

from dataclasses import dataclass

from tidemill.data.catalog import find_reviews, find_snapshots
from tidemill.data.held_rows import list_held
from tidemill.data.records import HeldGroup, Review, Snapshot
from tidemill.foundation.home import Home
from tidemill.models.registry import ModelVersion, Registry


@dataclass(frozen=True, slots=True, kw_only=True)
class Affected:
    """A model version that was trained on a dataset, without some of its rows.

    Attributes:
        model: its name.
        version: its number.
        run: the run that trained it.
        aliases: what it is called now, such as ``champion``.
        snapshots: those of the dataset that it was trained on.
        held: rows that were held when its newest snapshot was made, and are held still.
        lacks: snapshots of released rows that it was not trained on.
        released: rows in these.
    """

    model: str
    version: int
    run: str | None
    aliases: tuple[str, ...]
    snapshots: tuple[str, ...]
    held: int
    lacks: tuple[str, ...]
    released: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Impact:
    """What held rows, and released ones, mean for models.

    Attributes:
        dataset: its name.
        held: rows held now, by nobody discarded.
        discarded: rows held that somebody discarded.
        released: rows that releases accepted.
        snapshots: those that were made since the first of the held rows was held.
        models: versions that were trained without some of these rows.
    """

    dataset: str
    held: int
    discarded: int
    released: int
    snapshots: tuple[str, ...]
    models: tuple[Affected, ...]


def impact(home: Home, name: str, *, reason: str | None = None) -> Impact:
    """Returns which model versions were trained without rows of a dataset that were held.

    A version lacks a held row if the row was there, held, when the newest snapshot was made that
    the version was trained on. It lacks a released row if that was so, and it was not trained
    on the snapshot of the release.

    Args:
        home: the installation.
        name: the dataset.
        reason: only rows held for it; released rows are counted whatever they were held for.

    Raises:
        NotFound: there is no such dataset.
    """
    groups = [one for one in list_held(home, name) if reason in (None, one.reason)]
    made = {one.id: one for one in find_snapshots(home, dataset=name)}
    released = [one for one in find_reviews(home, name) if one.snapshot is not None]
    registry = Registry(home)
    found = [
        _affected(registry, version, made, groups, released)
        for version in registry.list()
        if made.keys() & set(version.manifest.lineage.get("snapshots", ()))
    ]
    since = min((group.held_at for group in groups if _open(group)), default=None)
    return Impact(
        dataset=name,
        held=sum(_open(group) for group in groups),
        discarded=sum(group.discarded for group in groups),
        released=sum(one.accepted for one in released),
        snapshots=tuple(
            one.id for one in made.values() if since is not None and one.created_at >= since
        ),
        models=tuple(one for one in found if one.held or one.lacks),
    )


def _open(group: HeldGroup) -> int:
    return group.rows - group.discarded


def _accepted(review: Review, newest: float) -> int:
    """Returns how many of the released rows were held at a time, and before."""
    return sum(rows for held_at, rows in review.since if held_at <= newest)


def _affected(
    registry: Registry,
    version: ModelVersion,
    made: dict[str, Snapshot],
    groups: list[HeldGroup],
    released: list[Review],
) -> Affected:
    trained = [one for one in version.manifest.lineage["snapshots"] if one in made]
    newest = max(made[one].created_at for one in trained)
    lacks = {
        str(one.snapshot): rows
        for one in released
        if one.snapshot not in trained and (rows := _accepted(one, newest))
    }
    aliases = registry.aliases(version.name)
    return Affected(
        model=version.name,
        version=version.version,
        run=version.run,
        aliases=tuple(sorted(name for name, at in aliases.items() if at == version.version)),
        snapshots=tuple(trained),
        held=sum(_open(group) for group in groups if group.held_at <= newest),
        lacks=tuple(lacks),
        released=sum(lacks.values()),
    )
