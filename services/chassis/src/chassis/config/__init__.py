"""Configuration: six layers, merged and validated as a whole before a process does anything else.

If two layers have the same setting, the later layer in this list wins: defaults in code → common file → service file →
environment (`HOLDFAST_…`, with `__` between the parts of a name; the shell wins over `.env`) → secret files (one per
setting, named like `database__password`) → command line (`--set http.port=8001`). Three variables say where the files
are: HOLDFAST_COMMON_FILE, HOLDFAST_SERVICE_FILE and HOLDFAST_SECRETS_DIR.

Read `loading` first, then `layers` (how each layer is read) and `problems` (one line for each thing to fix). `live`
holds the settings of a running process. `explaining` says where each value came from. `settings` has every setting with
its default, its limits and the reason for its number. `chassis.process.reloading` replaces settings when a mounted file
changes.
"""

from chassis.config.explaining import Explained, config_hash, differences, explain, fingerprint
from chassis.config.layers import LOCATIONS, settings_of, variable
from chassis.config.live import Live, load_live
from chassis.config.loading import load, load_auth, load_database, load_log
from chassis.config.settings.model import rules_of

__all__ = [
    "LOCATIONS",
    "Explained",
    "Live",
    "config_hash",
    "differences",
    "explain",
    "fingerprint",
    "load",
    "load_auth",
    "load_database",
    "load_live",
    "load_log",
    "rules_of",
    "settings_of",
    "variable",
]
