"""Who may ask: the token, and what protects a server that has none from other people's web pages.

A page on any site can make the user's browser send requests to 127.0.0.1. Two checks stop that: the
Host header must name this machine (DNS rebinding gives it the attacker's name), and a request that
changes something must not come from another origin.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from urllib.parse import urlsplit

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from telemetry.server.config import CONFIG, ServerConfig, is_loopback

__all__ = ["guard"]

# Answers without a token: a load balancer's question, which tells nothing.
_OPEN_PATHS = frozenset({"/healthz"})
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


@web.middleware
async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse what must not be answered: 401 without the token, 403 for another host or origin."""
    config = request.app[CONFIG]
    if config.token is None:
        if not _host_is_ours(request, config):
            raise web.HTTPForbidden(text="this server does not answer under that host name")
    elif request.path not in _OPEN_PATHS and not _has_token(request, config.token):
        # Basic as well as Bearer: it is what a browser can ask its user for.
        raise web.HTTPUnauthorized(
            text="a token is needed: send it as a bearer token, or as the password in a browser",
            headers={hdrs.WWW_AUTHENTICATE: 'Basic realm="telemetry", charset="UTF-8"'},
        )
    if request.method not in _SAFE_METHODS and _is_cross_origin(request):
        raise web.HTTPForbidden(text="a request from another origin is not taken")
    return await handler(request)


def _host_is_ours(request: web.Request, config: ServerConfig) -> bool:
    try:
        name = urlsplit(f"//{request.headers.get(hdrs.HOST, '')}").hostname or ""
    except ValueError:
        return False
    return is_loopback(name) or name == config.host.lower() or name in config.allowed_hosts


def _is_cross_origin(request: web.Request) -> bool:
    origin = request.headers.get(hdrs.ORIGIN)
    if origin is not None:
        try:
            return urlsplit(origin).netloc.lower() != request.headers.get(hdrs.HOST, "").lower()
        except ValueError:
            return True
    return request.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin")


def _has_token(request: web.Request, token: str) -> bool:
    scheme, _, credentials = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    given = credentials.strip()
    if scheme.lower() == "basic":
        try:
            given = base64.b64decode(given, validate=True).decode().partition(":")[2]
        except (binascii.Error, ValueError):
            return False
    elif scheme.lower() != "bearer":
        return False
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), token.encode())
