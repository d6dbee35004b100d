"""The planted violations, by the invariant that has to find them."""

from collections.abc import Awaitable, Callable

from planting import Planted

type Plant = Callable[[Planted], Awaitable[str]]
"""Plants one violation; returns the id that is to be named."""

FOUND: list[tuple[str, Plant]] = []
"""Other invariants may find it as well."""
FOUND_ALONE: list[tuple[str, Plant]] = []


def violates(name: str) -> Callable[[Plant], Plant]:
    return _into(FOUND, name)


def violates_only(name: str) -> Callable[[Plant], Plant]:
    return _into(FOUND_ALONE, name)


def _into(plants: list[tuple[str, Plant]], name: str) -> Callable[[Plant], Plant]:
    def register(plant: Plant) -> Plant:
        plants.append((name, plant))
        return plant

    return register
