"""Calm, then twenty seconds of five times what the clients may ask for, then calm again.

Most of the burst is refused with 429, and every client waits as long as it is told to. Nothing else fails, and what was
answered 201 is settled all the same.
"""

from scenario import Limits, Scenario, Stage

SCENARIO = Scenario(
    stages=[
        Stage(seconds=10, users=6, pause=(1.0, 4.0)),
        Stage(seconds=20, users=60, pause=(0.0, 0.5)),
        Stage(seconds=15, users=6, pause=(1.0, 4.0)),
    ],
    orders=300,
    limits=Limits(rate_limited=(0.1, 1.0), overloaded=0.05, answer_seconds=5.0, settled_seconds=30.0),
)
