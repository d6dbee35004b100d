"""The four services, each with its settings model."""

from collections.abc import Mapping

from chassis.config.settings import ServiceSettings
from notifications.settings import NotificationsSettings
from orders.settings import OrdersSettings
from payments.settings import PaymentsSettings
from webhook_ingest.settings import WebhookIngestSettings

SETTINGS: Mapping[str, type[ServiceSettings]] = {
    settings.service_name: settings
    for settings in (OrdersSettings, PaymentsSettings, NotificationsSettings, WebhookIngestSettings)
}
SERVICES = tuple(SETTINGS)
