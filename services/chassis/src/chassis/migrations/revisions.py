"""Compares the revisions of the chassis and of a service with the revisions that a database has."""

from collections.abc import Iterable
from pathlib import Path

from alembic.config import Config
from alembic.script import ScriptDirectory

_HERE = Path(__file__).parent


def alembic_config(service_migrations: Iterable[Path], **attributes: object) -> Config:
    """Alembic's configuration, with the revisions of the chassis and of each folder.

    `attributes` are values for `env.py`, such as the connection to the database.
    """
    config = Config(attributes=attributes)
    locations = [folder / "versions" for folder in (_HERE, *service_migrations)]
    config.set_main_option("script_location", str(_HERE))
    config.set_main_option("path_separator", "newline")
    config.set_main_option("version_locations", "\n".join(str(location) for location in locations))
    return config


def missing_heads(scripts: ScriptDirectory, applied: set[str]) -> set[str]:
    """The heads (newest revisions) of this code that the database lacks. `applied` holds the database's heads."""
    known = applied & {script.revision for script in scripts.walk_revisions()}
    reached = {revision for one in known for revision in _lineage(scripts, one)}
    missing = set(scripts.get_heads()) - reached
    if applied == known:
        return missing
    # The database has revisions that this code does not know, so newer code has migrated it. The chassis' revisions
    # form one branch, and a service's revisions another. If this code does not know the database's revision of a
    # branch, that revision is newer than this code's head, so the head is not missing. If this code knows the revision,
    # that revision is a predecessor of the head, because `missing` contains no head that the database has reached. Then
    # the head is missing.
    return {head for head in missing if known & _lineage(scripts, head)}


def _lineage(scripts: ScriptDirectory, revision: str) -> set[str]:
    """The revision and all its predecessors."""
    return {script.revision for script in scripts.iterate_revisions(revision, "base")}
