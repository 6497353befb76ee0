"""The workload of each live application, measured again and again beside a server, and kept."""

from __future__ import annotations

import msgspec

from tidemill.control.deployments import profiled
from tidemill.foundation.durable import make_folder
from tidemill.foundation.errors import DataRefused, TidemillError
from tidemill.foundation.files import write_atomic
from tidemill.foundation.home import Home
from tidemill.planning.workload.profile import WorkloadProfile
from tidemill.planning.workload.sources import Served, read_each_served
from tidemill.serving import live

_FOLDER = "workloads"

WINDOW_S = 86_400.0
"""What was asked in that time counts."""

HEAD = "100"
"""Of so many of the most frequent keys the share is shown."""


class KeptProfile(msgspec.Struct, frozen=True, kw_only=True):
    """A workload as it was measured.

    Args:
        at: when, in seconds since the epoch; it is of the ``WINDOW_S`` before.
        key: the columns of the key.
        represent: what represented some of them.
        profile: of the workload; no key is told in it.
    """

    at: float
    key: tuple[str, ...]
    represent: dict[str, str]
    profile: WorkloadProfile


class ShownProfile(msgspec.Struct, frozen=True, kw_only=True):
    """What is shown as metrics; or why nothing is.

    Requests a second are those since the first one of the window, until it is measured: of who is
    asked no more, they become fewer and fewer.
    """

    requests_per_s: float = 0.0
    keys: int = 0
    new_keys: float = 0.0
    head: float = 0.0
    error: str | None = None


def profile_live(home: Home) -> dict[str, ShownProfile]:
    """Measures and keeps the workload of each live application, by its name.

    Left out is who was asked nothing, or once. Those of applications that are gone are removed.

    Raises:
        InvalidSettings, Corrupted, NotReady: the ledger cannot be read.
    """
    with home.store.read(live.TABLES) as conn:
        deployments = {each.application: each for each in live.live_deployments(conn)}
    folder = home.cache_path / _FOLDER
    for path in folder.glob("*.json") if folder.is_dir() else ():
        if path.stem not in deployments:
            path.unlink(missing_ok=True)
    keys = {name: profiled(each, None, None) for name, each in deployments.items()}
    served = {name: Served(name, *each) for name, each in keys.items()}
    at = home.clock.now()
    read_each_served(home.ledger_path, list(served.values()), since=at - WINDOW_S)
    shown: dict[str, ShownProfile] = {}
    for name, (key, represent) in keys.items():
        try:
            seen = served[name].workload()
            found = seen.result()
        except DataRefused:
            continue
        except TidemillError as error:
            shown[name] = ShownProfile(error=str(error))
            continue
        kept = KeptProfile(
            at=at,
            key=tuple(key),
            represent=dict(represent),
            # What was withdrawn from the ledger must not go on here.
            profile=msgspec.structs.replace(found, heavy=()),
        )
        make_folder(folder)
        write_atomic(folder / f"{name}.json", msgspec.json.encode(kept))
        shown[name] = ShownProfile(
            requests_per_s=found.requests / max(at - seen.first_s, found.duration_s),
            keys=found.cardinality,
            new_keys=found.new_key_rate,
            head=found.top_share[HEAD],
        )
    return shown


def kept_profile(
    home: Home, application: str, *, key: tuple[str, ...], represent: dict[str, str], since: float
) -> KeptProfile | None:
    """Returns the workload of an application that was measured since a moment by the same keys.

    It is None where nobody measured one, or nobody can read it now.
    """
    try:
        read = (home.cache_path / _FOLDER / f"{application}.json").read_bytes()
        found = msgspec.json.decode(read, type=KeptProfile)
    except (OSError, msgspec.MsgspecError):
        return None
    same = (found.key, found.represent) == (key, represent)
    return found if same and found.at >= since else None
