"""The random seed of a task: `random`, numpy, torch and tensorflow start from the same number in every run.

Each is seeded once, at Task.init or as soon as the program imports it; nothing is imported for it. Numbers that the
program draws differ from those without telemetry, so the start line says the seed, and disabled mode seeds, too.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from types import ModuleType
from typing import Any

from telemetry.collectors.post_import import PostImport
from telemetry.errors import ConfigurationError
from telemetry.process.interrupts import is_interrupt

__all__ = ["DEFAULT_SEED", "Seeding", "choose_seed", "chosen_seed"]

log = logging.getLogger(__name__)

# The reference SDK's.
DEFAULT_SEED = 1337

# numpy takes 32 bits; the others take them too, so that one number says it all.
_SEEDS = 2**32


class _Chosen:
    """What the program asked for before Task.init."""

    seed: int | None = DEFAULT_SEED


def choose_seed(seed: Any) -> None:
    """Set the seed for the tasks that begin from now on in this process.

    Args:
        seed: a whole number; True is the default, 1337; None or False leaves all generators alone.
    Raises:
        ConfigurationError: it is none of these.
    """
    if seed is None or seed is False:
        _Chosen.seed = None
        return
    try:
        _Chosen.seed = DEFAULT_SEED if seed is True else int(seed)
    except (TypeError, ValueError, OverflowError) as error:
        raise ConfigurationError(
            f"set_random_seed({seed!r:.80}): give a whole number, True for {DEFAULT_SEED}, or None to turn it off"
        ) from error


def chosen_seed() -> int | None:
    """Return the seed for a task that begins now; None if none is set."""
    return _Chosen.seed


class Seeding:
    """Seeds what is imported by `begin`, and what will be until `stop`.

    Args:
        seed: None seeds nothing.
    """

    def __init__(self, seed: int | None) -> None:
        self.seed = seed
        self._watch: PostImport | None = None

    def begin(self) -> None:
        """Seed, and go on seeding what is imported."""
        seed = self.seed
        if seed is None:
            return
        random.seed(seed)
        # The package's own module, at the end of whose import its generators are there.
        self._watch = PostImport({name: _seeder(name, seed_with, seed) for name, seed_with in _LIBRARIES.items()})
        self._watch.install()

    def stop(self) -> None:
        """Leave alone what is imported from now on. Twice does nothing."""
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.remove()


def _seed_numpy(module: ModuleType, seed: int) -> None:
    module.random.seed(seed % _SEEDS)


def _seed_torch(module: ModuleType, seed: int) -> None:
    # CPU and, lazily, every GPU: nothing is initialised for it.
    module.manual_seed(seed % _SEEDS)


def _seed_tensorflow(module: ModuleType, seed: int) -> None:
    module.random.set_seed(seed % _SEEDS)


_LIBRARIES: dict[str, Callable[[ModuleType, int], None]] = {
    "numpy": _seed_numpy,
    "torch": _seed_torch,
    "tensorflow": _seed_tensorflow,
}


def _seeder(name: str, seed_with: Callable[[ModuleType, int], None], seed: int) -> Callable[[ModuleType], None]:
    seeded: list[bool] = []

    def seed_once(module: ModuleType) -> None:
        # A module that is imported anew (a notebook's reload) goes on with the numbers that it is at.
        if seeded:
            return
        seeded.append(True)
        try:
            seed_with(module, seed)
        except Exception as error:
            if is_interrupt(error):
                raise
            log.warning("%s could not be seeded with %s: %r", name, seed, error)

    return seed_once
