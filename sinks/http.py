"""The HTTP sink: frames to a telemetry server, several in one POST."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from telemetry.disk import DaemonExecutor
from telemetry.errors import SinkRejected, SinkUnavailable
from telemetry.events import TaskHeader
from telemetry.network.credentials import Credentials, server_address
from telemetry.network.proxies import proxy_for, refusal_on_the_way, said_on_the_way
from telemetry.process import lazy
from telemetry.retry import parse_retry_after
from telemetry.settings import Settings
from telemetry.wire import CONTENT_TYPE, SENT_HEADER, Frame

if TYPE_CHECKING:
    from telemetry.client import AsyncClient

__all__ = ["HttpSink", "open_sink"]

# A server on the same network answers a connection attempt in milliseconds; a black hole never does.
CONNECT_TIMEOUT_S = 5.0

# A frame is sound when it leaves: if a server says that it is damaged (400), other bytes have arrived than were sent.
# Only one that says so again and again, as another version would, is believed.
TRANSIT_TRIES = 5

# Refusals that say something about this request; every other status says something about the server.
_REFUSALS = frozenset({400, 409, 413, 415, 422})

# A server's own failure on one frame, while it takes the others, is believed after so many tries over so many seconds.
FAILING_TRIES = 5
FAILING_S = 60.0

# However long a server wants us to wait: beyond this nobody sees any more what a run does.
_MAX_PACE_S = 10.0


class HttpSink:
    """POSTs frames to `url`/api/v1/frames and returns when the server has committed them.

    Args:
        url: http:// or https:// address of the server.
        token: sent as a bearer token; never part of an error or a log line.
        token_file: where the token comes from if it is not given; read again when the server answers 401, so that
            a token may be rotated while the job runs.
        timeout_s: seconds that one request may take, the connection included.
        trust_env: go by the proxy that the environment names (HTTP_PROXY and its like).
    """

    spool = True

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        token_file: Path | None = None,
        timeout_s: float = 30.0,
        trust_env: bool = True,
        name: str = "http",
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.url = server_address(url)
        self._credentials = Credentials(token, file=token_file)
        self._timeout_s = timeout_s
        self._trust_env = trust_env
        self._proxy: str | None = None
        self._session: Any = None
        # As of the last answer; None where the server does not say: the identity of its store, and which frames of the
        # writer it holds, as inclusive ranges of sequence numbers.
        self.store_id: str | None = None
        self.held: list[tuple[int, int]] | None = None
        # How far apart the server wants our requests: where many others send, and nobody looks at what we do.
        self.pace_s = 0.0
        self._monotonic = monotonic
        # (writer id, sequence) -> (tries, when the first was) of frames on which the server failed.
        self._failing: dict[tuple[bytes, int], tuple[int, float]] = {}
        # The first frame of the last request on which it failed.
        self._failed_from: tuple[bytes, int] | None = None

    def clone(self) -> HttpSink:
        """Return an unopened sink with the same settings, for a forked child."""
        sink = HttpSink(self.url, timeout_s=self._timeout_s, trust_env=self._trust_env, name=self.name)
        sink._credentials = self._credentials.copy()
        return sink

    def blob_client(self) -> AsyncClient:
        """Return a client for the bytes beside the events, with the same token; it belongs to one event loop."""
        client: type[AsyncClient] = lazy.import_module("telemetry.client").AsyncClient
        return client.with_credentials(
            self.url, self._credentials, timeout_s=self._timeout_s, trust_env=self._trust_env
        )

    async def open(self, task: TaskHeader) -> None:
        await self.connect()

    async def connect(self) -> None:
        """Make ready to send; nothing is sent yet. For callers that send frames of many tasks."""
        # On a thread of its own: aiohttp takes 0.15 s to import, for which neither init() nor the journal may wait.
        loop = asyncio.get_running_loop()
        importer = DaemonExecutor("telemetry-import")
        aiohttp = await loop.run_in_executor(importer, lazy.import_module, "aiohttp")
        await loop.run_in_executor(importer, lazy.import_module, "orjson")
        importer.shutdown(wait=False)
        self._credentials.warn_if_exposed(self.url)
        self._proxy = proxy_for(self.url, trust_env=self._trust_env)
        self._session = aiohttp.ClientSession(
            headers={"Content-Type": CONTENT_TYPE},
            trust_env=False,  # see telemetry/network/proxies.py
            proxy=self._proxy,
            timeout=aiohttp.ClientTimeout(total=self._timeout_s, connect=CONNECT_TIMEOUT_S),
            # One request at a time; a second connection would only reorder frames.
            connector=aiohttp.TCPConnector(limit=1, keepalive_timeout=60.0),
        )

    async def write(self, frames: Sequence[Frame]) -> None:
        """Send frames of one writer; see `send`."""
        self.held = None
        refused = await self.send(frames)
        if refused:
            reasons = {sequence: reason for (_, sequence), reason in refused.items()}
            raise SinkRejected(f"the server refused {len(refused)} of {len(frames)} frames", reasons=reasons)

    async def send(self, frames: Sequence[Frame]) -> dict[tuple[bytes, int], str]:
        """Send frames, of any writers and tasks, in one request.

        A refused body is sent again frame by frame to find the bad one, and a frame that arrived damaged at once again.

        Returns:
            The reasons of those that the server refuses, by (writer id, sequence); all others are committed.
        Raises:
            SinkUnavailable: try again; which of the frames were taken is not known.
        """
        body = frames[0].data if len(frames) == 1 else b"".join([frame.data for frame in frames])
        status, answer = await self._post(body)
        if status == 200:
            return self._refused(frames, answer)
        if status == 500:
            return await self._without_failing(frames, answer)
        if len(frames) == 1:
            return await self._send_again(frames[0], status, answer)
        refused: dict[tuple[bytes, int], str] = {}
        for frame in frames:
            refused.update(await self.send([frame]))
        return refused

    async def _without_failing(self, frames: Sequence[Frame], answer: Any) -> dict[tuple[bytes, int], str]:
        """Find the frames on which the server itself fails; return those that it will never take as refused.

        Only what fails alone, again and again, while others are taken: a server that fails on all is the one that
        is broken, and is waited for.

        Raises:
            SinkUnavailable: none is taken, or one that fails may pass yet.
        """
        unavailable = SinkUnavailable(f"{self.url} answered 500: {_reason(answer)}")
        begin = (frames[0].writer_id, frames[0].sequence)
        if self._failed_from != begin:
            # Once is a bad moment of the server's.
            self._failed_from = begin
            raise unavailable
        refused: dict[tuple[bytes, int], str] = {}
        failing: list[tuple[bytes, int]] = []
        for frame in frames if len(frames) > 1 else ():
            status, said = await self._post(frame.data)
            if status == 500:
                failing.append((frame.writer_id, frame.sequence))
            elif status == 200:
                refused.update(self._refused([frame], said))
            else:
                refused.update(await self._send_again(frame, status, said))
        if len(frames) == 1 or len(failing) == len(frames):
            raise unavailable
        now_s, waits = self._monotonic(), False
        for key in failing:
            tries, first_s = self._failing.get(key, (0, now_s))
            self._failing[key] = (tries + 1, first_s)
            if tries + 1 >= FAILING_TRIES and now_s - first_s >= FAILING_S:
                refused[key] = f"the server failed on it {tries + 1} times, and takes others: {_reason(answer)}"
            else:
                waits = True
        if waits:
            raise unavailable
        for key in failing:
            del self._failing[key]
        return refused

    async def _send_again(self, frame: Frame, status: int, answer: Any) -> dict[tuple[bytes, int], str]:
        """Return why a frame is refused, if it is not only the way there that spoils it."""
        for _ in range(TRANSIT_TRIES - 1):
            if status != 400:
                break
            status, answer = await self._post(frame.data)
        if status == 200:
            return self._refused([frame], answer)
        return {(frame.writer_id, frame.sequence): _reason(answer)}

    def _refused(self, frames: Sequence[Frame], answer: Any) -> dict[tuple[bytes, int], str]:
        self.store_id, self.held = _store_of(answer), _held_of(answer, frames[0].writer_id.hex())
        self.pace_s = _pace_of(answer)
        results = {(item["writer"], item["sequence"]): item for item in answer["frames"]}
        keys = [(frame.writer_id.hex(), frame.sequence) for frame in frames]
        missing = [key for key in keys if key not in results]
        if missing:
            raise SinkUnavailable(f"{self.url} answered 200 but did not name {len(missing)} of {len(frames)} frames")
        return {
            (frame.writer_id, frame.sequence): str(results[key].get("reason", "no reason given"))
            for frame, key in zip(frames, keys, strict=True)
            if results[key]["result"] == "rejected"
        }

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _post(self, body: bytes) -> tuple[int, Any]:
        """Return (status, decoded answer) of an accepted or refused request.

        Raises:
            SinkUnavailable: no answer, or one that says "not now".
        """
        import orjson

        status, data, retry_after_s = await self._exchange(body)
        if status == 401 and await self._token_changed():
            status, data, retry_after_s = await self._exchange(body)
        try:
            answer = orjson.loads(data)
            is_ours = isinstance(answer, dict) and "error" in answer
        except ValueError:
            answer, is_ours = {"error": data[:200].decode("utf-8", "replace")}, False
        if status == 200 and _is_receipt(answer):
            return status, answer
        # A proxy's own page is no JSON: what it says of the server behind it is nothing about this request.
        if status in _REFUSALS or (status == 500 and is_ours):
            return status, answer
        if culprit := refusal_on_the_way(status, is_ours, self._proxy):
            raise SinkUnavailable(
                f"cannot reach {self.url}: {culprit} refuses the request ({status}: {_reason(answer)})",
                retry_after_s=retry_after_s,
            )
        if status in (401, 403):
            raise SinkUnavailable(
                f"{self.url} refuses the token ({status}: {_reason(answer)}); "
                "set TELEMETRY_TOKEN_FILE or TELEMETRY_TOKEN"
            )
        raise SinkUnavailable(f"{self.url} answered {status}: {_reason(answer)}", retry_after_s=retry_after_s)

    async def _exchange(self, body: bytes) -> tuple[int, bytes, float | None]:
        """Send one request; return (status, body, seconds to wait before the next)."""
        import aiohttp

        try:
            sent = {SENT_HEADER: str(time.time_ns())}
            async with self._session.post(
                f"{self.url}/api/v1/frames",
                data=body,
                headers=sent | self._credentials.headers(),
                allow_redirects=False,
            ) as response:
                # A redirect is not followed: who set the address decides where the token goes.
                # What a server says is kept as the reason of a refusal; one that echoes must not put the token there.
                data = self._credentials.hide(await response.read())
                return response.status, data, parse_retry_after(response.headers.get("Retry-After"))
        except TimeoutError as error:
            raise SinkUnavailable(f"no answer from {self.url} within {self._timeout_s:g} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise SinkUnavailable(f"cannot reach {self.url}: {said_on_the_way(error, self._proxy)}") from error

    async def _token_changed(self) -> bool:
        """Read the token's file again, on a thread: it may lie on a file system that hangs."""
        reader = DaemonExecutor("telemetry-token")
        try:
            return await asyncio.get_running_loop().run_in_executor(reader, self._credentials.reread)
        finally:
            reader.shutdown(wait=False)


