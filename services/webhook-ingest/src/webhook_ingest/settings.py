"""The settings of the webhook-ingest service."""

from typing import Annotated, ClassVar

from chassis.settings import Group, ServiceSettings
from chassis.webhooks import signing_key
from pydantic import AfterValidator, Field, SecretStr


def _is_signing_key(secret: SecretStr) -> SecretStr:
    signing_key(secret.get_secret_value())
    return secret


type StandardSecret = Annotated[SecretStr, AfterValidator(_is_signing_key)]
type RawSecret = Annotated[SecretStr, Field(min_length=1)]


class WebhookSecretSettings(Group):
    """The secrets of each provider that sends webhooks; all are valid, so that one can be replaced without a gap."""

    payment_provider: list[StandardSecret] = Field(
        min_length=1, description="JSON list of `whsec_…`, the newest first."
    )
    stripe: list[RawSecret] = Field(
        default_factory=list, description="JSON list of the endpoint's `whsec_…`; none: its path answers 404."
    )
    github: list[RawSecret] = Field(
        default_factory=list, description="JSON list of what GitHub calls the secret; none: its path answers 404."
    )


class WebhookIngestSettings(ServiceSettings):
    service_name: ClassVar[str] = "webhook-ingest"

    webhook_secrets: WebhookSecretSettings
