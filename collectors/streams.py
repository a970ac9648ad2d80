"""What is written to a text stream, seen in passing: at the stream object itself, not at another in its place.

A program hands its streams around before we come: loguru, an early `logging.StreamHandler`, `rich.Console(file=...)`,
a kept `err = sys.stderr`. All of these write through the object that `sys.stderr` names, so it is there that one must
look on: the object gets a `write` of its own, which calls that of its class. `print`, `writelines`, the logging and
warnings modules and the interpreter's own messages look `write` up at the object each time. Everything else about
the stream (type, `isatty()`, `fileno()`, `encoding`, `buffer`) stays what it was.
"""

from __future__ import annotations

import sys
import threading
import types
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

from telemetry.process.outermost import note_last_words

__all__ = ["Calls", "StreamWatch", "TeeStream", "takes_hook"]

StreamWrite: TypeAlias = Callable[..., Any]
OnWrite: TypeAlias = Callable[[str], None]


class _OngoingWrite:
    """A write that is going on, to the stream at a place in the order of those that hand on to each other."""

    __slots__ = ("handed_on", "place")

    def __init__(self, place: int) -> None:
        self.place = place
        self.handed_on = False


# The innermost of a thread's writes.
Calls: TypeAlias = dict[int, _OngoingWrite | None]


class StreamWatch:
    """Tells `on_write` what is written to a stream, once the stream has taken it.

    An object that takes no attributes (`__slots__`, some C types) is left as it is: see `takes_hook`.

    Args:
        stream: any object with a `write`.
        calls: shared by streams of which each may hand on what it is given to a later one; of a text that was handed
            on only the last one tells.
        place: in the order of these streams.
    """

    def __init__(self, stream: Any, on_write: OnWrite, *, calls: Calls | None = None, place: int = 0) -> None:
        self._on_write: OnWrite | None = on_write
        # Weak: a stream that the program lets go of is closed there and then, as without us.
        self._stream = _reference(stream)
        self._place = place
        self._before = _own_write(stream)
        self._hook = self._make_hook(stream, calls)
        _replace_write(stream, self._hook, self._before)

    def stop(self) -> None:
        """Take `write` back out, unless somebody has put another over it: ours is a plain pass-through then."""
        self._on_write = None
        stream = self._stream()
        if stream is not None and _own_write(stream) is self._hook:
            _restore_write(stream, self._before)

    def _make_hook(self, stream: Any, calls: Calls | None) -> StreamWrite:
        function = getattr(type(stream), "write", None)
        of_class = self._before is None and isinstance(function, (types.FunctionType, types.MethodDescriptorType))
        reference = self._stream if of_class else None
        original: Any = function if of_class else stream.write
        place = self._place

        def write(*args: Any, **kwargs: Any) -> Any:
            if calls is not None:
                me, call = threading.get_ident(), _OngoingWrite(place)
                outer = calls.get(me)
                calls[me] = call
            try:
                result = original(*args, **kwargs) if reference is None else original(reference(), *args, **kwargs)
            except BaseException as error:
                # The traceback is to end with the line that wrote, as without us: the entries of this module are
                # taken off, and a bare `raise` does not add this frame's again.
                trace = error.__traceback__
                while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
                    trace = trace.tb_next
                error.__traceback__ = trace
                raise
            finally:
                if calls is not None:
                    calls[me] = outer
            if calls is not None:
                # A write to an earlier stream, or the same, hands nothing on: a signal handler has written there.
                if outer is not None and outer.place < place:
                    outer.handed_on = True
                if call.handed_on:
                    return result
            on_write = self._on_write
            if on_write is not None and args and isinstance(args[0], str):
                if sys._getframe().f_back is None:
                    note_last_words(args[0])
                on_write(args[0])
            return result

        return write


class TeeStream:
    """Stands in for a stream that cannot be watched, or not for long: everything is the original's.

    Not a TextIOBase: that one's finalizer would close the original.
    """

    def __init__(self, original: Any) -> None:
        self._telemetry_original = original

    def write(self, *args: Any, **kwargs: Any) -> Any:
        """As the original's, which is looked up each time: somebody may have put one over it."""
        return self._telemetry_original.write(*args, **kwargs)

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


def _own_write(stream: Any) -> Any:
    """Return the `write` that the object itself has, past its class; None if it has none."""
    return vars(stream).get("write") if hasattr(stream, "__dict__") else None


def takes_hook(stream: Any) -> bool:
    """Return whether a `write` of the object's own stays there.

    Not where it takes no attributes; nor where somebody has one in place, who may take it out again and ours with it:
    IPython does so at the end of each cell.
    """
    return _own_write(stream) is None and _replace_write(stream, stream.write, None, keep=False)


def _reference(stream: Any) -> Callable[[], Any]:
    try:
        return weakref.ref(stream)
    except TypeError:
        return lambda: stream


def _replace_write(stream: Any, hook: StreamWrite, before: Any, *, keep: bool = True) -> bool:
    """Return False, with everything as it was, for an object that does not keep the attribute for itself."""
    try:
        stream.write = hook
    except (AttributeError, TypeError):
        return False
    taken = _own_write(stream) is hook
    # If not, it is a proxy, which has given it to the stream behind it.
    if not (taken and keep):
        _restore_write(stream, before)
    return taken


def _restore_write(stream: Any, before: Any) -> None:
    if before is None:
        del stream.write
    else:
        stream.write = before
