"""Tokens: who may do what, kept as hashes in one file of the server's directory.

A token reads `tlm_<id>_<secret>`: a prefix that secret scanners can look for, 12 hexadecimal digits to find
the entry by, and 256 random bits. It is shown once, when it is made; the file has the SHA-256 of the secret.
No slow, salted hash is needed: those make guessing a human's password expensive, while 2^256 equally
likely secrets cannot be guessed at any price, and a slow hash would be paid on every request.

The file is only ever replaced whole, so the command line changes it while the server runs. Once it exists
every request needs a token, also when all in it are revoked: losing the last key does not open the door.
"""

from __future__ import annotations

import enum
import hashlib
import hmac
import json
import logging
import os
import re
import secrets
import string
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from telemetry.disk import make_private_folder
from telemetry.errors import ConfigurationError

__all__ = ["TOKENS_FILE", "TOKEN_PATTERN", "Scope", "Token", "TokenFile", "TokenRegistry", "in_projects"]

log = logging.getLogger("telemetry.server")

TOKENS_FILE = "tokens.json"
LOCK_FILE = "tokens.lock"
FORMAT = 1

PREFIX = "tlm"
ID_DIGITS = 12
_ALPHABET = string.ascii_letters + string.digits
# 43 of 62 characters hold 256 bits; no punctuation, so that a double click takes the whole token.
SECRET_CHARS = 43
TOKEN_PATTERN = re.compile(rf"{PREFIX}_([0-9a-f]{{{ID_DIGITS}}})_([0-9A-Za-z]{{{SECRET_CHARS}}})")

MAX_NAME_CHARS = 200


class Scope(enum.StrEnum):
    """What a token is for."""

    # Send frames and nothing else: what a training job has. It cannot read, not even what it wrote.
    INGEST = "ingest"
    # Look at pages and ask the read API: what people and dashboards have.
    READ = "read"
    # Everything, and whatever later changes or deletes: what operators have.
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Token:
    """An entry of the file: everything about a token but its secret.

    Attributes:
        projects: it reaches these and what is below them ("vision" also reaches "vision/cars"); None for all.
        sha256: of the secret, as hexadecimal digits.
    """

    id: str
    name: str
    scopes: frozenset[Scope]
    projects: tuple[str, ...] | None
    created_unix_s: int
    expires_unix_s: int | None
    revoked_unix_s: int | None
    sha256: str = field(repr=False)

    def state(self, now_unix_s: float) -> str:
        """Return "valid", "expired" or "revoked"."""
        if self.revoked_unix_s is not None:
            return "revoked"
        return "expired" if self.expires_unix_s is not None and now_unix_s >= self.expires_unix_s else "valid"


class TokenFile:
    """The tokens of one server's directory. Every method reads the file anew; safe with other processes.

    Raises (all methods):
        ConfigurationError: the file is there and cannot be read or is not one of ours.
    """

    def __init__(self, directory: Path, *, clock: Callable[[], float] = time.time) -> None:
        self.path = directory / TOKENS_FILE
        self._clock = clock

    def exists(self) -> bool:
        """Say whether a token was ever made here."""
        return self.path.exists()

    def tokens(self) -> list[Token]:
        """Return all tokens, also revoked and expired ones, in the order they were made."""
        try:
            text = self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return []
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"the tokens in {self.path} cannot be read: {error}") from error
        try:
            document = json.loads(text)
            if document["format"] != FORMAT:
                raise ValueError(f"format {document['format']!r:.20}, this version knows {FORMAT}")
            return [_token_of(entry) for entry in document["tokens"]]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ConfigurationError(f"the tokens in {self.path} cannot be read: {error!r:.200}") from error

    def create(
        self,
        scopes: Iterable[Scope],
        *,
        projects: Iterable[str] | None = None,
        name: str = "",
        lifetime_s: float | None = None,
    ) -> tuple[Token, str]:
        """Make a token; return its entry and its text, which is kept nowhere.

        Raises:
            ConfigurationError: no scope, an unusable name or project, or an admin limited to projects.
        """
        kept_scopes = frozenset(scopes)
        kept_projects = tuple(dict.fromkeys(project.strip("/") for project in projects or ())) or None
        if not kept_scopes:
            raise ConfigurationError("a token needs a scope: ingest, read or admin")
        if kept_projects is not None and (Scope.ADMIN in kept_scopes or not all(kept_projects)):
            raise ConfigurationError(
                "an admin token opens everything and cannot be limited to projects"
                if Scope.ADMIN in kept_scopes
                else "a project's name is empty"
            )
        if len(name) > MAX_NAME_CHARS or not name.isprintable():
            raise ConfigurationError(f"a token's name is one printable line of at most {MAX_NAME_CHARS} characters")
        now_unix_s = int(self._clock())
        secret = "".join(secrets.choice(_ALPHABET) for _ in range(SECRET_CHARS))
        with self._changing() as tokens:
            token = Token(
                id=_fresh_id({item.id for item in tokens}),
                name=name,
                scopes=kept_scopes,
                projects=kept_projects,
                created_unix_s=now_unix_s,
                expires_unix_s=None if lifetime_s is None else now_unix_s + int(lifetime_s),
                revoked_unix_s=None,
                sha256=_digest(secret),
            )
            tokens.append(token)
        return token, f"{PREFIX}_{token.id}_{secret}"

    def revoke(self, token_id: str) -> Token:
        """End a token; a running server refuses it within two seconds. Revoking again changes nothing.

        Raises:
            ConfigurationError: there is no such token.
        """
        with self._changing() as tokens:
            for index, token in enumerate(tokens):
                if token.id == token_id:
                    if token.revoked_unix_s is None:
                        tokens[index] = replace(token, revoked_unix_s=int(self._clock()))
                    return tokens[index]
            raise ConfigurationError(f"there is no token {token_id[:60]!r}; `telemetry token list` shows all")

    @contextmanager
    def _changing(self) -> Iterator[list[Token]]:
        make_private_folder(self.path.parent)
        with _locked(self.path.with_name(LOCK_FILE)):
            tokens = self.tokens()
            yield tokens
            self._write(tokens)

    def _write(self, tokens: Iterable[Token]) -> None:
        document = {"format": FORMAT, "tokens": [_entry_of(token) for token in tokens]}
        part = self.path.with_name(f".{TOKENS_FILE}.{os.getpid()}")
        try:
            # Written aside and renamed: the server never reads half of it.
            with open(part, "w", encoding="utf-8", opener=_open_private) as file:
                json.dump(document, file, indent=1)
                file.flush()
                os.fsync(file.fileno())
            part.replace(self.path)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise ConfigurationError(f"{self.path} cannot be written: {error}; nothing was changed") from error


