"""One client asks four times as often as it may, and never waits; the other two do not notice.

They share processes, pools and Redis with it, not its limit.
"""

from scenario import Limits, Scenario, Stage

OTHERS = {"Buyer": 0.6, "Browser": 1.5}

SCENARIO = Scenario(
    stages=[
        Stage(seconds=5, arrivals=OTHERS),
        Stage(seconds=25, arrivals=OTHERS | {"Abuser": 40.0}),
        Stage(seconds=10, arrivals=OTHERS),
    ],
    limits=Limits(
        rate_limited=(0.0, 0.01), overloaded=0.0, answer_seconds=1.0, settled_seconds=15.0, abusers_refused=0.5
    ),
)
