"""Every way in which the platform's chart is meant to be installed."""

from collections.abc import Mapping
from functools import cache

from our_services import SERVICES
from rendering import HOLDFAST, Values, leaves, merge, nested, values_files, values_of

OWN_SECRETS = merge(
    nested("secrets.generate", value=True),
    *(nested(f"services.{name}.existing{kind}Secret", value="") for name in SERVICES for kind in ("", "Migration")),
)
ALONG_WITH: Mapping[str, Values] = {
    "postgres.enabled=false": nested("config.database.host", value="postgres.example.com"),
    "valkey.enabled=false": nested("config.redis.host", value="valkey.example.com"),
    "simulators.enabled=false": merge(
        nested("services.payments.config.provider.base_url", value="https://provider.example.com"),
        nested("services.notifications.config.smtp.host", value="mail.example.com"),
    ),
    "autoscaling.apis.enabled=true": nested("postgres.maxConnections", value=700),
    "autoscaling.workers.enabled=true": nested("postgres.maxConnections", value=700),
    "secrets.generate=false": values_of(HOLDFAST, "values-prod.yaml"),
    "postgres.enabled=true": OWN_SECRETS,
    "valkey.enabled=true": OWN_SECRETS,
    "simulators.enabled=true": OWN_SECRETS,
}
"""What has to be said along with a switch: where the thing is that is switched off, or that its secrets are ours."""


@cache
def variants() -> Mapping[str, Values]:
    """The chart's own values, each values file, and every switch turned the other way, alone.

    values.yaml turns each on that it has off, values-prod.yaml each off that it has on; what only another file has is
    turned on top of that one.
    """
    files = {"values.yaml": {}} | {file: values_of(HOLDFAST, file) for file in values_files(HOLDFAST)}
    found: dict[str, Values] = dict(files)
    own = {path for path, value in leaves(values_of(HOLDFAST)) if isinstance(value, bool)}
    for file, values in files.items():
        given = values if file not in {"values.yaml", "values-prod.yaml"} else merge(values_of(HOLDFAST), values)
        for path, value in leaves(given):
            if isinstance(value, bool) and (given is not values or path not in own):
                switch = f"{path}={str(not value).lower()}"
                found[f"{file}, {switch}"] = merge(values, ALONG_WITH.get(switch, {}), nested(path, value=not value))
    return found
