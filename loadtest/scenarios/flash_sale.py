"""One product is on sale from one moment to the next, and everybody wants it: eight buyers a second for 15 seconds.

Each looks at the catalogue, which is cached, and orders. That is more than the clients may spend: they are told to
wait.
"""

from scenario import Limits, Scenario, Stage

SCENARIO = Scenario(
    stages=[
        Stage(seconds=10, arrivals={"Browser": 2.0}),
        Stage(seconds=15, arrivals={"Buyer": 8.0, "Browser": 2.0}),
        Stage(seconds=20, arrivals={"Buyer": 0.5, "Browser": 1.0}),
    ],
    product="compass",
    limits=Limits(rate_limited=(0.05, 1.0), overloaded=0.05, answer_seconds=5.0, settled_seconds=30.0),
)
