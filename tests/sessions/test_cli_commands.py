"""The commands, run as a user runs them: settings, version, help, server, and what each exit code means."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest
from sdk_support import environment

from telemetry.cli import main
from telemetry.client import Client
from telemetry.errors import ServerError, ServerUnreachable
from telemetry.settings import Settings


@pytest.fixture(autouse=True)
def state_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith("TELEMETRY_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("TELEMETRY_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "state"


@pytest.fixture
def server(state_dir: Path, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Run `telemetry server` on a free port; stopped at the end if the test has not done it."""
    with subprocess.Popen(
        [sys.executable, "-m", "telemetry.cli", "server", "--port", "0"],
        env=environment(state_dir),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        yield process
        process.terminate()


def test_help_names_every_command_and_the_first_steps(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])

    said = capsys.readouterr().out
    assert ended.value.code == 0
    for word in ("server", "demo", "sync", "import", "settings", "version", "TELEMETRY_URL=", "first steps"):
        assert word in said


@pytest.mark.parametrize("line", [[], ["nonsense"], ["server", "--port", "many"], ["import"]])
def test_a_wrong_command_line_is_exit_code_2(line: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(line)

    assert ended.value.code == 2
    assert "usage: telemetry" in capsys.readouterr().err


def test_a_folder_that_cannot_be_made_is_said_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = tmp_path / "link"
    directory.symlink_to(tmp_path / "gone" / "folder")
    assert main(["server", "--port", "0", "--no-watch", "--directory", str(directory)]) == 78
    said = capsys.readouterr().err
    assert said.startswith(f"telemetry: the server's data cannot be kept in {directory}: ")
    assert "--directory" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("command", ["server", "demo", "sync", "import", "export", "salvage", "settings", "version"])
def test_every_command_says_in_a_sentence_of_its_own_what_it_does(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    described = capsys.readouterr().out.split("\n\n")[1]
    assert described[0].isupper(), described
    assert len(described.split()) >= 5, described


def test_help_imports_nothing_of_weight(state_dir: Path) -> None:
    source = (
        "import sys\nfrom telemetry.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: print('LOADED', *sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", source], env=environment(state_dir), capture_output=True, text=True, check=True
    )

    loaded = done.stdout.rpartition("LOADED")[2].split()
    assert not {"aiohttp", "asyncio", "numpy", "sqlalchemy", "telemetry.pipeline"} & set(loaded)


def test_settings_are_listed_each_with_its_origin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TELEMETRY_URL", "http://somewhere:8008")
    monkeypatch.setenv("TELEMETRY_TOKEN", "sesame")
    (tmp_path / "telemetry.toml").write_text("flush_interval_s = 2.5\n")

    assert main(["settings"]) == 0

    said = capsys.readouterr().out
    for item in fields(Settings):
        if "env" in item.metadata:
            assert f"{item.metadata['env']}=" in said
            assert item.metadata["doc"] in said
    assert "TELEMETRY_URL=http://somewhere:8008\n" in said
    assert "(url, from TELEMETRY_URL)" in said
    assert "TELEMETRY_FLUSH_INTERVAL=2.5" in said
    assert f"(flush_interval_s, from flush_interval_s in {tmp_path / 'telemetry.toml'})" in said
    assert "(mode, from default)" in said
    assert "sesame" not in said


def test_a_setting_that_cannot_be_used_is_exit_code_78(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TELEMETRY_MODE", "sideways")

    assert main(["settings"]) == 78
    assert "TELEMETRY_MODE" in capsys.readouterr().err


def test_version_names_what_a_bug_report_needs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version"]) == 0

    said = capsys.readouterr().out
    for word in ("telemetry-tasks ", "python ", "aiohttp ", "numpy "):
        assert word in said


def first_line(server: subprocess.Popen[str]) -> str:
    assert server.stdout is not None
    return server.stdout.readline()


def test_a_server_prints_where_it_is_and_answers(server: subprocess.Popen[str], state_dir: Path) -> None:
    line = first_line(server)
    url = line.split()[2]

    assert url.startswith("http://127.0.0.1:")
    assert str(state_dir / "server") in line
    with Client(url) as client:
        assert client.server()["api"] == 1
        assert client.tasks()["total"] == 0
        assert client.projects() == []
        with pytest.raises(ServerError, match="404") as refused:
            client.task("0" * 32)
    assert refused.value.status == 404
    assert (state_dir / "server").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_server_cleanly(server: subprocess.Popen[str], number: signal.Signals) -> None:
    first_line(server)

    server.send_signal(number)
    _, errors = server.communicate(timeout=30)

    assert server.returncode == 0
    assert errors == ""


def test_a_server_for_a_parent_ends_with_its_standard_input(state_dir: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "telemetry.cli", "server", "--port", "0", "--until-eof"]
    with subprocess.Popen(
        command, env=environment(state_dir), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        first_line(process)
        process.communicate(timeout=30)

    assert process.returncode == 0


def test_a_port_that_is_taken_is_said(state_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        assert main(["server", "--port", str(port)]) == 78

    assert f"port {port}" in capsys.readouterr().err


def test_a_server_for_everybody_wants_a_token(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["server", "--host", "0.0.0.0", "--port", "0"]) == 78

    assert "without a token" in capsys.readouterr().err


def test_a_missing_extra_is_named_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "numpy", None)
    for name in [name for name in sys.modules if name.startswith(("telemetry.server", "telemetry.commands.demo"))]:
        monkeypatch.delitem(sys.modules, name)

    assert main(["demo", "--once"]) == 78

    assert "needs numpy, which is not installed: pip install 'telemetry-tasks[server]'" in capsys.readouterr().err


def test_a_client_says_when_nobody_or_somebody_else_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with Client(f"http://127.0.0.1:{port}") as client, pytest.raises(ServerUnreachable, match="telemetry server"):
        client.server()