class TokenRegistry:
    """The tokens as a running server holds them. Lives on the event loop.

    Args:
        always: tokens are asked for even where none was ever made.
    """

    def __init__(self, directory: Path, *, always: bool, clock: Callable[[], float] = time.time) -> None:
        self._file = TokenFile(directory)
        self._clock = clock
        self._tokens: dict[str, Token] = {}
        self._stamp: tuple[int, int, int] | None = None
        self._required = always
        self.refresh()

    @property
    def required(self) -> bool:
        """True once a token was ever made: from then on nobody is let in without one."""
        return self._required

    def refresh(self) -> None:
        """Read the file again if it was replaced: one stat where it was not."""
        try:
            status = self._file.path.stat()
            stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
        except FileNotFoundError:
            self._stamp, self._tokens = None, {}
            return
        except OSError as error:
            log.error("the tokens cannot be read, so none is accepted: %s", error)
            self._stamp, self._tokens = None, {}
            return
        self._required = True
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._tokens = {token.id: token for token in self._file.tokens()}
        except ConfigurationError as error:
            log.error("no token is accepted until this is mended: %s", error)
            self._tokens = {}

    def find(self, given: str) -> Token | None:
        """Return the valid token that `given` is, or None."""
        match = TOKEN_PATTERN.fullmatch(given)
        if match is None:
            return None
        token_id, secret = match.groups()
        if token_id not in self._tokens:
            # It may have been made a moment ago.
            self.refresh()
        token = self._tokens.get(token_id)
        if token is None or not hmac.compare_digest(_digest(secret), token.sha256):
            return None
        return token if token.state(self._clock()) == "valid" else None

    def is_valid(self, token_id: str) -> bool:
        """Say whether a token that was let in before still may."""
        token = self._tokens.get(token_id)
        return token is not None and token.state(self._clock()) == "valid"


def in_projects(project: str, projects: Iterable[str]) -> bool:
    """Say whether a project is one of `projects` or below one of them."""
    return any(project == allowed or project.startswith(f"{allowed}/") for allowed in projects)


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _fresh_id(taken: set[str]) -> str:
    while (token_id := secrets.token_hex(ID_DIGITS // 2)) in taken:
        continue
    return token_id


def _entry_of(token: Token) -> dict[str, Any]:
    return {
        "id": token.id,
        "name": token.name,
        "scopes": sorted(token.scopes),
        "projects": None if token.projects is None else list(token.projects),
        "created_unix_s": token.created_unix_s,
        "expires_unix_s": token.expires_unix_s,
        "revoked_unix_s": token.revoked_unix_s,
        "sha256": token.sha256,
    }


def _token_of(entry: Mapping[str, Any]) -> Token:
    projects = entry["projects"]
    if projects is not None and not (projects and all(isinstance(item, str) and item for item in projects)):
        # An empty list must not become "all projects" by mistake.
        raise ValueError("the projects of a token are neither null nor a list of names")
    return Token(
        id=str(entry["id"]),
        name=str(entry["name"]),
        scopes=frozenset(Scope(scope) for scope in entry["scopes"]),
        projects=None if projects is None else tuple(projects),
        created_unix_s=int(entry["created_unix_s"]),
        expires_unix_s=None if entry["expires_unix_s"] is None else int(entry["expires_unix_s"]),
        revoked_unix_s=None if entry["revoked_unix_s"] is None else int(entry["revoked_unix_s"]),
        sha256=str(entry["sha256"]),
    )


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an advisory lock, so that two commands at once do not lose each other's token."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            import fcntl
        except ImportError:
            pass  # Windows: two commands at the same instant are left to the user
        else:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
