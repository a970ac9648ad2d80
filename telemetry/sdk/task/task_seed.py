"""Task, section "Setting Random Seed"."""

from __future__ import annotations

from telemetry.sdk.cores.base import TaskBase

__all__ = ["TaskSeed"]


class TaskSeed(TaskBase):
    """See Task."""

    @classmethod
    def set_random_seed(cls, random_seed: int | bool | None) -> None:
        """Set the seed with which Task.init starts `random`, numpy, torch and tensorflow; call it before Task.init.

        Libraries that are imported later are seeded as they are imported. Child processes are not seeded again.

        Args:
            random_seed: a whole number; True is the default, 1337; None or False leaves all generators alone.
        Raises:
            ConfigurationError: it is none of these.
        """
        from telemetry.sdk.launch.seeds import choose_seed

        choose_seed(random_seed)

    @classmethod
    def get_random_seed(cls) -> int | None:
        """Return the seed of a task that begins now; None if generators are left alone."""
        from telemetry.sdk.launch.seeds import chosen_seed

        return chosen_seed()
