"""Settings: flags over environment over ``tidemill.toml`` over defaults, each with its origin.

The only module that reads the environment. A key that nobody knows is an error with its path and
the nearest known key; a secret inside a URL is never shown.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import msgspec

from tidemill.foundation.errors import InvalidSettings
from tidemill.foundation.names import nearest

FILE_NAME = "tidemill.toml"
PREFIX = "TIDEMILL_"

Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
Positive = Annotated[int, msgspec.Meta(ge=1)]
Seconds = Annotated[float, msgspec.Meta(ge=0)]

FlagValue = str | int | float | bool | None


class StoreSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where small facts live; without a URL, SQLite inside the home folder."""

    url: str | None = None

    def __repr__(self) -> str:
        return f"StoreSettings(url={_masked(self.url)!r})"


class FilesSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where large files live; without a URL, a folder inside the home folder."""

    url: str | None = None

    def __repr__(self) -> str:
        return f"FilesSettings(url={_masked(self.url)!r})"


class DataSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How sources elsewhere are read: databases' password, and the most disk that copies take."""

    sql_password: str = ""
    spool_bytes: Positive = 20 << 30

    def __repr__(self) -> str:
        shown = "***" if self.sql_password else ""
        return f"DataSettings(sql_password={shown!r}, spool_bytes={self.spool_bytes})"


class TablesSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where tables are looked up; without a URL, each host has its own copy in LMDB."""

    url: Annotated[str, msgspec.Meta(pattern="^(redis|rediss|unix)://[^#]*$")] | None = None

    def __repr__(self) -> str:
        return f"TablesSettings(url={_masked(self.url)!r})"


class RaySettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where work goes that is asked for on Ray; without an address, into a cluster of its own."""

    address: Annotated[str, msgspec.Meta(min_length=1, max_length=300)] | None = None

    def __repr__(self) -> str:
        return f"RaySettings(address={_masked(self.address)!r})"


class ServeSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the server listens and how long it waits."""

    host: str = "127.0.0.1"
    server_name: Annotated[str, msgspec.Meta(min_length=1, max_length=100)] = "tidemill"
    port: Port = 8080
    admin_port: Port = 8081
    gateways: Positive = 1
    grpc_port: Port | None = None
    grpc_gateways: Positive = 1
    native: bool = True
    max_body_bytes: Positive = 8 << 20
    idle_timeout_s: Seconds = 75.0
    read_timeout_s: Seconds = 15.0
    drain_s: Seconds = 10.0
    allow_public: bool = False
    model_control: Literal["none", "explicit"] = "none"
    remote_hosts: str = ""
    remote_tokens: str = ""
    otlp_endpoint: str | None = None
    otlp_ratio: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.01
    require_keys: bool = False
    labels_per_minute: Positive = 60_000
    max_held_bytes: Positive = 256 << 20
    cors_origins: str = ""
    allowed_hosts: str = ""
    tls_cert: str | None = None
    tls_key: str | None = None

    def __repr__(self) -> str:
        shown = {name: getattr(self, name) for name in self.__struct_fields__}
        shown["remote_tokens"] = "***" if self.remote_tokens else ""
        return f"ServeSettings({', '.join(f'{name}={value!r}' for name, value in shown.items())})"


class LedgerSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How soon answers reach the disk, how long a segment grows, how late a label may come."""

    sync_interval_ms: Annotated[float, msgspec.Meta(gt=0)] = 50.0
    segment_bytes: Positive = 64 << 20
    max_label_age_days: Annotated[float, msgspec.Meta(gt=0)] = 365.0


class UploadsSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How large an upload may be, how many are under way, how long one may rest, what stays free.

    ``keep_s`` is also how long it is known what became of one. ``max_tries`` is how often an
    ingest is tried that fails for a reason which may pass, such as a full disk.
    """

    max_bytes: Positive = 16 << 30
    max_open: Positive = 32
    keep_s: Annotated[float, msgspec.Meta(gt=0)] = 86_400.0
    max_tries: Positive = 100
    min_free_bytes: Annotated[int, msgspec.Meta(ge=0)] = 256 << 20


class PipelineSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many steps run at the same time."""

    parallel: Positive = 2


class LogSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much is logged, and how; ``auto`` is text on a terminal and JSON elsewhere.

    ``queries`` says which queries get a line: those that failed, those also that took over
    ``slow_ms``, or all; never more than ``queries_per_s`` in a gateway.
    """

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "text", "json"] = "auto"
    queries: Literal["none", "errors", "slow", "all"] = "errors"
    slow_ms: Annotated[float, msgspec.Meta(ge=0)] = 100.0
    queries_per_s: Positive = 100


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that an installation can be told; immutable.

    Example:
        >>> settings = Settings(home=Path("/srv/tidemill"))
        >>> settings.store_url
        'sqlite:////srv/tidemill/store.db'
    """

    home: Path
    store: StoreSettings = StoreSettings()
    files: FilesSettings = FilesSettings()
    data: DataSettings = DataSettings()
    tables: TablesSettings = TablesSettings()
    serve: ServeSettings = ServeSettings()
    ledger: LedgerSettings = LedgerSettings()
    pipeline: PipelineSettings = PipelineSettings()
    uploads: UploadsSettings = UploadsSettings()
    ray: RaySettings = RaySettings()
    logs: LogSettings = LogSettings()
    recipes: dict[str, dict[str, Any]] = {}

    @property
    def store_url(self) -> str:
        """The store's URL, with the default filled in."""
        return self.store.url or f"sqlite:///{self.home / 'store.db'}"

    @property
    def files_url(self) -> str:
        """The files' URL or path, with the default filled in."""
        return self.files.url or str(self.home / "files")


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingRow:
    """One setting as shown to a person: secrets are masked."""

    key: str
    value: str
    origin: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedSettings:
    """Settings, and for each key where its value came from."""

    settings: Settings
    origins: dict[str, str]
    file: Path | None

    def rows(self) -> list[SettingRow]:
        """Returns every setting with its value and origin; secrets in URLs are masked."""
        return [
            SettingRow(
                key=key,
                value=_shown(key, _effective(self.settings, key)),
                origin=self.origins[key],
            )
            for key in self.origins
        ]


def load_settings(
    *,
    flags: Mapping[str, FlagValue] = {},
    environ: Mapping[str, str] | None = None,
    file: Path | None = None,
) -> LoadedSettings:
    """Reads the settings of this process.

    Args:
        flags: values by dotted key (``{"serve.port": 9000}``); None means that it was not given.
        environ: the environment; by default this process's own.
        file: a settings file, which must exist; by default ``tidemill.toml`` in the current
            folder, if there is one.

    Raises:
        InvalidSettings: a key is unknown, a value has a wrong type or is out of range, or the
            file cannot be read.
    """
    path = _find(file)
    layers = [
        _from_file(path),
        _from_environment(os.environ if environ is None else environ),
        _from_flags(flags),
    ]
    values: dict[str, Any] = {}
    origins = dict.fromkeys(KEYS, "default")
    folder = path.parent if path else Path.cwd()
    for number, layer in enumerate(layers):
        beside = folder if number == 0 else Path.cwd()
        for key, (value, origin) in layer.items():
            if key in SECRETS and not origin.startswith("environment "):
                raise InvalidSettings(
                    f"setting {key!r} is a secret and stands in {origin}",
                    remedy=f"Give it by the environment variable {variable(key)} alone.",
                )
            values[key] = _anchored(key, _convert(key, value, origin), beside)
            origins[key] = origin
    values.setdefault("home", folder / ".tidemill")
    return LoadedSettings(settings=_build(values), origins=origins, file=path)


def _shown(key: str, value: Any) -> str:
    return ("***" if value else "") if key in SECRETS else mask_url(str(value))


def mask_url(text: str) -> str:
    """Returns the text with the password of every URL in it replaced.

    Example:
        >>> mask_url("postgresql://tide:secret@db/tidemill")
        'postgresql://tide:***@db/tidemill'
    """
    text = _USERINFO.sub(r"\1***@", text)
    return _SECRET_PARAMETER.sub(r"\1***", text)


_USERINFO = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://[^\s/:@?#]*:)[^\s/?#]*@")
_SECRET_PARAMETER = re.compile(
    r"([?&](?:password|passwd|pwd|odbc_connect|secret|secret_key|token|sslpassword)=)[^\s&#]*",
    re.IGNORECASE,
)


def _masked(url: str | None) -> str | None:
    return None if url is None else mask_url(url)


def _flatten() -> Iterator[tuple[str, Any]]:
    for name, kind in get_type_hints(Settings, include_extras=True).items():
        if name == "recipes":
            continue
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            for inner, inner_kind in get_type_hints(kind, include_extras=True).items():
                yield f"{name}.{inner}", inner_kind
        else:
            yield name, kind


KEYS: dict[str, Any] = dict(_flatten())
"""Every known dotted key with its type; ``recipes`` holds free tables and is not among them."""


