"""Conditions and paged queries whose cost does not depend on the planner's statistics of a table.

Before the first ANALYZE of a table, the planner guesses how many rows it has. A connection that prepared a plan for a
small table keeps this plan when the table is large. So PostgreSQL can execute each query here in only one way.
"""

from uuid import UUID

from sqlalchemy import ColumnElement, Select, select, tuple_
from sqlalchemy.orm import DeclarativeBase, InstrumentedAttribute, aliased

_LAST = UUID(int=2**128 - 1)


def belongs_to(owner: InstrumentedAttribute[str], value: str) -> ColumnElement[bool]:
    """The condition that a row has this owner, for a query that finds the row by its id.

    The planner cannot use an index on the owner for this expression, so it never reads all rows of the owner.
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
    """A query for the newest `limit` rows of an owner with ids below `before`. It needs an index on (owner, id).

    The query compares and sorts by (owner, id), so no other index has its order. The inner query may continue into the
    rows of the preceding owner, and the outer query removes them. PostgreSQL also reads the rows that `which` excludes.
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
