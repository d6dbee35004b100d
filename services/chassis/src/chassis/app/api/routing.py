"""The routes of an API. Each route declares the scope that its callers need, the cost of a call, its criticality, and
the errors that it may answer with.

    router = Router(prefix="/v1")

    @router.post("/orders", access="orders:write", cost=5, criticality="critical", errors=[ErrorCode.UNKNOWN_PRODUCT])
    @router.get("/status", public=True)

A route with neither `access` nor `public=True` raises `UndeclaredRoute` when its module is imported. The OpenAPI
document is generated from these declarations. A request that its route does not allow is refused before the process
reads its body.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypedDict, Unpack

from fastapi.dependencies.models import Dependant
from fastapi.dependencies.utils import get_dependant
from fastapi.middleware.asyncexitstack import AsyncExitStackMiddleware
from fastapi.params import Depends
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.routing import BaseRoute
from starlette.types import Receive, Scope, Send

from chassis.app.api.access import SCHEME, Access
from chassis.app.api.answers import returns, written
from chassis.app.api.conditional import CONDITIONAL, IF_NONE_MATCH
from chassis.app.api.error_documents import KEYED, documented
from chassis.app.api.keyed import keyed
from chassis.app.api.limits import spend_as_stranger
from chassis.app.api.load_shedding import Criticality, LoadShedder
from chassis.app.api.middleware import Exchange
from chassis.caching import Json
from chassis.errors import ErrorCode, HoldfastError
from chassis.fast.fastapi_solver import past_solver
from chassis.process.bodies import check_encoding


class UndeclaredRoute(HoldfastError):
    """A route declares neither `access` nor `public`, or it declares both."""


class Declaration(TypedDict, total=False):
    """The declaration of a route. Either `access` or `public` is required."""

    access: str
    """The scope that callers need. A caller without a valid key or token gets a 401, and a caller without the scope a
    403.
    """
    public: bool
    """True when callers need no key. The handler must then apply a rate limit itself."""
    cost: int
    """The units that a call takes from its caller's rate limit, by default 1. A caller over its limit gets a 429."""
    criticality: Criticality
    """A route is `critical` if it moves money or receives an event that a customer waits for. A route is `sheddable` if
    it returns a view that a client can request again later. An overloaded process refuses `sheddable` routes first,
    then `default` ones, and `critical` ones last.
    """
    errors: Sequence[ErrorCode]
    """The error codes of this route. The codes that all routes share, and the codes of a `Keyed` parameter, are added
    automatically.
    """
    conditional: bool
    """True when the answer, a `Json`, has an ETag. A caller that sends the current ETag gets a 304 without a body."""
    status_code: int
    """The status of an answer that is not an error; the default is 200."""
    response_model: type[Any]
    """The model of the answer's body, for a handler that returns a `Response`."""
    responses: Mapping[int | str, dict[str, Any]]
    """Further answers that are not errors, as OpenAPI responses by status."""
    dependencies: Sequence[Depends]
    include_in_schema: bool
    """Whether the OpenAPI document shows the route; the default is True."""
    openapi_extra: dict[str, Any]
    """Fields of the OpenAPI operation that FastAPI cannot derive, such as the schema of a raw body."""


