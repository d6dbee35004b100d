"""A minute within what the clients may ask for: three clients, of whom each may spend 10 a second, spend about 5.

Nobody is over a limit, nothing fails, and an order is settled as soon as the provider's webhook is in.
"""

from scenario import Limits, Scenario, Stage

SCENARIO = Scenario(
    stages=[Stage(seconds=60, arrivals={"Buyer": 1.0, "Browser": 2.0, "BulkBuyer": 0.05})],
    limits=Limits(rate_limited=(0.0, 0.01), overloaded=0.0, answer_seconds=1.0, settled_seconds=15.0),
)
