"""Settings: one precedence, errors that name the origin, and no setting without its documentation."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import settings_table
from hypothesis import given
from hypothesis import strategies as st

from telemetry.errors import ConfigurationError
from telemetry.settings import Settings, default_state_dir


def load(cwd: Path | None = None, /, **environ: str) -> Settings:
    return Settings.load(environ=environ, cwd=cwd or Path("/nowhere"))


def test_each_source_beats_the_ones_below_it(tmp_path: Path) -> None:
    # Given one setting in every place where it can be
    config, project = tmp_path / "config", tmp_path / "project"
    (config / "telemetry").mkdir(parents=True)
    project.mkdir()
    user_file, project_file = config / "telemetry" / "config.toml", project / "telemetry.toml"
    environ = {"XDG_CONFIG_HOME": str(config)}
    origins = []

    def flush_interval(**arguments: float) -> float:
        settings = Settings.load(environ=environ, cwd=project, **arguments)
        origins.append(settings.origins.get("flush_interval_s", "default"))
        return settings.flush_interval_s

    # When the sources are added from the weakest to the strongest, then each takes over
    assert flush_interval() == 0.5
    user_file.write_text("flush_interval_s = 1")
    assert flush_interval() == 1
    project_file.write_text("flush_interval_s = 2.5")
    assert flush_interval() == 2.5
    environ["TELEMETRY_FLUSH_INTERVAL"] = "3"
    assert flush_interval() == 3
    assert flush_interval(flush_interval_s=4) == 4
    assert origins == [
        "default",
        f"flush_interval_s in {user_file}",
        f"flush_interval_s in {project_file}",
        "TELEMETRY_FLUSH_INTERVAL",
        "argument",
    ]


def test_telemetry_config_names_the_only_file(tmp_path: Path) -> None:
    (tmp_path / "telemetry.toml").write_text("quiet = true\nmode = 'offline'")
    (tmp_path / "other.toml").write_text("quiet = true")
    settings = load(tmp_path, TELEMETRY_CONFIG=str(tmp_path / "other.toml"))
    assert (settings.quiet, settings.mode) == (True, "online")
    with pytest.raises(ConfigurationError, match="is not a file"):
        load(TELEMETRY_CONFIG=str(tmp_path / "missing.toml"))


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("TELEMETRY_MODE", "onlien"),
        ("TELEMETRY_WHEN_FULL", "panic"),
        ("TELEMETRY_FLUSH_INTERVAL", "0"),
        ("TELEMETRY_FLUSH_INTERVAL", "-1"),
        ("TELEMETRY_FLUSH_INTERVAL", "nan"),
        ("TELEMETRY_FLUSH_INTERVAL", "inf"),
        ("TELEMETRY_FLUSH_INTERVAL", "often"),
        ("TELEMETRY_MAX_QUEUE_EVENTS", "0"),
        ("TELEMETRY_MAX_QUEUE_EVENTS", "1.5"),
        ("TELEMETRY_COMPRESSION", "10"),
        ("TELEMETRY_QUIET", "perhaps"),
        ("TELEMETRY_OFFLINE_MODE", "perhaps"),
        ("TELEMETRY_DIR", "~no-such-user-here/x"),
    ],
)
def test_a_value_that_cannot_be_used_is_named_with_its_origin(variable: str, text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(**{variable: text})
    assert variable in str(caught.value)
    assert text in str(caught.value)


def test_arguments_keep_to_the_same_rules() -> None:
    with pytest.raises(ConfigurationError, match=r"from argument"):
        Settings.load(environ={}, close_timeout_s=-1)
    with pytest.raises(ConfigurationError, match="no setting 'flush'"):
        Settings.load(environ={}, flush=1)
    settings = Settings.load(environ={}, url=None, quiet=True, state_dir=Path("/x"), max_queue_events=7)
    assert (settings.url, settings.quiet, settings.state_dir) == (None, True, Path("/x"))
    assert "url" not in settings.origins


@pytest.mark.parametrize("content", ["unheard_of = 1", "[flush]\ninterval = 1", "quiet = ", "quiet = 'perhaps'"])
def test_a_bad_file_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "telemetry.toml").write_text(content)
    with pytest.raises(ConfigurationError, match=r"telemetry\.toml|quiet"):
        load(tmp_path)
    (tmp_path / "telemetry.toml").write_bytes(b"quiet = '\xff'")
    with pytest.raises(ConfigurationError, match=r"telemetry\.toml"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("offline", "mode", "expected"),
    [("1", "", "offline"), ("true", "", "offline"), ("0", "", "online"), ("1", "disabled", "disabled")],
)
def test_offline_mode_is_a_short_form(offline: str, mode: str, expected: str) -> None:
    assert load(TELEMETRY_OFFLINE_MODE=offline, TELEMETRY_MODE=mode).mode == expected


def test_the_token_comes_from_a_file_and_is_shown_by_nobody(tmp_path: Path) -> None:
    secret = tmp_path / "token"
    secret.write_text("  s3cret\n")
    assert load(TELEMETRY_TOKEN_FILE=str(secret)).token == "s3cret"
    assert load(TELEMETRY_TOKEN_FILE=str(secret), TELEMETRY_TOKEN="other").token == "other"
    secret.write_bytes(b"\xff\xfe")
    for path in (secret, tmp_path / "missing"):
        with pytest.raises(ConfigurationError, match="TELEMETRY_TOKEN_FILE"):
            load(TELEMETRY_TOKEN_FILE=str(path))


@pytest.mark.parametrize(
    ("text", "expected"), [("http://h:8008/", "http://h:8008"), ("  ", None), ("zip:a.zip", "zip:/nowhere/a.zip")]
)
def test_a_url_is_taken_without_its_last_slash(text: str, expected: str | None) -> None:
    assert load(TELEMETRY_URL=text).url == expected


def test_a_home_is_expanded_though_no_shell_did(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert load(TELEMETRY_DIR="~/runs").state_dir == Path("/home/me/runs")


def test_the_state_folder_is_where_it_can_be_written(tmp_path: Path) -> None:
    assert default_state_dir({"XDG_STATE_HOME": "/state"}) == Path("/state/telemetry")
    assert default_state_dir({"HOME": str(tmp_path)}) == tmp_path / ".local" / "state" / "telemetry"
    for homeless in ({}, {"HOME": "/"}, {"HOME": str(tmp_path / "missing")}):
        assert default_state_dir(homeless).name == f"telemetry-{os.getuid()}"


def test_a_working_folder_that_is_gone_stops_nobody(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    # Given a job whose working folder is removed while it runs, as schedulers do
    program = "import shutil, sys; shutil.rmtree(sys.argv[1]); from telemetry.settings import Settings; Settings.load()"
    command = [sys.executable, "-c", program, str(gone)]
    done = subprocess.run(command, cwd=gone, capture_output=True, text=True, check=False, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")
    assert not gone.exists()
    shutil.rmtree(gone, ignore_errors=True)


@given(st.dictionaries(st.sampled_from([f.metadata["env"] for f in settings_table.settings_fields()]), st.text()))
def test_no_environment_raises_anything_else(environ: dict[str, str]) -> None:
    try:
        Settings.load(environ=environ, cwd=Path("/nowhere"))
    except ConfigurationError as error:
        assert "cannot be used" in str(error)


def test_every_setting_is_documented_as_it_is() -> None:
    page = settings_table.PAGE.read_text("utf-8")
    assert page == settings_table.replaced(page), "docs/settings.md is old: run python tests/tools/settings_table.py"
    assert all(f"`{item.metadata['env']}`" in page for item in settings_table.settings_fields())


def test_defaults_keep_to_their_own_rules() -> None:
    defaults = Settings.load(environ={}, cwd=Path("/nowhere"))
    for item in settings_table.settings_fields():
        value = getattr(defaults, item.name)
        if value is not None:
            assert item.metadata["parse"](str(value)) == value