class Route(APIRoute):
    """A route that takes a slot of the load shedder and authenticates the caller before it reads the body."""

    access: Access | None
    """The scope that callers need and the cost of a call; None if the route is public."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        scope: str | None = options.pop("access", None)
        if (scope is not None) is options.pop("public", False):
            raise UndeclaredRoute(
                f"{path}: declare either access=<scope> or public=True, on a `chassis.app.api.Router`"
            )
        self.access = None if scope is None else Access(scope, options.pop("cost", 1))
        self._criticality: Criticality = options.pop("criticality", "default")
        errors = [*_errors_of_needs(path, endpoint), *options.pop("errors", ())]
        is_conditional: bool = options.pop("conditional", False)
        kind, model = returns(endpoint)
        if is_conditional and kind is not Json:
            raise UndeclaredRoute(f"{path}: conditional=True is for a handler that returns Json")
        if kind is not None:
            endpoint = written(endpoint, status=options.get("status_code", 200), is_conditional=is_conditional)
            options["response_model"] = model
        options["responses"] = (
            documented(*errors, needs_key=scope is not None)
            | (CONDITIONAL if is_conditional else {})
            | dict(options.get("responses") or {})
        )
        options["openapi_extra"] = (
            (self.access.described() if self.access else {})
            | ({"x-criticality": self._criticality} if self._criticality != "default" else {})
            | (IF_NONE_MATCH if is_conditional else {})
            | (options.get("openapi_extra") or {})
        )
        # The operation's id is the function's name, so that generated clients have readable method names.
        super().__init__(path, endpoint, **options | {"generate_unique_id_function": lambda route: route.name})
        self.app = AsyncExitStackMiddleware(self.app)  # FastAPI's dependencies need this exit stack
        self.app = past_solver(self)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        if scope["method"] not in (self.methods or ()):
            await spend_as_stranger(request)  # no key has been checked yet, so the limit of the address applies
            raise HTTPException(405)
        load_shedder: LoadShedder = scope["app"].load_shedder
        exchange = Exchange.of(scope)
        with load_shedder.slot(self._criticality) as exchange.slot:
            if self.access is not None:
                await self.access.check(request)
            check_encoding(exchange.request_headers)
            await self.app(scope, receive, send)


class Router:
    """A service declares its routes on a `Router` and passes the router to `build_app`."""

    def __init__(self, *, prefix: str = "") -> None:
        self.routes: list[Route] = []
        self.prefix = prefix

    def get[F: Callable[..., Any]](self, path: str, **declared: Unpack[Declaration]) -> Callable[[F], F]:
        return self._route("GET", path, declared)

    def post[F: Callable[..., Any]](self, path: str, **declared: Unpack[Declaration]) -> Callable[[F], F]:
        return self._route("POST", path, declared)

    def put[F: Callable[..., Any]](self, path: str, **declared: Unpack[Declaration]) -> Callable[[F], F]:
        return self._route("PUT", path, declared)

    def patch[F: Callable[..., Any]](self, path: str, **declared: Unpack[Declaration]) -> Callable[[F], F]:
        return self._route("PATCH", path, declared)

    def delete[F: Callable[..., Any]](self, path: str, **declared: Unpack[Declaration]) -> Callable[[F], F]:
        return self._route("DELETE", path, declared)

    def _route[F: Callable[..., Any]](self, method: str, path: str, declared: Declaration) -> Callable[[F], F]:
        def declare(endpoint: F) -> F:
            self.routes.append(Route(self.prefix + path, endpoint, methods=[method], **declared))
            return endpoint

        return declare


def _errors_of_needs(path: str, endpoint: Callable[..., Any]) -> Sequence[ErrorCode]:
    """The errors that a route may also answer with if its handler has a `Keyed` parameter."""
    is_keyed = any(need.call is keyed for need in _all_needs(get_dependant(path=path, call=endpoint)))
    return KEYED if is_keyed else ()


def _all_needs(of: Dependant) -> Iterator[Dependant]:
    yield of
    for need in of.dependencies:
        yield from _all_needs(need)


def describe_access(document: dict[str, Any], routes: Sequence[BaseRoute]) -> None:
    """Add the security scheme to the OpenAPI document, if a route needs a key."""
    if any(isinstance(route, Route) and route.access for route in routes):
        document["components"]["securitySchemes"] = {SCHEME: {"type": "http", "scheme": "bearer"}}


def refuse_undeclared(routes: Sequence[BaseRoute]) -> None:
    """Raise `UndeclaredRoute` for a route that was not declared on a `Router`: callers would need no key for such a
    route.
    """
    for route in routes:
        if not isinstance(route, Route):
            raise UndeclaredRoute(f"{getattr(route, 'path', route)}: declare it on a `chassis.app.api.Router`")
