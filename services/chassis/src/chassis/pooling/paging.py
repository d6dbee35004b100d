"""Conditions and pages whose cost does not depend on the planner's statistics of a table.

Before a table is first analysed, the planner guesses. A plan that a connection prepared when the table had few rows
stays when it has many. So each query here can be executed in one way only.
"""

from uuid import UUID

from sqlalchemy import ColumnElement, Select, select, tuple_
from sqlalchemy.orm import DeclarativeBase, InstrumentedAttribute, aliased

_LAST = UUID(int=2**128 - 1)


def belongs_to(owner: InstrumentedAttribute[str], value: str) -> ColumnElement[bool]:
    """Whether a row, which is found by its id, has this owner. The expression keeps the planner from an index that
    begins with the owner, through which it may read all rows of that owner.
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

    Owner and id are compared and sorted together, so no other index has the rows in this order. The inner query may
    continue into the rows of the preceding owner; the outer query removes them. Rows that `which` excludes are read.
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
