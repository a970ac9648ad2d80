"""The HTTP side of the client: requests with their token, answers, and errors that say what to do.

Calls are written on top of it, grouped by subject (telemetry/client/reads.py and its like), and gathered in
telemetry/client/__init__.py. aiohttp is imported on the first request, so that importing this costs nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import orjson

from telemetry.errors import ServerError, ServerUnreachable
from telemetry.network.credentials import Credentials, server_address
from telemetry.network.proxies import proxy_for, refusal_on_the_way, said_on_the_way
from telemetry.retry import parse_retry_after

if TYPE_CHECKING:
    import aiohttp

__all__ = ["API_PREFIX", "DEFAULT_TIMEOUT_S", "Answer", "HttpApi", "Query"]

API_PREFIX = "/api/v1"

# Reads are answered in well under a second; a server that needs longer is in trouble.
DEFAULT_TIMEOUT_S = 30.0

_STREAM_BYTES = 1 << 20
# aiohttp writes a larger body at once, with the loop waiting, and warns of it.
_PIECE_BYTES = 1 << 20

# None leaves a parameter out; of a sequence each item is given.
Query = Mapping[str, str | int | float | Sequence[str] | None]


class Answer(NamedTuple):
    """What came back, whatever its status; the names of headers are case-insensitive."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class HttpApi:
    """A server's address with its token and connections; belongs to one event loop.

    Every request raises ServerUnreachable when nothing answers in `timeout_s` seconds. Paths are below
    API_PREFIX. The token may be rotated in its file: an answer of 401 has it read again, once.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str = "",
        token_file: Path | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        trust_env: bool = True,
    ) -> None:
        self.url = server_address(url)
        self._proxy = proxy_for(self.url, trust_env=trust_env)
        self._credentials = Credentials(token, file=token_file)
        self._timeout_s = timeout_s
        self._session: aiohttp.ClientSession | None = None

    @classmethod
    def with_credentials(
        cls, url: str, credentials: Credentials, *, timeout_s: float = DEFAULT_TIMEOUT_S, trust_env: bool = True
    ) -> Self:
        """Return a client that sends the token of another."""
        client = cls(url, timeout_s=timeout_s, trust_env=trust_env)
        client._credentials = credentials.copy()
        return client

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections; the client can be used again and opens new ones."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    # -- for the calls

    async def _get(self, path: str, query: Query | None = None) -> Any:
        """Return the JSON that answers a GET; ServerError where the status is not 200."""
        return self._json(await self._send("GET", path, query=query))

    async def _post(self, path: str, value: Any) -> Any:
        """Send `value` as JSON and return the JSON that answers; ServerError where the status is not 200."""
        headers = {"Content-Type": "application/json"}
        return self._json(await self._send("POST", path, body=orjson.dumps(value), headers=headers))

    async def _send(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Return the whole answer, of whatever status: for calls to which 404 or 409 is news and no error."""
        async with self._response(method, path, query, body, headers) as response:
            with self._translated():
                return Answer(response.status, response.headers, await response.read())

    async def _stream(
        self, path: str, *, query: Query | None = None, headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[bytes]:
        """Yield the body that answers a GET, piece by piece; ServerError where the status is not 200 or 206.

        There is no limit on the whole, only on the wait for the next piece.
        """
        async with self._response("GET", path, query, None, headers, whole=False) as response:
            if response.status not in (200, 206):
                with self._translated():
                    body = await response.read()
                raise self._refusal(Answer(response.status, response.headers, body))
            while True:
                with self._translated():
                    piece = await response.content.read(_STREAM_BYTES)
                if not piece:
                    return
                yield piece

    def _json(self, answer: Answer) -> Any:
        """Return the JSON of an answer; ServerError where its status is not 200."""
        if answer.status != 200:
            raise self._refusal(answer)
        try:
            return orjson.loads(answer.body)
        except orjson.JSONDecodeError as error:
            raise self._not_ours(answer.status) from error

    def _refusal(self, answer: Answer) -> ServerError | ServerUnreachable:
        """Return the error to raise for an answer that is a refusal, with the reason that the server gives."""
        try:
            said = orjson.loads(answer.body)
        except orjson.JSONDecodeError:
            return self._not_ours(answer.status)
        if culprit := refusal_on_the_way(answer.status, isinstance(said, dict) and "error" in said, self._proxy):
            return ServerUnreachable(f"cannot reach {self.url}: {culprit} refuses the request ({answer.status})")
        reason = said.get("error", "no reason given") if isinstance(said, dict) else "no reason given"
        return ServerError(
            f"{self.url} answered {answer.status}: {reason}",
            status=answer.status,
            retry_after_s=parse_retry_after(answer.headers.get("Retry-After")),
            reason=str(reason),
        )

    def _not_ours(self, status: int) -> ServerUnreachable:
        if culprit := refusal_on_the_way(status, False, self._proxy):
            return ServerUnreachable(f"cannot reach {self.url}: {culprit} refuses the request ({status})")
        return ServerUnreachable(f"{self.url} answers with status {status}, but not as a telemetry server does")

    # -- the exchange

    @asynccontextmanager
    async def _response(
        self,
        method: str,
        path: str,
        query: Query | None,
        body: bytes | None,
        headers: Mapping[str, str] | None,
        *,
        whole: bool = True,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        response = await self._exchange(method, path, query, body, headers, whole)
        if response.status == 401 and await asyncio.to_thread(self._credentials.reread):
            response.release()
            response = await self._exchange(method, path, query, body, headers, whole)
        try:
            yield response
        finally:
            response.release()

    async def _exchange(
        self,
        method: str,
        path: str,
        query: Query | None,
        body: bytes | None,
        headers: Mapping[str, str] | None,
        whole: bool,
    ) -> aiohttp.ClientResponse:
        import aiohttp

        if self._session is None:
            self._credentials.warn_if_exposed(self.url)
            # The proxy is chosen by telemetry/network/proxies.py, as the sink's is.
            self._session = aiohttp.ClientSession(trust_env=False, proxy=self._proxy)
        limit = (
            aiohttp.ClientTimeout(total=self._timeout_s)
            if whole
            else aiohttp.ClientTimeout(sock_connect=self._timeout_s, sock_read=self._timeout_s)
        )
        with self._translated():
            return await self._session.request(
                method,
                f"{self.url}{API_PREFIX}{path}",
                params=[
                    (name, str(item))
                    for name, value in (query or {}).items()
                    for item in (value if isinstance(value, Sequence) and not isinstance(value, str) else [value])
                    if item is not None
                ],
                data=body if body is None or len(body) <= _PIECE_BYTES else _pieces(body),
                headers={**_length(body), **(headers or {}), **self._credentials.headers()},
                timeout=limit,
            )

    def _translated(self) -> _Translated:
        return _Translated(self.url, self._proxy)


class _Translated:
    """Within it, what the network does wrong is ServerUnreachable."""

    def __init__(self, url: str, proxy: str | None) -> None:
        self._url = url
        self._proxy = proxy

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        import aiohttp

        if isinstance(error, (aiohttp.ClientError, TimeoutError, OSError)):
            why = said_on_the_way(error, self._proxy)
            raise ServerUnreachable(
                f'no answer from {self._url} ({why}). Is it running? "telemetry server" starts one.'
            ) from error


def _length(body: bytes | None) -> dict[str, str]:
    return {} if body is None else {"Content-Length": str(len(body))}


async def _pieces(body: bytes) -> AsyncIterator[bytes]:
    view = memoryview(body)
    for start in range(0, len(body), _PIECE_BYTES):
        yield bytes(view[start : start + _PIECE_BYTES])
