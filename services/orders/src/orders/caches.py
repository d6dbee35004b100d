"""The caches of orders, made the same way by the process that reads them and the one that invalidates them."""

from chassis.caching import Cache
from pydantic import TypeAdapter
from redis.asyncio import Redis

from orders.schemas import OwnedOrder, ProductList, ProductView
from orders.settings import OrdersSettings


def catalogue(redis: Redis, settings: OrdersSettings) -> Cache[ProductList]:
    """The whole catalogue under one key: it is small, and read by every order."""
    return Cache(
        redis,
        TypeAdapter(ProductList),
        settings.cache,
        name="orders:catalogue",
        version=1,
        timeout=settings.redis.timeout,
    )


def products(redis: Redis, settings: OrdersSettings) -> Cache[ProductView]:
    """Products by id, for who asks about one."""
    return Cache(
        redis,
        TypeAdapter(ProductView),
        settings.cache,
        name="orders:product",
        version=1,
        timeout=settings.redis.timeout,
    )


def orders(redis: Redis, settings: OrdersSettings) -> Cache[OwnedOrder]:
    """Orders by id; invalidated after the commit that moves one."""
    return Cache(
        redis, TypeAdapter(OwnedOrder), settings.cache, name="orders:order", version=1, timeout=settings.redis.timeout
    )
