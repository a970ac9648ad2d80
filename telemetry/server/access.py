"""Access: what the sender of a request may do, as the guard found out and the handlers obey."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from aiohttp import web

from telemetry.server.shared.seams import Tokens
from telemetry.server.tokens import Scope, in_projects

__all__ = ["EVERYTHING", "NOTHING", "TOKENS", "Access", "access_of", "may_read_project", "set_access"]


@dataclass(frozen=True, slots=True)
class Access:
    """What a request may do.

    Attributes:
        projects: it may touch these and what is below them; None for all.
        token_id: of the token that gave it; "" where none did.
    """

    scopes: frozenset[Scope]
    projects: tuple[str, ...] | None = None
    token_id: str = ""

    def may(self, scope: Scope) -> bool:
        """Say whether it covers a scope; admin covers all."""
        return scope in self.scopes or Scope.ADMIN in self.scopes


EVERYTHING = Access(frozenset(Scope))
NOTHING = Access(frozenset())

TOKENS: web.AppKey[Tokens] = web.AppKey("tokens")
# Since aiohttp 3.14 a plain string as a key is warned about; before it there was nothing else.
_REQUEST_KEY: Any = web.RequestKey("telemetry.access", Access) if hasattr(web, "RequestKey") else "telemetry.access"


def set_access(request: web.Request, access: Access) -> None:
    """Note what a request may do; the guard's part."""
    request[_REQUEST_KEY] = access


def access_of(request: web.Request) -> Access:
    """Return what a request may do; nothing, if no guard has seen it."""
    access = request.get(_REQUEST_KEY, NOTHING)
    assert isinstance(access, Access)
    return access


def may_read_project(access: Access, project: str) -> bool:
    """Say whether it reaches a project."""
    return access.projects is None or in_projects(project, access.projects)