def variable(key: str) -> str:
    """Returns the environment variable of a key.

    Example:
        >>> variable("serve.admin_port")
        'TIDEMILL_SERVE_ADMIN_PORT'
    """
    return PREFIX + key.replace(".", "_").upper()


SECRETS = frozenset({"data.sql_password", "serve.remote_tokens"})
"""Settings that come from the environment alone, and are never shown."""

_VARIABLES = {variable(key): key for key in KEYS}

_Layer = dict[str, tuple[Any, str]]


def _find(file: Path | None) -> Path | None:
    if file is None:
        here = Path.cwd() / FILE_NAME
        return here if here.is_file() else None
    if not file.is_file():
        raise InvalidSettings(
            f"settings file {str(file)!r} does not exist",
            remedy=f"Create it, or leave it out to use ./{FILE_NAME} and defaults.",
        )
    return file.absolute()


def _from_file(path: Path | None) -> _Layer:
    if path is None:
        return {}
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise InvalidSettings(
            f"settings file {str(path)!r} cannot be read: {error}", remedy="Correct it."
        ) from error
    origin = f"file {path}"
    layer: _Layer = {}
    recipes = tables.pop("recipes", None)
    if recipes is not None:
        layer["recipes"] = (_recipes(recipes, origin), origin)
    for name, value in tables.items():
        inner = value.items() if isinstance(value, dict) and name not in KEYS else ((None, value),)
        for key, setting in inner:
            dotted = name if key is None else f"{name}.{key}"
            layer[_known(dotted, origin)] = (setting, origin)
    return layer


def _recipes(value: Any, origin: str) -> dict[str, dict[str, Any]]:
    if not isinstance(value, dict) or not all(isinstance(v, dict) for v in value.values()):
        raise InvalidSettings(
            f"setting 'recipes' in {origin} is not a group of tables",
            remedy="Write each recipe as a table: [recipes.NAME].",
        )
    return value


def _from_environment(environ: Mapping[str, str]) -> _Layer:
    layer: _Layer = {}
    for name, value in environ.items():
        if not name.startswith(PREFIX):
            continue
        if name not in _VARIABLES:
            raise InvalidSettings(
                f"environment variable {name} is not a setting", remedy=nearest(name, _VARIABLES)
            )
        layer[_VARIABLES[name]] = (value, f"environment {name}")
    return layer


def _from_flags(flags: Mapping[str, FlagValue]) -> _Layer:
    layer: _Layer = {}
    for key, value in flags.items():
        flag = "--" + key.rpartition(".")[2].replace("_", "-")
        if value is not None:
            layer[_known(key, f"flag {flag}")] = (value, f"flag {flag}")
    return layer


def _known(key: str, origin: str) -> str:
    if key not in KEYS:
        raise InvalidSettings(
            f"setting {key!r} in {origin} is unknown", remedy=nearest(key, [*KEYS, "recipes"])
        )
    return key


def _convert(key: str, value: Any, origin: str) -> Any:
    if key == "recipes":
        return value
    try:
        # Text comes from the environment, where a number has no other shape.
        return msgspec.convert(
            value, KEYS[key], strict=not isinstance(value, str), dec_hook=_as_path
        )
    except msgspec.ValidationError as error:
        reason = re.sub(r" - at `\$`$", "", str(error))
        raise InvalidSettings(
            f"setting {key!r} in {origin} is {_shown(key, repr(value))}",
            remedy=f"{reason}.",
        ) from error


def _as_path(kind: type, value: Any) -> Any:
    if kind is Path and isinstance(value, str) and value:
        return Path(value)
    raise ValueError("Expected a path")


def _anchored(key: str, value: Any, folder: Path) -> Any:
    if key == "home":
        return folder / Path(value).expanduser()
    if key in ("serve.tls_cert", "serve.tls_key") and value:
        return str(folder / Path(value).expanduser())
    if key == "files.url" and value and "://" not in value:
        return str(folder / Path(value).expanduser())
    return value


def _build(values: dict[str, Any]) -> Settings:
    groups: dict[str, dict[str, Any]] = {}
    top: dict[str, Any] = {}
    for key, value in values.items():
        group, dot, name = key.partition(".")
        if dot:
            groups.setdefault(group, {})[name] = value
        else:
            top[group] = value
    types: dict[str, Callable[..., Any]] = get_type_hints(Settings)
    return Settings(**top, **{group: types[group](**given) for group, given in groups.items()})


def _effective(settings: Settings, key: str) -> Any:
    if key == "store.url":
        return settings.store_url
    if key == "files.url":
        return settings.files_url
    value: Any = settings
    for name in key.split("."):
        value = getattr(value, name)
    return value
