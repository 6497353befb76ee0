"""Settings come from four places, in one order, and say from which."""

from __future__ import annotations

from pathlib import Path

import pytest

from tidemill.foundation.errors import InvalidSettings
from tidemill.foundation.settings import (
    KEYS,
    LoadedSettings,
    Settings,
    load_settings,
    mask_url,
    variable,
)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def load(toml: str = "", **given: object) -> LoadedSettings:
    """Loads from a file in the current folder, and from no real environment."""
    Path("tidemill.toml").write_text(toml)
    return load_settings(**{"environ": {}, **given})  # type: ignore[arg-type]


def test_defaults_without_anything(tmp_path: Path) -> None:
    """With nothing given every default holds, and the home is in the current folder."""
    loaded = load_settings(environ={})
    assert loaded.file is None
    assert loaded.settings == Settings(home=tmp_path / ".tidemill")
    assert loaded.settings.serve.host == "127.0.0.1"
    assert set(loaded.origins.values()) == {"default"}
    assert set(loaded.origins) == set(KEYS)


def test_later_places_win(tmp_path: Path) -> None:
    """Flags win over the environment, the environment over the file, the file over defaults."""
    loaded = load(
        "[serve]\nport = 1\nadmin_port = 2\ngateways = 3\n",
        environ={"TIDEMILL_SERVE_PORT": "11", "TIDEMILL_SERVE_ADMIN_PORT": "12", "PATH": "/bin"},
        flags={"serve.port": 21, "serve.host": None},
    )
    serve = loaded.settings.serve
    assert (serve.port, serve.admin_port, serve.gateways) == (21, 12, 3)
    assert loaded.origins["serve.port"] == "flag --port"
    assert loaded.origins["serve.admin_port"] == "environment TIDEMILL_SERVE_ADMIN_PORT"
    assert loaded.origins["serve.gateways"] == f"file {tmp_path / 'tidemill.toml'}"
    assert loaded.origins["serve.host"] == "default"


def test_text_becomes_what_the_setting_is() -> None:
    """The environment's text is read as the setting's own type."""
    settings = load(
        environ={
            "TIDEMILL_SERVE_ALLOW_PUBLIC": "true",
            "TIDEMILL_SERVE_DRAIN_S": "2.5",
            "TIDEMILL_LOGS_LEVEL": "debug",
            "TIDEMILL_STORE_URL": "postgresql://h/d",
        }
    ).settings
    assert settings.serve.allow_public is True
    assert settings.serve.drain_s == 2.5
    assert settings.logs.level == "debug"
    assert settings.store_url == "postgresql://h/d"


def test_paths_are_beside_what_names_them(tmp_path: Path) -> None:
    """A relative path in a file is beside the file; one given by hand is in the current folder."""
    folder = tmp_path / "project"
    folder.mkdir()
    file = folder / "tidemill.toml"
    file.write_text('home = "state"\n[files]\nurl = "big"\n')
    settings = load_settings(environ={}, file=file).settings
    assert settings.home == folder / "state"
    assert settings.files_url == str(folder / "big")
    by_hand = load_settings(environ={"TIDEMILL_HOME": "mine"}, file=file).settings
    assert by_hand.home == tmp_path / "mine"
    file.write_text("")
    assert load_settings(environ={}, file=file).settings.home == folder / ".tidemill"


def test_store_and_files_live_in_the_home() -> None:
    """Without URLs, the store and the files are inside the home."""
    settings = Settings(home=Path("/srv/t"))
    assert settings.store_url == "sqlite:////srv/t/store.db"
    assert settings.files_url == "/srv/t/files"


def test_recipes_are_kept_as_they_are() -> None:
    """Recipe tables are handed on whole, for their own room to read."""
    loaded = load('[recipes.flights]\ndata = "flights"\ntrain = { trees = 10 }\n')
    assert loaded.settings.recipes == {"flights": {"data": "flights", "train": {"trees": 10}}}
    with pytest.raises(InvalidSettings, match=r"\[recipes\.NAME\]"):
        load('recipes = "all"')


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("[serve]\nprot = 1", r"'serve\.prot' in file .* is unknown\. Did you mean serve\.port\?"),
        ("[sevre]\nport = 1", r"'sevre\.port' .* Did you mean serve\.port\?"),
        ("hom = 'x'", r"'hom' .* Did you mean home\?"),
        ("zzz = 1", r"'zzz' .* Known: home, store\.url"),
        ("serve = 1", r"'serve' in file .* is unknown"),
        ("[serve]\nport = 'http'", r"'serve\.port' in file .* is 'http'\. .*int"),
        ("[serve]\nport = 70000", r"'serve\.port' .* is 70000\. .*65535"),
        ("[serve]\nport = 1.5", r"'serve\.port' .* is 1\.5"),
        ("[logs]\nlevel = 'loud'", r"'logs\.level' .* is 'loud'"),
        ("home = 3", r"'home' .* is 3"),
        ("not toml", r"tidemill\.toml' cannot be read: "),
    ],
)
def test_a_mistake_in_the_file_is_explained(toml: str, message: str) -> None:
    """A wrong key or value is refused with its path, its place and the way out."""
    with pytest.raises(InvalidSettings, match=message):
        load(toml)


def test_mistakes_elsewhere_are_explained() -> None:
    """An unknown variable or flag, and a file that is not there, are refused by name."""
    with pytest.raises(InvalidSettings, match="Did you mean TIDEMILL_SERVE_PORT"):
        load(environ={"TIDEMILL_SERVE_PROT": "1"})
    with pytest.raises(InvalidSettings, match=r"'serve\.prot' in flag --prot"):
        load(flags={"serve.prot": 1})
    with pytest.raises(InvalidSettings, match=r"'nothing\.toml' does not exist"):
        load_settings(environ={}, file=Path("nothing.toml"))


def test_secrets_are_never_shown() -> None:
    """A password in a URL is in no row, text or error."""
    loaded = load(environ={"TIDEMILL_STORE_URL": "postgresql://tide:hunter2@db/t?sslpassword=s3"})
    shown = repr(loaded) + repr(loaded.rows()) + str(loaded.settings)
    assert "hunter2" not in shown
    assert "s3'" not in shown
    assert "postgresql://tide:***@db/t?sslpassword=***" in shown
    with pytest.raises(InvalidSettings) as caught:
        load("[serve]\nport = 'http://a:hunter2@b'")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("s3://bucket/folder", "s3://bucket/folder"),
        ("postgresql://me@host/db", "postgresql://me@host/db"),
        ("x://a:b@c and y://d:e@f", "x://a:***@c and y://d:***@f"),
        ("x://a:p@ss@c", "x://a:***@c"),
        ("x://c/?token=abc&n=1", "x://c/?token=***&n=1"),
        ("x://c/?passwd=abc&odbc_connect=PWD%3Dabc", "x://c/?passwd=***&odbc_connect=***"),
    ],
)
def test_masking(text: str, shown: str) -> None:
    """Only the secret is masked."""
    assert mask_url(text) == shown


def test_rows_show_every_setting_with_its_default() -> None:
    """What is shown is complete, and what a default amounts to is shown too."""
    rows = {row.key: row.value for row in load().rows()}
    assert set(rows) == set(KEYS)
    assert rows["store.url"].startswith("sqlite:///")
    assert rows["serve.port"] == "8080"


def test_variables_are_unambiguous() -> None:
    """No two settings share an environment variable."""
    assert len({variable(key) for key in KEYS}) == len(KEYS)
