"""The payment provider answers 503 to everything for twenty seconds, while orders go on being placed.

Placing takes as long as ever. Orders stay pending; once the breaker's trial call has come through and each job's wait
is over, all of them end as they must, and nobody is charged twice.
"""

from scenario import Limits, Scenario, Stage

ALWAYS = {"Buyer": 1.0, "Browser": 1.0}

SCENARIO = Scenario(
    stages=[
        Stage(seconds=10, arrivals=ALWAYS),
        Stage(seconds=20, arrivals=ALWAYS, provider={"unavailable": True}),
        Stage(seconds=20, arrivals=ALWAYS),
    ],
    patience=150,  # the outage, a minute of a job's longest wait, and the breaker's
    limits=Limits(rate_limited=(0.0, 0.05), overloaded=0.0, answer_seconds=1.0, settled_seconds=100.0),
)
