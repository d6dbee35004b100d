"""Conditions and paged queries whose cost does not depend on the planner's statistics of a table.

PostgreSQL's planner may choose a slow plan for two reasons. Before the first ANALYZE of a table, the planner guesses
how many rows the table has. A connection that prepared a plan for a small table uses this plan even when the table has
become large. Each query of this module is therefore written so that the planner has only one plan to choose.
"""

from uuid import UUID

from sqlalchemy import ColumnElement, Select, select, tuple_
from sqlalchemy.orm import DeclarativeBase, InstrumentedAttribute, aliased

_LAST = UUID(int=2**128 - 1)


def belongs_to(owner: InstrumentedAttribute[str], value: str) -> ColumnElement[bool]:
    """The condition `owner = value`, for a query that finds one row by its id and checks the row's owner.

    The condition is written as `owner || '' = value`. The planner cannot use an index on the owner for this expression.
    So it uses the index on the id, and never reads all rows of the owner.
    """
    return owner.concat("") == value


def newest_of[Row: DeclarativeBase](
    row: type[Row],
    owner: InstrumentedAttribute[str],
    value: str,
    *which: ColumnElement[bool],
    before: UUID | None,
    limit: int,
) -> Select[Row]:
    """A query for the newest `limit` rows of an owner with ids below `before`. The table needs an index on (owner, id).

    The query compares and sorts by (owner, id), so the planner can only use the index on (owner, id). The inner query
    reads this index backwards and may reach rows of the preceding owner; the outer query removes these rows. PostgreSQL
    also reads the rows that the conditions `which` exclude, so the query takes longer if `which` excludes many rows.
    """
    columns = row.__table__.columns
    owner_id, row_id = columns[owner.key], columns["id"]
    walked = (
        select(row)
        .where(tuple_(owner_id, row_id) < tuple_(value, before or _LAST, types=[owner_id.type, row_id.type]), *which)
        .order_by(owner_id.desc(), row_id.desc())
        .limit(limit)
        .subquery()
    )
    return select(aliased(row, walked)).where(walked.columns[owner.key] == value).order_by(walked.columns["id"].desc())
