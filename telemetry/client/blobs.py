"""The calls that carry blobs to a server and back; docs/server.md has the protocol.

An upload is a run of requests, each with the offset that it goes on from, so one that was cut off, on whichever side,
is taken up where the server's copy ends.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import IO

from telemetry.client.http import Answer, HttpApi
from telemetry.client.types import BlobStatus, WantedBlob
from telemetry.errors import BlobError, ServerError

__all__ = ["BlobCalls"]

# One request: the server's limit. What is lost when the line breaks, and what each side has in memory.
PART_BYTES = 8 * 1024 * 1024
# A larger blob is asked for before any of it is sent.
ASK_BYTES = 1024 * 1024
# Offsets that the server corrects in a row: two senders of one blob would go on for ever.
MAX_CORRECTIONS = 100


class BlobCalls(HttpApi):
    """Blobs of tasks. Each call raises ServerError with the HTTP status when the server refuses."""

    async def blob_status(self, task_id: str, sha256: str) -> BlobStatus:
        """Return how much of a blob the server has; nothing of it is offset 0."""
        answer = await self._send("HEAD", f"/tasks/{task_id}/blobs/{sha256}")
        if answer.status == 404:
            return BlobStatus(0, 0, False)
        if answer.status != 200:
            # The answer to a HEAD has no body that could say why.
            raise ServerError(
                f"{self.url} answered {answer.status} about a blob of task {task_id}", status=answer.status
            )
        return BlobStatus(
            _number(answer, "Upload-Offset"),
            _number(answer, "Upload-Length"),
            answer.headers.get("Upload-Complete") == "1",
        )

    async def send_blob(
        self,
        task_id: str,
        sha256: str,
        file: IO[bytes],
        size_bytes: int,
        on_progress: Callable[[int], None] | None = None,
    ) -> int:
        """Send what the server does not have yet; return the bytes that were sent.

        After an error the same call goes on where it ended.

        Args:
            on_progress: called with the bytes that the server has by then.
        Raises:
            ServerUnreachable, ServerError: 404 while the server has no frame of the task, 422 where what arrived was
                not what was sent (it is to be sent anew), 413 and 507 where there is no room.
            BlobError: the file has not `size_bytes` bytes.
        """
        status = await self.blob_status(task_id, sha256)
        if status.complete:
            return 0
        offset = status.offset if status.size_bytes == size_bytes else 0
        sent = corrections = 0
        # Of a large one nothing at first: perhaps another task has sent it already.
        asks = offset == 0 and size_bytes > ASK_BYTES
        while True:
            if on_progress is not None:
                on_progress(offset)
            # This loop has nothing else to do meanwhile.
            file.seek(offset)
            part = b"" if asks else file.read(PART_BYTES)
            if not part and offset < size_bytes and not asks:
                raise BlobError(f"the blob {sha256} has {offset} bytes here, not {size_bytes}: it is damaged")
            answer = await self._send(
                "PATCH",
                f"/tasks/{task_id}/blobs/{sha256}",
                query={"offset": offset, "size": size_bytes},
                body=part,
                headers={"Content-Type": "application/octet-stream"},
            )
            asks = False
            if answer.status == 409 and "Upload-Offset" in answer.headers and corrections < MAX_CORRECTIONS:
                corrections += 1
            elif answer.status != 204:
                raise self._refusal(answer)
            else:
                sent += len(part)
            offset = _number(answer, "Upload-Offset")
            if answer.headers.get("Upload-Complete") == "1":
                if on_progress is not None:
                    on_progress(size_bytes)
                return sent

    async def download_blob(
        self, task_id: str, sha256: str, on_piece: Callable[[bytes], object], *, start: int = 0
    ) -> None:
        """Give a blob's bytes from `start` on to `on_piece`, piece by piece; it may write them to a disk at once."""
        headers = {"Range": f"bytes={start}-"} if start else None
        async for piece in self._stream(f"/tasks/{task_id}/blobs/{sha256}", headers=headers):
            on_piece(piece)

    async def wanted_blobs(self, task_id: str) -> list[WantedBlob]:
        """Return the blobs that the task's record names and the server does not have."""
        answer = await self._get(f"/tasks/{task_id}/blobs")
        return [
            WantedBlob(str(item["sha256"]), int(item["size_bytes"]), str(item["label"])) for item in answer["wanted"]
        ]


def _number(answer: Answer, header: str) -> int:
    text = answer.headers.get(header, "")
    return int(text) if text.isascii() and text.isdigit() else 0
