"""Every scenario, by the name of its module."""

from collections.abc import Mapping

from scenario import Scenario

from scenarios import burst, steady

SCENARIOS: Mapping[str, Scenario] = {"burst": burst.SCENARIO, "steady": steady.SCENARIO}
