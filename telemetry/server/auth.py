"""Who may ask: tokens with scopes, and what protects a server without any from other people's web pages.

Every request passes `guard`, which alone decides what it may do: `SCOPES` says what each route needs, and a
route that is not named there needs an admin. Handlers that list or take several tasks narrow their answer to
the projects of `access_of(request)`; every other route about a task is checked here.

A page on any site can make the user's browser send requests to 127.0.0.1. Two checks stop that: without
tokens the Host header must name this machine (DNS rebinding gives it the attacker's name), and a request that
changes something must not come from another origin.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
from collections.abc import AsyncIterator
from functools import lru_cache
from urllib.parse import urlsplit

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from telemetry.network.credentials import is_loopback
from telemetry.server.access import EVERYTHING, TOKENS, Access, may_read_project, set_access
from telemetry.server.config import CONFIG, STORE, ServerConfig
from telemetry.server.live import HUB
from telemetry.server.params import task_id_of
from telemetry.server.shared.seams import Tokens
from telemetry.server.sockets.connections import trust
from telemetry.server.tokens import Scope
from telemetry.server.upkeep.address import is_local

__all__ = ["SCOPES", "guard", "run_tokens", "scope_of"]

# Answers without a token: a load balancer's question, which tells nothing.
_OPEN_PATHS = frozenset({"/healthz"})
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

# (method, route) -> what it needs; None is any valid token. A route that is not here needs an admin.
SCOPES: dict[tuple[str, str], Scope | None] = {
    ("POST", "/api/v1/frames"): Scope.INGEST,
    # Which version answers: a sender wants to know it too.
    ("GET", "/api/v1/server"): None,
    ("GET", "/api/v1/tasks"): Scope.READ,
    ("POST", "/api/v1/tasks/query"): Scope.READ,
    ("POST", "/api/v1/tasks/records"): Scope.READ,
    ("POST", "/api/v1/tasks/{task_id}/changes"): Scope.INGEST,
    # What cannot be undone is for operators.
    ("POST", "/api/v1/tasks/{task_id}/delete"): Scope.ADMIN,
    ("POST", "/api/v1/prune"): Scope.ADMIN,
    # And asked for on the server's machine only.
    ("POST", "/api/v1/backup"): Scope.ADMIN,
    ("GET", "/api/v1/choices"): Scope.READ,
    ("GET", "/api/v1/projects"): Scope.READ,
    ("GET", "/api/v1/tasks/{task_id}"): Scope.READ,
    ("GET", "/api/v1/tasks/{task_id}/record"): Scope.READ,
    ("GET", "/api/v1/tasks/{task_id}/series"): Scope.READ,
    ("GET", "/api/v1/tasks/{task_id}/points"): Scope.READ,
    ("GET", "/api/v1/tasks/{task_id}/bands"): Scope.READ,
    ("GET", "/api/v1/tasks/{task_id}/console"): Scope.READ,
    ("GET", "/api/v1/tasks/{task_id}/models"): Scope.READ,
    ("GET", "/api/v1/tasks/{task_id}/values"): Scope.READ,
    ("GET", "/api/v1/tasks/{task_id}/plots"): Scope.READ,
    ("GET", "/api/v1/tasks/{task_id}/media"): Scope.READ,
    ("GET", "/api/v1/tasks/{task_id}/export/points"): Scope.READ,
    ("GET", "/api/v1/tasks/{task_id}/export/plots"): Scope.READ,
    ("GET", "/api/v1/tasks/{task_id}/export/console"): Scope.READ,
    ("GET", "/api/v1/tasks/{task_id}/export/events"): Scope.READ,
    # A sender asks how much of its own has arrived, and what is missing; what it sent it may not read.
    ("GET", "/api/v1/tasks/{task_id}/blobs"): Scope.INGEST,
    ("HEAD", "/api/v1/tasks/{task_id}/blobs/{sha256}"): None,
    ("PATCH", "/api/v1/tasks/{task_id}/blobs/{sha256}"): Scope.INGEST,
    ("GET", "/api/v1/tasks/{task_id}/blobs/{sha256}"): Scope.READ,
    ("GET", "/api/v1/models"): Scope.READ,
    ("GET", "/api/v1/models/{model_id}"): Scope.READ,
    ("GET", "/api/v1/live"): Scope.READ,
    ("GET", "/"): Scope.READ,
    ("GET", "/tasks/{task_id}"): Scope.READ,
    ("GET", "/compare"): Scope.READ,
    ("GET", "/static/vendor/plotly.min.js"): Scope.READ,
    ("GET", "/static/{name}"): Scope.READ,
    ("GET", "/favicon.ico"): Scope.READ,
}
# Shells without data, and routes whose handlers narrow their answer to the sender's projects.
_NARROWED = frozenset(
    {
        "/",
        "/favicon.ico",
        "/static/vendor/plotly.min.js",
        "/static/{name}",
        "/tasks/{task_id}",
        "/compare",
        "/api/v1/server",
        "/api/v1/frames",
        "/api/v1/tasks",
        "/api/v1/tasks/query",
        "/api/v1/tasks/records",
        "/api/v1/choices",
        "/api/v1/projects",
        "/api/v1/models",
        "/api/v1/models/{model_id}",
        "/api/v1/live",
    }
)

# How often a running server looks whether tokens were made or revoked: one stat.
_REFRESH_S = 1.0


@web.middleware
async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse what must not be answered.

    401 without a valid token; 403 for a token of another scope, another host or origin; 404 for a task
    of a project that the token does not reach.
    """
    config, tokens = request.app[CONFIG], request.app[TOKENS]
    if not tokens.required:
        if not _host_is_ours(request, config):
            raise web.HTTPForbidden(text="this server does not answer under that host name")
        set_access(request, EVERYTHING)
        trust(request)
    elif request.path not in _OPEN_PATHS:
        access = _authenticate(request, config, tokens)
        if access is None:
            raise _unauthorized("a token is needed: send it as a bearer token, or as the password in a browser")
        trust(request)
        _check_scope(request, access)
        set_access(request, access)
        await _check_project(request, access)
    if request.method not in _SAFE_METHODS and _is_cross_origin(request):
        raise web.HTTPForbidden(text="a request from another origin is not taken")
    return await handler(request)


