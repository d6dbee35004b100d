"""Conditions and pages whose cost does not hang on what the planner knows of a table.

Before a table is first analysed the planner guesses, and a plan that a connection has prepared on few rows stays when
they become many. So a query leaves it one way.
"""

from uuid import UUID

from sqlalchemy import ColumnElement, Select, select, tuple_
from sqlalchemy.orm import DeclarativeBase, InstrumentedAttribute, aliased

_LAST = UUID(int=2**128 - 1)


def belongs_to(owner: InstrumentedAttribute[str], value: str) -> ColumnElement[bool]:
    """Whether a row, which is found by its id, has this owner. No index serves it: by one that begins with the owner,
    all rows of that owner may be read.
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
    """The newest `limit` rows of an owner, with an id below `before`; an index on (owner, id) is needed.

    Owner and id are compared and sorted together, so that no other index has the rows in order. The walk goes on into
    the rows of the owner before, which are left out at the end. A row that `which` leaves out is read all the same.
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
