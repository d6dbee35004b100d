"""The caches of the orders service. The API reads the caches and the worker invalidates their entries, so both build
the caches with these functions.
"""

from chassis.caching import Cache
from pydantic import TypeAdapter
from redis.asyncio import Redis

from orders.models import OrderRef
from orders.schemas import OrderView, ProductList, ProductView
from orders.settings import OrdersSettings


def catalogue(redis: Redis, settings: OrdersSettings) -> Cache[ProductList]:
    """A cache of the whole catalogue under one key: the catalogue is small, and every new order reads it."""
    return _cache(redis, settings, ProductList, "orders:catalogue", near_ttl=settings.cache.near_ttl)


def products(redis: Redis, settings: OrdersSettings) -> Cache[ProductView]:
    """A cache of single products. The key of an entry is the product's id."""
    return _cache(redis, settings, ProductView, "orders:product", near_ttl=settings.cache.near_ttl)


def orders(redis: Redis, settings: OrdersSettings) -> Cache[OrderView]:
    """A cache of single orders. `order_key` makes the key of an entry. After each commit that changes an order, the
    order's entry is invalidated in all processes.
    """
    return _cache(redis, settings, OrderView, "orders:order")


def order_key(order: OrderRef) -> str:
    """The cache key of an order. The key contains the client's id, so that no client reads another client's entry."""
    return f"{order.id}:{order.client_id}"


def _cache[T](redis: Redis, settings: OrdersSettings, kind: type[T], name: str, *, near_ttl: float = 0.0) -> Cache[T]:
    return Cache(redis, TypeAdapter(kind), settings.cache, name=name, near_ttl=near_ttl)
