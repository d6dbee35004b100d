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
    So the planner uses the index on the id, and the query never reads all rows of the owner.
    """
    return owner.concat("") == value


def newest_of[Row: DeclarativeBase](
    row: type[Row],
    owner: InstrumentedAttribute[str],
    value: str,
    *which: ColumnElement[bool],
    before: UUID | None,
    limit: int,
    state: tuple[InstrumentedAttribute[str], str] | None = None,
) -> Select[Row]:
    """A query for the newest `limit` rows of an owner with ids below `before`, and in one `state` (a column's value).

    The table needs an index on (owner, id), or on (owner, the state's column, id). The query compares and sorts by
    these columns, so the planner can only use this index. The inner query reads the index backwards and may reach rows
    before those of the owner and the state; the outer query removes these rows. PostgreSQL also reads the rows that the
    conditions `which` exclude, so the query takes longer if `which` excludes many rows.
    """
    columns = row.__table__.columns
    fixed = [(owner, value), *([] if state is None else [state])]
    keys = [*(columns[attribute.key] for attribute, _ in fixed), columns["id"]]
    last = tuple_(*(given for _, given in fixed), before or _LAST, types=[key.type for key in keys])
    walked = (
        select(row).where(tuple_(*keys) < last, *which).order_by(*(key.desc() for key in keys)).limit(limit).subquery()
    )
    wanted = [walked.columns[attribute.key] == given for attribute, given in fixed]
    return select(aliased(row, walked)).where(*wanted).order_by(walked.columns["id"].desc())
