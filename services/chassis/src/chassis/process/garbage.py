"""Garbage collection of an API or worker process: none while the process starts, and seldom afterwards."""

import gc

COLLECT_AFTER = 10_000
"""The garbage collector runs after this many new objects. Python's default is 2,000 objects, which two dozen concurrent
requests or jobs create. Reference counting frees nearly all of these objects soon, so such frequent collections would
find little."""


def pause() -> None:
    """Stop garbage collection until `freeze_start_up`. Start-up imports a thousand modules, whose objects live as long
    as the process. Collections would look through all of them, which takes a tenth of the start-up time.
    """
    gc.disable()


def freeze_start_up() -> None:
    """Exclude all current objects from garbage collection, and collect from now on. Objects of start-up live as long as
    the process.
    """
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER, *gc.get_threshold()[1:])
    gc.enable()
