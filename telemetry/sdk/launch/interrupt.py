"""Two repairs for Ctrl-C in a program that has threads of ours: what CPython would get right in one that has none."""

from __future__ import annotations

import _imp

__all__ = ["keep_death_by_sigint", "release_leaked_import_lock"]


def release_leaked_import_lock() -> None:
    """Give the interpreter's import lock back if an interrupted import of this thread has left it locked.

    CPython takes that lock one instruction before the try block that gives it back (`_get_module_lock` in
    importlib/_bootstrap.py). Where Ctrl-C comes while the main thread waits for the lock, KeyboardInterrupt is raised
    just in between: from then on every import in another thread waits for ever, the pipeline's among them, and
    the end of the program would wait for its whole time-out. Imports of ours run beside the program's own
    when Task.init stands above `import torch`, so it does happen.

    Call it only where this thread cannot be inside importlib: after the exception has left the program's code.
    """
    try:
        while _imp.lock_held():
            _imp.release_lock()
    except RuntimeError:
        return  # another thread holds it, as it may; it is not ours to give back


def keep_death_by_sigint() -> None:
    """See to it that a process that ends by Ctrl-C dies of SIGINT (status 130 in a shell), as it would without us.

    CPython notes an uncaught KeyboardInterrupt in a flag and forgets it again when any thread runs `exec` or `eval` on
    a string (run_eval_code_obj in pythonrun.c), which namedtuple and dataclass do in every second import. The
    flag cannot be set but by doing it again. Call it last, after the exception was shown.
    """
    try:
        exec("raise KeyboardInterrupt")
    except KeyboardInterrupt:
        return  # the flag is set, which is all that was wanted
