"""The worker process of a service: its jobs, its event consumer, its schedules and its relay, side by side.

Read `serving` first: how the process starts and stops. Then `resources`: a service's composition root makes its parts
from them. `stages` runs the parts and stops them in order.
"""

from chassis.app.worker.resources import WorkerResources
from chassis.app.worker.serving import run_worker
from chassis.app.worker.stages import Part, Stages

__all__ = ["Part", "Stages", "WorkerResources", "run_worker"]
