"""What is written to a text stream, seen in passing: at the stream object itself, not at another in its place.

A program hands its streams around before we come: loguru, an early `logging.StreamHandler`, `rich.Console(file=...)`,
a kept `err = sys.stderr`. All of these write through the object that `sys.stderr` names, so it is there that one must
look on: the object gets a `write` of its own, which calls that of its class. `print`, `writelines`, the logging and
warnings modules and the interpreter's own messages look `write` up at the object each time. Everything else about
the stream (type, `isatty()`, `fileno()`, `encoding`, `buffer`) stays what it was.
"""

from __future__ import annotations

import types
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

__all__ = ["StreamWatch", "TeeStream"]

Write: TypeAlias = Callable[..., Any]
OnWrite: TypeAlias = Callable[[str], None]


class StreamWatch:
    """Tells `on_write` what is written to a stream, once the stream has taken it.

    Args:
        stream: any object with a `write`.
        count: where this stream may hand on what it is given to another one that is watched as well: how many writes
            this thread has made there. A text that was handed on is not told a second time.

    Attributes:
        stand_in: for a stream that takes no attributes (`__slots__`, some C types): what is to be put in its place.
            None where the stream itself is watched.
    """

    def __init__(self, stream: Any, on_write: OnWrite, *, count: Callable[[], int] | None = None) -> None:
        self._on_write: OnWrite | None = on_write
        # Weak: a stream that the program lets go of is closed there and then, as without us.
        self._stream = _reference(stream)
        self._before = _own_write(stream)
        self._hook = self._make_hook(stream, count)
        self.stand_in: TeeStream | None = None
        if not _replace_write(stream, self._hook, self._before):
            self.stand_in = TeeStream(stream)
            self.stand_in.write = self._hook

    def stop(self) -> None:
        """Take `write` back out, unless somebody has put another over it: ours is a plain pass-through then."""
        self._on_write = None
        stream = self._stream()
        if self.stand_in is None and stream is not None and _own_write(stream) is self._hook:
            _restore_write(stream, self._before)

    def original(self) -> Any:
        """Return the stream itself; None if it is gone."""
        return self._stream()

    def _make_hook(self, stream: Any, count: Callable[[], int] | None) -> Write:
        function = getattr(type(stream), "write", None)
        of_class = self._before is None and isinstance(function, (types.FunctionType, types.MethodDescriptorType))
        reference = self._stream if of_class else None
        original: Any = function if of_class else stream.write

        def write(*args: Any, **kwargs: Any) -> Any:
            before = 0 if count is None else count()
            try:
                result = original(*args, **kwargs) if reference is None else original(reference(), *args, **kwargs)
            except BaseException as error:
                # The traceback is to end with the line that wrote, as without us: the entry of this frame is
                # taken off, and a bare `raise` does not add it again.
                if error.__traceback__ is not None:
                    error.__traceback__ = error.__traceback__.tb_next
                raise
            on_write = self._on_write
            if on_write is not None and args and isinstance(args[0], str) and (count is None or count() == before):
                on_write(args[0])
            return result

        return write


class TeeStream:
    """Stands in for a stream that takes no attributes. All but its `write` is the original's.

    Not a TextIOBase: that one's finalizer would close the original.
    """

    write: Write

    def __init__(self, original: Any) -> None:
        self._telemetry_original = original

    def writelines(self, lines: Iterable[str]) -> None:
        """As the original's."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._telemetry_original, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._telemetry_original)

    def __enter__(self) -> TeeStream:
        self._telemetry_original.__enter__()
        return self

    def __exit__(self, *exc_info: object) -> Any:
        return self._telemetry_original.__exit__(*exc_info)

    def __repr__(self) -> str:
        return f"<TeeStream of {self._telemetry_original!r}>"


def _reference(stream: Any) -> Callable[[], Any]:
    try:
        return weakref.ref(stream)
    except TypeError:
        return lambda: stream


def _own_write(stream: Any) -> Any:
    """Return the `write` that the object itself has, past its class; None if it has none."""
    return vars(stream).get("write") if hasattr(stream, "__dict__") else None


def _replace_write(stream: Any, hook: Write, before: Any) -> bool:
    """Return False, with everything as it was, for an object that does not keep the attribute for itself."""
    try:
        stream.write = hook
    except (AttributeError, TypeError):
        return False
    if _own_write(stream) is hook:
        return True
    # A proxy, which has given it to the stream behind it.
    _restore_write(stream, before)
    return False


def _restore_write(stream: Any, before: Any) -> None:
    if before is None:
        del stream.write
    else:
        stream.write = before
