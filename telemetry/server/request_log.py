"""What aiohttp's own handler logs, without what strangers sent."""

from __future__ import annotations

import logging

from aiohttp.http_exceptions import HttpProcessingError

__all__ = ["request_log"]

request_log = logging.getLogger("telemetry.server.requests")


class _Unreadable(logging.Filter):
    """Requests that are no HTTP, or over its limits, as a line for those who look for it: who and why, not what.

    aiohttp logs a traceback with the bytes that it stumbled over. These can be the header with the token, and a
    stranger can send as many as he likes.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if not isinstance(error, HttpProcessingError):
            return True
        record.levelno, record.levelname = logging.DEBUG, "DEBUG"
        record.msg, record.args = "a request of %s cannot be read: %s", (*(record.args or ()), type(error).__name__)
        record.exc_info = None
        return request_log.isEnabledFor(logging.DEBUG)


request_log.addFilter(_Unreadable())
