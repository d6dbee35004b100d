"""The one exception this package raises on purpose; the command line prints its message and nothing else."""


class RunnerError(Exception):
    """Something the person at the keyboard can act on: the message says what, and what to do."""