async def run_tokens(app: web.Application) -> AsyncIterator[None]:
    """Follow the tokens' file for the application's life (a cleanup context); end streams of ended tokens."""
    tokens, hub = app[TOKENS], app[HUB]

    async def follow() -> None:
        while True:
            await asyncio.sleep(_REFRESH_S)
            tokens.refresh()
            hub.close_unless(lambda access: not access.token_id or tokens.is_valid(access.token_id))

    following = asyncio.create_task(follow())
    yield
    following.cancel()


def scope_of(request: web.Request) -> Scope | None:
    """Return what a request needs; None is any valid token."""
    method = request.method
    resource = request.match_info.route.resource
    if resource is None:
        # No such route: whoever may read may also learn that.
        return Scope.READ if method in _SAFE_METHODS else Scope.ADMIN
    if method == "HEAD" and (method, resource.canonical) not in SCOPES:
        method = "GET"
    return SCOPES.get((method, resource.canonical), Scope.ADMIN)


def _unauthorized(text: str) -> web.HTTPUnauthorized:
    # Basic as well as Bearer: it is what a browser can ask its user for.
    return web.HTTPUnauthorized(text=text, headers={hdrs.WWW_AUTHENTICATE: 'Basic realm="telemetry", charset="UTF-8"'})


def _authenticate(request: web.Request, config: ServerConfig, tokens: Tokens) -> Access | None:
    if is_local(request):
        return EVERYTHING
    given = _given_token(request)
    if given is None:
        return None
    if config.token is not None and hmac.compare_digest(
        given.encode("utf-8", "surrogateescape"), config.token.encode("utf-8", "surrogateescape")
    ):
        return EVERYTHING
    token = tokens.find(given)
    return None if token is None else Access(token.scopes, token.projects, token.id)


def _check_scope(request: web.Request, access: Access) -> None:
    needed = scope_of(request)
    if needed is None or access.may(needed):
        return
    scopes = " and ".join(sorted(access.scopes))
    text = f"token {access.token_id} has scope {scopes}; this request needs {needed}"
    if request.headers.get(hdrs.AUTHORIZATION, "").lower().startswith("basic"):
        # A browser keeps what it was given until it is asked again.
        raise _unauthorized(text)
    raise web.HTTPForbidden(text=text)


async def _check_project(request: web.Request, access: Access) -> None:
    if access.projects is None:
        return
    resource = request.match_info.route.resource
    task_id = request.match_info.get("task_id") or request.query.get("task")
    route = "" if resource is None else resource.canonical
    if task_id is None or not route.startswith("/api/"):
        if route not in _NARROWED:
            raise web.HTTPForbidden(text=f"token {access.token_id} is limited to projects, and this is about none")
        return
    project = await asyncio.to_thread(request.app[STORE].project_of, task_id_of(task_id))
    if project is None or not may_read_project(access, project):
        # As for a task that does not exist: whether it does is not theirs to know.
        raise web.HTTPNotFound(text=f"no task {task_id}")


def _host_is_ours(request: web.Request, config: ServerConfig) -> bool:
    name = _host_name(request.headers.get(hdrs.HOST, ""))
    return name is not None and (_is_loopback(name) or name == config.host.lower() or name in config.allowed_hosts)


# Of the few hosts that a server's clients name, and some that strangers do.
_MAX_HOSTS = 256


@lru_cache(_MAX_HOSTS)
def _host_name(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return None


_is_loopback = lru_cache(_MAX_HOSTS)(is_loopback)


def _is_cross_origin(request: web.Request) -> bool:
    origin = request.headers.get(hdrs.ORIGIN)
    if origin is not None:
        try:
            return urlsplit(origin).netloc.lower() != request.headers.get(hdrs.HOST, "").lower()
        except ValueError:
            return True
    return request.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin")


def _given_token(request: web.Request) -> str | None:
    scheme, _, credentials = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    given = credentials.strip()
    if scheme.lower() == "bearer":
        return given
    if scheme.lower() != "basic":
        return None
    try:
        return base64.b64decode(given, validate=True).decode().partition(":")[2]
    except (binascii.Error, ValueError):
        return None
