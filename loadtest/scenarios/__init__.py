"""Every scenario, by the name of its module."""

from collections.abc import Mapping

from scenario import Scenario

from scenarios import abuse, burst, flash_sale, overload, provider_outage, soak, steady, webhook_storm

SCENARIOS: Mapping[str, Scenario] = {
    "abuse": abuse.SCENARIO,
    "burst": burst.SCENARIO,
    "flash_sale": flash_sale.SCENARIO,
    "overload": overload.SCENARIO,
    "provider_outage": provider_outage.SCENARIO,
    "soak": soak.SCENARIO,
    "steady": steady.SCENARIO,
    "webhook_storm": webhook_storm.SCENARIO,
}
