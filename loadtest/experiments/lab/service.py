"""A process of the chassis for an experiment: its routes inside the whole frame, as a service's own are."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from chassis import config
from chassis.app.api import create_app, run_api
from chassis.app.api.resources import ApiResources, open_api_resources
from chassis.app.api.routing import Router
from chassis.config import Live
from chassis.config.settings import ServiceSettings


def serve[S: ServiceSettings](
    settings_type: type[S],
    routers: Sequence[Router],
    open_resources: Callable[[Live[S]], AbstractAsyncContextManager[ApiResources]] = open_api_resources,
) -> None:
    """Until it is killed. `open_resources` opens what the routes need."""
    live = Live(config.load(settings_type, ()))

    @asynccontextmanager
    async def opened() -> AsyncIterator[ApiResources]:
        async with open_resources(live) as resources:
            yield resources

    run_api(live, create_app(live, version="0", routers=routers, open_resources=opened))
