"""Half an hour at half of what the clients may ask for: whatever grows, leaks or piles up makes answers slower.

For hours, `--seconds` stretches it.
"""

from scenario import Limits, Scenario, Stage

SCENARIO = Scenario(
    stages=[Stage(seconds=1800, arrivals={"Buyer": 0.8, "Browser": 2.0, "BulkBuyer": 0.05})],
    orders=10_000,
    limits=Limits(rate_limited=(0.0, 0.01), overloaded=0.0, answer_seconds=1.0, settled_seconds=15.0, drift=2.0),
)
