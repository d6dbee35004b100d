"""The use cases of the orders service. Each use case runs in the caller's transaction and calls no other service.

`models.ORDER` defines the states of an order and the legal moves. docs/reference/protocol.md describes the steps. Read
`placing` first.
"""

from orders.use_cases.cancelling import cancel_order, expire_orders
from orders.use_cases.paying import KnownPayment, find_payment, last_known_status, view_of_known, view_of_reported
from orders.use_cases.placing import place_order
from orders.use_cases.reading import OrderToPay, find_order, find_product, list_orders, list_products, read_order
from orders.use_cases.settling import PaymentNews, PaymentStatus, apply_payment, decide_payment
from orders.use_cases.sweeps import sweep

__all__ = [
    "KnownPayment",
    "OrderToPay",
    "PaymentNews",
    "PaymentStatus",
    "apply_payment",
    "cancel_order",
    "decide_payment",
    "expire_orders",
    "find_order",
    "find_payment",
    "find_product",
    "last_known_status",
    "list_orders",
    "list_products",
    "place_order",
    "read_order",
    "sweep",
    "view_of_known",
    "view_of_reported",
]
