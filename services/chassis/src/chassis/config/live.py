"""The settings of a running process: an immutable snapshot, which a reload replaces as a whole."""

from collections.abc import Callable, Sequence

from pydantic import SecretStr

from chassis.config.explaining import config_hash
from chassis.config.layers import digest_of_files
from chassis.config.loading import load
from chassis.config.settings import ServiceSettings


class Live[S: ServiceSettings]:
    """The settings of this process now. `current` is an immutable snapshot, which a reload replaces by a new one.

    A reload may change a setting. Code that needs the newest value reads the setting from `current` before each use.
    """

    def __init__(self, settings: S, *, read: Callable[[], S] | None = None, digest: str = "") -> None:
        self._current = settings
        self._read = read
        self._watchers: list[Callable[[S], None]] = []
        self.digest = digest
        """The digest of the files of all configuration layers at the time of the latest read."""

    @property
    def current(self) -> S:
        return self._current

    @property
    def hash(self) -> str:
        return config_hash(self._current)

    def passwords(self) -> Sequence[SecretStr]:
        """The database passwords that may be valid now. A new connection tries these passwords in this order."""
        return self._current.database.passwords

    def read(self) -> S:
        """Read the configuration layers again, and return their settings. `current` does not change. Raises
        `ConfigurationError` as `load` does.
        """
        return self._read() if self._read else self._current

    def replace(self, settings: S) -> None:
        """Make `settings` the current settings, and call every function that was passed to `watch`."""
        self._current = settings
        for watcher in self._watchers:
            watcher(settings)

    def watch(self, watcher: Callable[[S], None]) -> None:
        """Call `watcher` now and after each reload, for code that cannot read `current` before each use."""
        self._watchers.append(watcher)
        watcher(self._current)


def load_live[S: ServiceSettings](settings_type: type[S], options: Sequence[str] = ()) -> Live[S]:
    """The settings as `load` returns them, for a process that reads its settings again while it runs."""
    # The digest is taken before the load. If a file changes during the load, the next check notices the change.
    digest = digest_of_files()
    return Live(load(settings_type, options), read=lambda: load(settings_type, options), digest=digest)
