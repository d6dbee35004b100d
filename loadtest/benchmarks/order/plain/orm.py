"""The plain saga's storage as most people write it: SQLAlchemy's ORM, a class for each table, objects that are changed.

Every database gets all tables; each service uses its own.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, ForeignKey, Identity, func, select
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship


class Base(DeclarativeBase):
    type_annotation_map = {int: BigInteger, dict[str, Any]: JSONB}  # noqa: RUF012  SQLAlchemy's way


class Task(Base):
    """Work that commits with what causes it: a job, or an event to publish."""

    __tablename__ = "task"

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    kind: Mapped[str]
    payload: Mapped[dict[str, Any]]


class Product(Base):
    __tablename__ = "product"

    id: Mapped[str] = mapped_column(primary_key=True)
    price: Mapped[int]
    currency: Mapped[str]


class Order(Base):
    __tablename__ = "orders"

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=func.uuidv7())
    customer_email: Mapped[str]
    payment_method: Mapped[str]
    status: Mapped[str] = mapped_column(default="pending")
    amount: Mapped[int]
    currency: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    lines: Mapped[list["OrderLine"]] = relationship()


class OrderLine(Base):
    __tablename__ = "order_line"

    order_id: Mapped[UUID] = mapped_column(ForeignKey("orders.id"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    product_id: Mapped[str] = mapped_column(ForeignKey("product.id"))
    quantity: Mapped[int]
    unit_price: Mapped[int]


class Payment(Base):
    __tablename__ = "payment"

    order_id: Mapped[UUID] = mapped_column(primary_key=True)
    amount: Mapped[int]
    currency: Mapped[str]
    payment_method: Mapped[str]
    status: Mapped[str] = mapped_column(default="created")
    charge_id: Mapped[str | None]


class ProviderEvent(Base):
    __tablename__ = "provider_event"

    id: Mapped[str] = mapped_column(primary_key=True)
    body: Mapped[bytes]


class Mail(Base):
    __tablename__ = "mail"

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=func.uuidv7())
    order_id: Mapped[UUID]
    recipient: Mapped[str]
    subject: Mapped[str]
    text: Mapped[str]
    status: Mapped[str] = mapped_column(default="pending")


class Transaction:
    """What the steps read and write, in one transaction."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def add_task(self, kind: str, payload: dict[str, Any]) -> None:
        self._session.add(Task(kind=kind, payload=payload))

    async def take_tasks(self, count: int) -> list[tuple[str, dict[str, Any]]]:
        """The oldest tasks that no other worker holds, deleted if this transaction commits."""
        oldest = select(Task).order_by(Task.id).limit(count).with_for_update(skip_locked=True)
        tasks = (await self._session.scalars(oldest)).all()
        for task in tasks:
            await self._session.delete(task)
        return [(task.kind, task.payload) for task in tasks]

    async def products(self, ids: Sequence[str]) -> dict[str, tuple[int, str]]:
        found = await self._session.scalars(select(Product).where(Product.id.in_(ids)))
        return {product.id: (product.price, product.currency) for product in found}

    async def add_order(self, values: dict[str, Any], lines: Sequence[dict[str, Any]]) -> tuple[UUID, datetime]:
        order = Order(**values, lines=[OrderLine(position=n, **line) for n, line in enumerate(lines, 1)])
        self._session.add(order)
        await self._session.flush()
        return order.id, order.created_at

    async def order(self, order_id: UUID) -> dict[str, Any]:
        return _values(await self._session.get_one(Order, order_id))

    async def confirm_order(self, order_id: UUID) -> dict[str, Any]:
        order = await self._session.get_one(Order, order_id)
        order.status = "confirmed"
        return _values(order)

    async def add_payment(self, values: dict[str, Any]) -> bool:
        """Whether it is new: a worker that was killed asks again."""
        if await self._session.get(Payment, values["order_id"]) is not None:
            return False
        self._session.add(Payment(**values))
        return True

    async def payment(self, order_id: UUID) -> dict[str, Any]:
        return _values(await self._session.get_one(Payment, order_id))

    async def submit_payment(self, order_id: UUID, charge_id: str) -> None:
        payment = await self._session.get_one(Payment, order_id)
        payment.charge_id = charge_id

    async def capture_payment(self, order_id: UUID) -> None:
        payment = await self._session.get_one(Payment, order_id, with_for_update=True)
        payment.status = "captured"

    async def add_provider_event(self, event_id: str, body: bytes) -> None:
        await self._session.merge(ProviderEvent(id=event_id, body=body))

    async def provider_event(self, event_id: str) -> bytes:
        return (await self._session.get_one(ProviderEvent, event_id)).body

    async def add_mail(self, values: dict[str, Any]) -> UUID:
        mail = Mail(**values)
        self._session.add(mail)
        await self._session.flush()
        return mail.id

    async def mail(self, mail_id: UUID) -> dict[str, Any]:
        return _values(await self._session.get_one(Mail, mail_id))

    async def settle_mail(self, mail_id: UUID) -> None:
        (await self._session.get_one(Mail, mail_id)).status = "sent"


class Store:
    def __init__(self, sessions: async_sessionmaker[AsyncSession]) -> None:
        self._sessions = sessions

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        async with self._sessions.begin() as session:
            yield Transaction(session)


@asynccontextmanager
async def open_store(dsn: str, *, connections: int) -> AsyncIterator[Store]:
    engine = create_async_engine(_url(dsn), pool_size=connections)
    try:
        yield Store(async_sessionmaker(engine, expire_on_commit=False))
    finally:
        await engine.dispose()


async def create_tables(dsn: str, products: Sequence[tuple[str, int]]) -> None:
    """All tables, and the products (id and price) of a new database."""
    engine = create_async_engine(_url(dsn))
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with async_sessionmaker(engine).begin() as session:
        session.add_all([Product(id=name, price=price, currency="EUR") for name, price in products])
    await engine.dispose()


def _url(dsn: str) -> str:
    return dsn.replace("postgresql://", "postgresql+asyncpg://")


def _values(row: Base) -> dict[str, Any]:
    return {column.key: getattr(row, column.key) for column in row.__mapper__.column_attrs}
