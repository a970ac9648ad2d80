"""A client's token: where it is read, to whom it may be sent, and that nobody else sees it.

Tokens travel in one place only, the Authorization header. An address that holds a password is refused,
since addresses are printed, logged and kept in browsers' histories.
"""

from __future__ import annotations

import ipaddress
import logging
import re
from pathlib import Path
from urllib.parse import urlsplit

from telemetry.errors import ConfigurationError
from telemetry.settings import read_token_file

__all__ = ["Credentials", "is_loopback", "refuse_password_in_url", "server_address", "with_scheme"]

log = logging.getLogger(__name__)


class Credentials:
    """The token that a client sends, if it has one. Its repr does not show it.

    Args:
        token: None or "" sends none.
        file: where the token came from, if it may change there: a mounted Kubernetes secret is rotated
            while the job runs.
    """

    __slots__ = ("_file", "_token", "_warned")

    def __init__(self, token: str | None = None, *, file: Path | None = None) -> None:
        self._token = token or (read_token_file(file) if file is not None else "")
        self._file = file
        self._warned = False

    def __repr__(self) -> str:
        return f"Credentials({'***' if self._token else 'none'}, file={self._file})"

    def headers(self) -> dict[str, str]:
        """Return the headers that carry the token; none without one."""
        return {"Authorization": f"Bearer {self._token}"} if self._token else {}

    def hide(self, data: bytes) -> bytes:
        """Return `data` with the token in it, should it be there, made unreadable."""
        return data.replace(self._token.encode(), b"***") if self._token else data

    def copy(self) -> Credentials:
        """Return the same credentials for another client."""
        return Credentials(self._token, file=self._file)

    def reread(self) -> bool:
        """Read the token's file again; True if it holds another token now. Blocks on the file."""
        if self._file is None:
            return False
        try:
            token = read_token_file(self._file)
        except ConfigurationError as error:
            log.warning("%s; the token that was read before is still used", error)
            return False
        changed, self._token = token != self._token, token
        return changed

    def warn_if_exposed(self, url: str) -> None:
        """Warn, once, where the token is about to cross a network that anyone on the way can read."""
        parts = urlsplit(url)
        if self._warned or not self._token or parts.scheme != "http" or is_loopback(parts.hostname or ""):
            return
        self._warned = True
        log.warning(
            "the token travels to %s without encryption, and everyone on the way can read it; "
            "use an https:// address (a reverse proxy in front of the server)",
            parts.netloc.rpartition("@")[2],
        )


def refuse_password_in_url(url: str) -> None:
    """Refuse an address of the form scheme://user:secret@host.

    Raises:
        ConfigurationError: it is one; the text does not show the secret.
    """
    try:
        parts = urlsplit(url)
        user, password, host = parts.username, parts.password, parts.hostname
    except ValueError:
        return  # no address at all: whoever uses it says so
    if user or password:
        raise ConfigurationError(
            f"the address of {host} holds a user name or password; give the token in TELEMETRY_TOKEN_FILE "
            "or TELEMETRY_TOKEN, and the address without it"
        )


def server_address(url: str) -> str:
    """Return a server's address as requests are built on it: "HTTP://host:8008/" is "http://host:8008".

    Raises:
        ConfigurationError: it is none, or holds a password.
    """
    refuse_password_in_url(url)
    scheme, separator, rest = url.strip().partition("://")
    address = f"{scheme.lower()}{separator}{rest.rstrip('/')}"
    try:
        is_address = scheme.lower() in ("http", "https") and bool(urlsplit(address).hostname)
        # Reading the port is what finds one that is none.
        is_address = is_address and urlsplit(address).port != 0
    except ValueError:
        is_address = False
    if not is_address:
        meant = with_scheme(url)
        example = f"did you mean {meant}?" if meant else "give one like http://127.0.0.1:8008"
        raise ConfigurationError(f"{url!r} is not the address of a server; {example} (TELEMETRY_URL)")
    return address


# A name, an IPv4 address or an IPv6 one in brackets, and a port.
_HOST_AND_PORT = re.compile(r"(?:[\w.-]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}(?:/.*)?")


def with_scheme(url: str) -> str:
    """Return what somebody meant who wrote "host:8008"; "" for anything else."""
    return f"http://{url.strip()}" if _HOST_AND_PORT.fullmatch(url.strip()) else ""


def is_loopback(host: str) -> bool:
    """Say whether only this machine can reach `host`. A name other than localhost may resolve to anything."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