def _reason(answer: Any) -> str:
    return str(answer.get("error", answer))[:500] if isinstance(answer, dict) else str(answer)[:500]


def _is_receipt(answer: Any) -> bool:
    """True if an answer has the form of a receipt; a proxy's page or another service's JSON has not."""
    items = answer.get("frames") if isinstance(answer, dict) else None
    return isinstance(items, list) and all(
        isinstance(item, dict)
        and isinstance(item.get("writer"), str)
        and isinstance(item.get("sequence"), int)
        and isinstance(item.get("result"), str)
        for item in items
    )


def _store_of(answer: Mapping[str, Any]) -> str | None:
    """Return the identity of the store that a receipt came from; None where the server is older than that."""
    store = answer.get("store")
    return store if isinstance(store, str) else None


def _held_of(answer: Mapping[str, Any], writer: str) -> list[tuple[int, int]] | None:
    """Return which frames of a writer a receipt says are in the store; None where it does not say."""
    writers = answer.get("writers")
    pairs = writers.get(writer) if isinstance(writers, dict) else None
    if not isinstance(pairs, list):
        return None
    found = [(pair[0], pair[1]) for pair in pairs if isinstance(pair, list) and len(pair) == 2]
    sound = len(found) == len(pairs) and all(isinstance(first, int) and isinstance(last, int) for first, last in found)
    return found if sound else None


def _pace_of(answer: Mapping[str, Any]) -> float:
    """Return the pace that a receipt asks for; 0.0 where it asks for none, or for nonsense."""
    pace_s = answer.get("pace_s")
    if isinstance(pace_s, bool) or not isinstance(pace_s, (int, float)) or not pace_s > 0:
        return 0.0
    return min(float(pace_s), _MAX_PACE_S)


def open_sink(url: str, settings: Settings) -> HttpSink:
    """Entry point for http:// and https://."""
    return HttpSink(
        url,
        token=settings.token,
        token_file=settings.token_file,
        timeout_s=settings.request_timeout_s,
        trust_env=settings.trust_env,
    )
