"""The settings of the webhook-ingest service."""

from typing import Annotated, ClassVar

from chassis.settings import Group, ServiceSettings
from chassis.webhooks import signing_key
from pydantic import AfterValidator, Field, SecretStr


def _is_signing_key(secret: SecretStr) -> SecretStr:
    signing_key(secret.get_secret_value())
    return secret


type WebhookSecret = Annotated[SecretStr, AfterValidator(_is_signing_key)]
type Secrets = Annotated[list[WebhookSecret], Field(min_length=1)]


class WebhookSecretSettings(Group):
    """The secrets of each provider that sends webhooks; all are valid, so that one can be replaced without a gap."""

    payment_provider: Secrets = Field(description="JSON list of `whsec_…`, the newest first.")


class WebhookIngestSettings(ServiceSettings):
    service_name: ClassVar[str] = "webhook-ingest"

    webhook_secrets: WebhookSecretSettings
