"""Descriptors 0 to 2 of a process that was started without them: `train.py >&-`, many daemons.

Whatever is opened next gets such a number. An event loop of uvloop's then ends the process when it closes it (libuv
asserts that nobody closes a standard stream), and what the program prints from C lands in one of our files.
"""

from __future__ import annotations

import os

__all__ = ["hold_standard_descriptors"]


def hold_standard_descriptors() -> None:
    """Have nothing of ours open under the numbers 0 to 2; those that are in use stay as they are.

    To the program a number that was closed still is: /dev/null is opened the wrong way round, so that reading from 0
    and writing to 1 or 2 fail with EBADF as before, and no child inherits it.
    """
    for number, mode in ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_RDONLY)):
        try:
            os.fstat(number)
        except OSError:
            _hold(number, mode)


def _hold(number: int, mode: int) -> None:
    try:
        held = os.open(os.devnull, mode)
    except OSError:
        return  # out of descriptors: then nobody else gets this one either
    # Another thread may have taken the number in between: then it is in use.
    if held != number:
        os.close(held)
