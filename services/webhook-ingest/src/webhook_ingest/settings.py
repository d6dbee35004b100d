"""The settings of the webhook-ingest service."""

from typing import Annotated, ClassVar

from chassis.config.settings import RELOADED, Group, Secret, ServiceSettings
from chassis.webhooks import signing_key
from pydantic import AfterValidator, Field, SecretStr


def _is_signing_key(secret: SecretStr) -> SecretStr:
    signing_key(secret.get_secret_value())
    return secret


type StandardSecret = Annotated[SecretStr, Field(max_length=256), AfterValidator(_is_signing_key)]

_AT_MOST = 5
"""The largest number of secrets of one provider. The process compares a webhook's signature with one signature per
secret, so each further secret makes each webhook slower. Two secrets are enough to replace an old secret by a new one.
"""


class WebhookSecretSettings(Group):
    """The secrets of each provider. All secrets of a provider are valid at once, so that an operator can replace a
    secret without refused webhooks.
    """

    payment_provider: tuple[StandardSecret, ...] = Field(
        min_length=1,
        max_length=_AT_MOST,
        description="JSON list of secrets (`whsec_…`), the newest first.",
        json_schema_extra=RELOADED,
    )
    stripe: tuple[Secret, ...] = Field(
        (),
        max_length=_AT_MOST,
        description="JSON list of the endpoint's secrets (`whsec_…`). While the list is empty, Stripe's path answers "
        "404.",
        json_schema_extra=RELOADED,
    )
    github: tuple[Secret, ...] = Field(
        (),
        max_length=_AT_MOST,
        description="JSON list of the webhook's secrets. While the list is empty, GitHub's path answers 404.",
        json_schema_extra=RELOADED,
    )


class WebhookIngestSettings(ServiceSettings):
    service_name: ClassVar[str] = "webhook-ingest"

    webhook_secrets: WebhookSecretSettings
