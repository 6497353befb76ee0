"""Removes files of tables that no record names: of builds that were killed and never went on."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator

from tidemill.control.changes import METADATA
from tidemill.foundation.errors import NotFound
from tidemill.foundation.home import Home
from tidemill.tables import catalog, predictions

ABANDONED_S = 7 * 86_400.0
"""A build may take long, and go on late: what is younger than this may be of one."""

AT_ONCE = 32
"""Files that are removed in one turn of the store's writers: in a bucket each takes a while."""

_TURN_S = 0.2
_FOLDERS = ("features/", "predictions/", "tables/")


def remove_orphans(home: Home, *, dry_run: bool = False) -> int:
    """Removes the files of tables that nothing names, whatever application they were built for.

    Args:
        home: the installation.
        dry_run: says how many would go, and does nothing.

    Returns:
        How many files are gone, or would be.
    """
    before = home.clock.now() - ABANDONED_S
    tableless = [each for each in _tableless(home) if _is_old(home, each[1], before)]
    with home.store.read(*METADATA, predictions.PREDICTIONS) as conn:
        named = predictions.named_files(conn) | catalog.named_files(conn)
    named -= {key for _, keys in tableless for key in keys}
    keys = (key for folder in _FOLDERS for key in home.files.scan(folder) if key not in named)
    old = [key for key in keys if _is_old(home, (key,), before)]
    if dry_run:
        return len(old)
    for table, _ in tableless:
        with home.store.write(*METADATA, predictions.PREDICTIONS) as conn:
            if not catalog.has_table(conn, table):  # still
                predictions.drop_parts(conn, table)
    return delete_unnamed(home, old)


def delete_unnamed(home: Home, keys: Iterable[str]) -> int:
    """Deletes those files that no table names, a few in each turn; returns how many.

    Writers take turns, and whoever makes a table known looks afterwards or in its turn whether its
    files are there: none is taken from a table that is just being built.
    """
    deleted = 0
    for some in _blocks(sorted(keys)):
        began = home.clock.monotonic()
        with home.store.write(*METADATA, predictions.PREDICTIONS) as conn:
            for key in some:
                if not catalog.names_file(conn, key) and not predictions.names_file(conn, key):
                    home.files.delete(key)
                    deleted += 1
        if home.clock.monotonic() - began > _TURN_S:
            time.sleep(_TURN_S)  # whoever waits for the store looks again and again
    return deleted


def _tableless(home: Home) -> list[tuple[str, tuple[str, ...]]]:
    """Returns builds whose Parquet files are known and whose table is not, with those files."""
    with home.store.read(*METADATA, predictions.PREDICTIONS) as conn:
        found = predictions.tables_with_parts(conn)
        missing = [table for table in found if not catalog.has_table(conn, table)]
    return [
        (table, tuple(part.file_key for part in predictions.list_parts(home, table)))
        for table in missing
    ]


def _is_old(home: Home, keys: Iterable[str], before: float) -> bool:
    for key in keys:
        try:
            if home.files.written_at(key) >= before:
                return False
        except NotFound:
            continue  # it is gone already
    return True


def _blocks(keys: list[str]) -> Iterator[tuple[str, ...]]:
    source = iter(keys)
    while block := tuple(itertools.islice(source, AT_ONCE)):
        yield block
