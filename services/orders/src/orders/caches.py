"""The caches of orders. The API reads them and the worker invalidates them, so both build them here."""

from chassis.caching import Cache
from pydantic import TypeAdapter
from redis.asyncio import Redis

from orders.models import OrderRef
from orders.schemas import OrderView, ProductList, ProductView
from orders.settings import OrdersSettings


def catalogue(redis: Redis, settings: OrdersSettings) -> Cache[ProductList]:
    """The whole catalogue under one key: it is small, and every order reads it."""
    return _cache(redis, settings, ProductList, "orders:catalogue", near_ttl=settings.cache.near_ttl)


def products(redis: Redis, settings: OrdersSettings) -> Cache[ProductView]:
    """Single products. The key is the product's id."""
    return _cache(redis, settings, ProductView, "orders:product", near_ttl=settings.cache.near_ttl)


def orders(redis: Redis, settings: OrdersSettings) -> Cache[OrderView]:
    """Orders. `order_key` makes the key of an entry. After each commit that changes an order, its entry is invalidated
    in all processes.
    """
    return _cache(redis, settings, OrderView, "orders:order")


def order_key(order: OrderRef) -> str:
    """The key of an order. It contains the client, so that no client reads an entry of another."""
    return f"{order.id}:{order.client_id}"


def _cache[T](redis: Redis, settings: OrdersSettings, kind: type[T], name: str, *, near_ttl: float = 0.0) -> Cache[T]:
    return Cache(redis, TypeAdapter(kind), settings.cache, name=name, near_ttl=near_ttl)
