"""Calm, then twenty seconds of twice what the clients may ask for, then calm again.

What is too much is refused with 429, and every client waits as long as it is told to. Nothing else fails, and what was
answered 201 is settled all the same.
"""

from scenario import Limits, Scenario, Stage

CALM = {"Buyer": 0.5, "Browser": 1.0}

SCENARIO = Scenario(
    stages=[
        Stage(seconds=10, arrivals=CALM),
        Stage(seconds=20, arrivals={"Buyer": 5.0, "Browser": 10.0}),
        Stage(seconds=15, arrivals=CALM),
    ],
    limits=Limits(rate_limited=(0.05, 1.0), overloaded=0.05, answer_seconds=5.0, settled_seconds=30.0),
)
