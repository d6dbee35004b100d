"""A process of the chassis for an experiment: its routes inside the whole frame, as a service's own are."""

from collections.abc import Sequence

from chassis import config
from chassis.app.api import build_app, run_api
from chassis.app.api.resources import OpenResources, open_nothing_more
from chassis.app.api.routing import Router
from chassis.config import Live
from chassis.config.settings import ServiceSettings


def serve[S: ServiceSettings](
    settings_type: type[S],
    routers: Sequence[Router],
    open_resources: OpenResources[S] = open_nothing_more,
) -> None:
    """Serve the routes until the process is killed. `open_resources` is the composition root."""
    live = Live(config.load(settings_type, ()))
    run_api(live, build_app(live, version="0", routers=routers, open_resources=open_resources))
