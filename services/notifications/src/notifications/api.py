"""The composition root of the API process: what it opens, and what its routes are given."""

from functools import partial
from importlib.metadata import version

from chassis.app import create_app as create_chassis_app
from chassis.app import run_api
from chassis.app.resources import open_api_resources
from fastapi import FastAPI

from notifications import routes
from notifications.settings import NotificationsSettings


def create_app(settings: NotificationsSettings) -> FastAPI:
    return create_chassis_app(
        settings,
        version=version("holdfast-notifications"),
        routers=[routes.router],
        open_resources=partial(open_api_resources, settings),
    )


def run(settings: NotificationsSettings) -> None:
    run_api(settings, create_app(settings))
