"""The API process of a service: its HTTP application, and the two ports that serve it.

Read `serving` first, which starts, serves and drains the process. Then read `application` and `routing`, which find the
route of a request. `middleware` runs around each request. `access`, `limits` and `load_shedding` decide whether the
route runs. `resources` and `keyed` define parameters of route handlers, and `answers` their return types.
`error_rendering` turns every error into an answer.
"""

from chassis.app.api.access import Caller
from chassis.app.api.application import Application, build_app
from chassis.app.api.keyed import Keyed
from chassis.app.api.resources import ApiResources, opened
from chassis.app.api.routing import Router, UndeclaredRoute
from chassis.app.api.serving import run_api

__all__ = [
    "ApiResources",
    "Application",
    "Caller",
    "Keyed",
    "Router",
    "UndeclaredRoute",
    "build_app",
    "opened",
    "run_api",
]
