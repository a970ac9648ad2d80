"""A server that is killed or has no space at any moment, while it seals and merges: what it acknowledged is there."""

from __future__ import annotations

from pathlib import Path

import pytest
from hasty_server import HastyServer
from injectors import small_disk
from store_faults import (
    Filler,
    Load,
    differences,
    fill_again_and_again,
    integrity,
    kill_again_and_again,
    send_again,
)
from store_spoilers import SPOILERS

pytestmark = pytest.mark.slow


def test_a_store_that_is_killed_again_and_again_is_one_that_was_never_killed(tmp_path: Path) -> None:
    killed, quiet = HastyServer(tmp_path / "killed"), HastyServer(tmp_path / "quiet", haste={})
    # given senders of all kinds, and a server that is killed under them
    with Load(killed, seed=1) as load:
        ways = kill_again_and_again(load, 8)
        killed.start()
        assert killed.until_ready()
        steps = load.finish()
    assert (load.wrong, ways.total()) == ([], 8)
    assert load.totals["tasks read back"] > 20
    # when the same is sent once to one that nobody kills
    quiet.start()
    assert quiet.until_ready()
    send_again(quiet, 1, steps)
    # then nobody can tell them apart
    assert differences(killed.url, quiet.url, tmp_path / "exports") == []
    for server in (killed, quiet):
        server.stop()
        assert integrity(server.directory) == "ok"


@pytest.mark.parametrize("spoiler", SPOILERS)
def test_a_store_that_loses_or_doubles_is_found(spoiler: str, tmp_path: Path) -> None:
    # given a server that is broken on purpose
    killed = HastyServer(tmp_path / "killed", spoiler=SPOILERS[spoiler])
    with Load(killed, seed=1) as load:
        # when it is killed under the same senders
        kill_again_and_again(load, 5)
        killed.start()
        assert killed.until_ready()
        load.finish()
    killed.stop()
    # then a sender misses something, or has something twice
    assert load.wrong
    assert all("acknowledged" in said or "has sent" in said for said in load.wrong), load.wrong


def test_a_full_disk_puts_senders_off_and_harms_nothing(tmp_path: Path) -> None:
    quiet = HastyServer(tmp_path / "quiet", haste={})
    with small_disk(tmp_path / "disk", 64 * 1024 * 1024) as disk:
        server = HastyServer(disk / "server", log=tmp_path / "server.log")
        server.start()
        assert server.until_ready()
        # given senders, and a disk that is full three times; once the server is started then
        with Load(server, seed=2) as load:
            seen = fill_again_and_again(load, Filler(disk), 3)
            steps = load.finish()
        # then all that was acknowledged could be read meanwhile, and it went on
        assert load.wrong == []
        assert seen["lanes read back while it was full"] > 10
        assert {refusal.status for refusal in load.refusals} <= {503, 507}
        # and nobody can tell it from one that had space
        quiet.start()
        assert quiet.until_ready()
        send_again(quiet, 2, steps)
        assert differences(server.url, quiet.url, tmp_path / "exports") == []
        quiet.stop()
        server.stop()
