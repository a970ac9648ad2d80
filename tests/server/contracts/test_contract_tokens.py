"""The contract of tokens: see telemetry/server/shared/seams.py. Another way to keep them is a line more in KEEPERS."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from telemetry.server.shared.seams import Tokens
from telemetry.server.tokens import Scope, Token, TokenFile, TokenRegistry


class Clock:
    """What time it is, Unix s."""

    def __init__(self) -> None:
        self.now_unix_s = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now_unix_s


@dataclass
class Kept:
    """Where an operator makes tokens, and the servers that ask for them."""

    create: Callable[..., tuple[Token, str]]
    revoke: Callable[[str], Token]
    server: Callable[[bool], Tokens]


def in_a_file(directory: Path, clock: Clock) -> Kept:
    file = TokenFile(directory, clock=clock)
    return Kept(file.create, file.revoke, lambda always: TokenRegistry(directory, always=always, clock=clock))


KEEPERS: dict[str, Callable[[Path, Clock], Kept]] = {"file": in_a_file}


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=KEEPERS)
def kept(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> Kept:
    return KEEPERS[request.param](tmp_path, clock)


class TestTokens:
    def test_a_token_that_was_made_is_found_at_once_by_every_server(self, kept: Kept) -> None:
        servers = [kept.server(False), kept.server(False)]
        token, text = kept.create([Scope.READ], projects=["vision"])
        for server in servers:
            found = server.find(text)
            assert found == token
            assert server.is_valid(token.id)

    def test_nobody_is_let_in_without_one_once_there_was_one(self, kept: Kept) -> None:
        servers = [kept.server(False), kept.server(True)]
        assert [server.required for server in servers] == [False, True]
        token, _ = kept.create([Scope.ADMIN])
        kept.revoke(token.id)
        servers[0].refresh()
        assert [server.required for server in [*servers, kept.server(False)]] == [True, True, True]

    def test_one_that_was_revoked_is_refused_after_a_refresh(self, kept: Kept) -> None:
        servers = [kept.server(False), kept.server(False)]
        token, text = kept.create([Scope.INGEST])
        _, other = kept.create([Scope.INGEST])
        assert all(server.find(text) for server in servers)
        kept.revoke(token.id)
        for server in servers:
            server.refresh()
            assert server.find(text) is None
            assert not server.is_valid(token.id)
            assert server.find(other) is not None

    def test_one_that_has_expired_is_refused_without_a_refresh(self, kept: Kept, clock: Clock) -> None:
        server = kept.server(False)
        token, text = kept.create([Scope.READ], lifetime_s=60)
        assert server.find(text) is not None
        clock.now_unix_s += 60
        assert server.find(text) is None
        assert not server.is_valid(token.id)

    def test_what_is_no_token_or_has_another_secret_is_refused(self, kept: Kept) -> None:
        server = kept.server(False)
        token, text = kept.create([Scope.READ])
        wrong = text[:-1] + ("a" if text[-1] != "a" else "b")
        for given in ("", "tlm_", wrong, text + "a", text.upper(), f"tlm_{'0' * 12}_{text[-43:]}"):
            assert server.find(given) is None, given
        assert not server.is_valid("")
        assert server.is_valid(token.id)
