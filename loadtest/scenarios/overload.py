"""Two, five and ten times as many orders as the platform can finish. The payment provider takes 0.9 s for each charge,
and the runner gives the payments worker two slots, so the capacity is about 2.2 orders a second.

The orders API refuses what would take too long, and refused buyers go away. Accepted orders are settled within the
promise, ten times the capacity settles as many orders as twice the capacity, and new orders are accepted again soon
after the last stage.
"""

from scenario import Limits, Scenario, Stage

SLOW = {"latency_seconds": 0.9}

SCENARIO = Scenario(
    stages=[
        Stage(seconds=15, arrivals={"Buyer": 1.0}, provider=SLOW),
        Stage(seconds=40, arrivals={"HastyBuyer": 4.5}, provider=SLOW),
        Stage(seconds=40, arrivals={"HastyBuyer": 11.0}, provider=SLOW),
        Stage(seconds=40, arrivals={"HastyBuyer": 22.0}, provider=SLOW),
        Stage(seconds=45, arrivals={"Buyer": 0.5}, provider=SLOW),
    ],
    orders=10_000,
    limits=Limits(
        rate_limited=(0.0, 0.0),
        overloaded=1.0,
        answer_seconds=2.0,
        settled_seconds=30.0,
        goodput=0.9,
        recovered_seconds=30.0,
    ),
)
