"""How many descriptors this process may open: read, and raised where the system allows it."""

from __future__ import annotations

import sys

__all__ = ["descriptor_limit", "raise_descriptor_limit"]

# More than a server of ours has connections; some systems make tables as long as the limit.
_WANTED = 65_536


def descriptor_limit() -> int | None:
    """Return how many descriptors may be open at once; None for any number."""
    if sys.platform == "win32":
        return None
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft


def raise_descriptor_limit() -> None:
    """Raise the soft limit to the hard one, which needs no rights: 1,024 is for programs that call select().

    For a process of our own only: in somebody else's its children would inherit it.
    """
    if sys.platform == "win32":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _WANTED if hard == resource.RLIM_INFINITY else min(_WANTED, hard)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError):
        # macOS allows fewer than its hard limit says; what there is will do, and the limits follow it.
        return
