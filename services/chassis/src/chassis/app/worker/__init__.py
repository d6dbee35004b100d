"""The worker process of a service. The process runs its parts side by side: job runners, an event consumer, a
scheduler, and a relay, which publishes the service's events.

Read `serving` first: it starts and stops the process. Then read `resources`, from which a service's composition root
(the function that assembles the process) makes the parts. `stages` runs the parts and stops them in order.
"""

from chassis.app.worker.resources import WorkerResources
from chassis.app.worker.serving import run_worker
from chassis.app.worker.stages import Part, Stages

__all__ = ["Part", "Stages", "WorkerResources", "run_worker"]
