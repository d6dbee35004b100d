"""The caches of orders, made the same way by the process that reads them and the one that invalidates them."""

from chassis.caching import Cache
from pydantic import TypeAdapter
from redis.asyncio import Redis

from orders.models import OrderRef
from orders.schemas import OrderView, ProductList, ProductView
from orders.settings import OrdersSettings


def catalogue(redis: Redis, settings: OrdersSettings) -> Cache[ProductList]:
    """The whole catalogue under one key: it is small, and read by every order."""
    return _cache(redis, settings, ProductList, "orders:catalogue", near_ttl=settings.cache.near_ttl)


def products(redis: Redis, settings: OrdersSettings) -> Cache[ProductView]:
    """Products by id, for who asks about one."""
    return _cache(redis, settings, ProductView, "orders:product", near_ttl=settings.cache.near_ttl)


def orders(redis: Redis, settings: OrdersSettings) -> Cache[OrderView]:
    """Orders by `order_key`; invalidated after the commit that moves one, for the next read of any process."""
    return _cache(redis, settings, OrderView, "orders:order")


def order_key(order: OrderRef) -> str:
    """An order as its client sees it: with the client in the key, nobody is answered what is cached for another."""
    return f"{order.id}:{order.client_id}"


def _cache[T](redis: Redis, settings: OrdersSettings, kind: type[T], name: str, *, near_ttl: float = 0.0) -> Cache[T]:
    return Cache(redis, TypeAdapter(kind), settings.cache, name=name, near_ttl=near_ttl)
