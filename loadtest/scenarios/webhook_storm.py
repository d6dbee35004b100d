"""Twenty webhooks a second for twenty seconds: genuine, repeated, forged and stale; orders are paid meanwhile.

Each genuine one is acknowledged long before a sender gives up (after 5 s or more) and stored once, no other is, and the
provider's own get through.
"""

from scenario import Limits, Scenario, Stage

ORDERS = {"Buyer": 0.8}

SCENARIO = Scenario(
    stages=[
        Stage(seconds=5, arrivals=ORDERS),
        Stage(seconds=20, arrivals=ORDERS | {"WebhookSender": 20.0}),
        Stage(seconds=10, arrivals=ORDERS),
    ],
    limits=Limits(
        rate_limited=(0.0, 0.01), overloaded=0.0, answer_seconds=1.0, settled_seconds=15.0, acknowledged_seconds=3.0
    ),
)
