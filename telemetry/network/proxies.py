"""The proxy between a client and its server: which one, and whose fault it is when nothing comes back.

The environment is read here, not by aiohttp (trust_env): that also reads ~/.netrc, whose password would go where only
the token may, on the default thread pool, which is gone at exit, when the last events are still to be sent.
"""

from __future__ import annotations

import logging
from urllib.parse import urlsplit

from telemetry.network.credentials import is_loopback
from telemetry.retry import said_by

__all__ = ["proxy_for", "refusal_on_the_way", "said_on_the_way"]

log = logging.getLogger(__name__)


def proxy_for(url: str, *, trust_env: bool = True) -> str | None:
    """Return the proxy that HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY (either case) name for a server.

    None for a server on this machine, whatever they say: no proxy elsewhere could reach it.
    """
    # The stubs know proxy_bypass alone, which asks the system on macOS; the environment is all that is meant here.
    from urllib.request import getproxies_environment, proxy_bypass_environment  # type: ignore[attr-defined]

    parts = urlsplit(url)
    if not trust_env or parts.hostname is None or is_loopback(parts.hostname):
        return None
    proxies = getproxies_environment()
    if proxy_bypass_environment(parts.netloc.rpartition("@")[2], proxies):
        return None
    proxy: str | None = proxies.get(parts.scheme) or proxies.get("all")
    if proxy is None:
        return None
    if "://" not in proxy:
        proxy = f"http://{proxy}"
    if urlsplit(proxy).scheme.lower() not in ("http", "https"):
        log.warning("the proxy %s is not an http:// or https:// one; %s is reached without it", _shown(proxy), url)
        return None
    return proxy


def said_on_the_way(error: BaseException, proxy: str | None) -> str:
    """Return what a network error says in one line; of a proxy's, that it is the proxy's."""
    import aiohttp

    if proxy is not None and isinstance(error, aiohttp.ClientProxyConnectionError):
        return f"its proxy {_shown(proxy)} cannot be reached: {said_by(error)} (HTTP_PROXY, NO_PROXY)"
    if proxy is not None and isinstance(error, aiohttp.ClientHttpProxyError):
        return f"its proxy {_shown(proxy)} refuses the connection ({error.status} {error.message})"
    return said_by(error)


def refusal_on_the_way(status: int, is_ours: bool, proxy: str | None) -> str:
    """Return who refuses a request if it is not the server, "" if it is.

    Args:
        is_ours: the answer has the form of a telemetry server's, which says in JSON why it refuses.
    """
    if status == 407 or (status in (401, 403) and not is_ours):
        return f"its proxy {_shown(proxy)}" if proxy is not None else "something in front of it, not the server itself,"
    return ""


def _shown(proxy: str) -> str:
    """Return a proxy's address without the password that it may hold."""
    scheme, separator, rest = proxy.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2].rstrip('/')}"
