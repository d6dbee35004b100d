"""Routes. Each one says in words who may call it, what a call costs, who goes first, and how it may fail.

    router = Router(prefix="/v1")

    @router.post("/orders", access="orders:write", cost=5, criticality="critical", errors=[ErrorCode.UNKNOWN_PRODUCT])
    @router.get("/status", public=True)

A route with neither `access` nor `public=True` raises `UndeclaredRoute` when its module is imported. The OpenAPI
document is made from what a route says. A refused request is refused before its body is read.
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
    """A route says neither whose `access` it needs nor that it is `public`, or it says both."""


class Declaration(TypedDict, total=False):
    """What a route says. `access` or `public` is required."""

    access: str
    """The scope that callers need. Without a valid key or token a caller is answered 401, without the scope 403."""
    public: bool
    """Any stranger may call it. It must limit them itself."""
    cost: int
    """What a call takes of its caller's limit; 1 if not given. Over the limit a caller is answered 429."""
    criticality: Criticality
    """`critical`: money or an event that a customer waits for. `sheddable`: a view that can be asked for again. An
    overloaded process refuses `sheddable` routes first and `critical` ones last; `default` lies between them."""
    errors: Sequence[ErrorCode]
    """The codes that it may answer, beside those of any route, of a body and of `Keyed`, which are found here."""
    conditional: bool
    """Its `Json` has an ETag, and a caller who has the current body is answered 304 without it."""
    status_code: int
    """Of its usual answer; 200 if not given."""
    response_model: type[Any]
    """The body's model, where the handler returns a `Response`."""
    responses: Mapping[int | str, dict[str, Any]]
    """Further answers that are no errors, as OpenAPI responses by status."""
    dependencies: Sequence[Depends]
    include_in_schema: bool
    """Whether the document shows it; True if not given."""
    openapi_extra: dict[str, Any]
    """What FastAPI cannot know of the operation, such as the schema of a raw body."""


class Route(APIRoute):
    """A route that takes a place of the process, and then authenticates, before it reads anything else."""

    access: Access | None
    """None for a public route."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        scope: str | None = options.pop("access", None)
        if (scope is not None) is options.pop("public", False):
            raise UndeclaredRoute(f"{path}: say either access=<scope> or public=True, on a `chassis.app.api.Router`")
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
        # Clients that are generated from the document get the function's name, not one made of path and method.
        super().__init__(path, endpoint, **options | {"generate_unique_id_function": lambda route: route.name})
        self.app = AsyncExitStackMiddleware(self.app)  # FastAPI's solver needs it; `Application` has none
        self.app = past_solver(self)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        if scope["method"] not in (self.methods or ()):
            await spend_as_stranger(request)  # no key has been looked at
            raise HTTPException(405)
        load_shedder: LoadShedder = scope["app"].load_shedder
        exchange = Exchange.of(scope)
        with load_shedder.slot(self._criticality) as exchange.slot:
            if self.access is not None:
                await self.access.check(request)
            check_encoding(exchange.asked)
            await self.app(scope, receive, send)


class Router:
    """What a service declares its routes on; `build_app` takes it."""

    def __init__(self, *, prefix: str = "") -> None:
        self.routes: list[Route] = []
        self.prefix = prefix

    def get[F: Callable[..., Any]](self, path: str, **said: Unpack[Declaration]) -> Callable[[F], F]:
        return self._route("GET", path, said)

    def post[F: Callable[..., Any]](self, path: str, **said: Unpack[Declaration]) -> Callable[[F], F]:
        return self._route("POST", path, said)

    def put[F: Callable[..., Any]](self, path: str, **said: Unpack[Declaration]) -> Callable[[F], F]:
        return self._route("PUT", path, said)

    def patch[F: Callable[..., Any]](self, path: str, **said: Unpack[Declaration]) -> Callable[[F], F]:
        return self._route("PATCH", path, said)

    def delete[F: Callable[..., Any]](self, path: str, **said: Unpack[Declaration]) -> Callable[[F], F]:
        return self._route("DELETE", path, said)

    def _route[F: Callable[..., Any]](self, method: str, path: str, said: Declaration) -> Callable[[F], F]:
        def declare(endpoint: F) -> F:
            self.routes.append(Route(self.prefix + path, endpoint, methods=[method], **said))
            return endpoint

        return declare


def _errors_of_needs(path: str, endpoint: Callable[..., Any]) -> Sequence[ErrorCode]:
    """The errors that a route may answer because of what its handler asks for."""
    is_keyed = any(need.call is keyed for need in _all_needs(get_dependant(path=path, call=endpoint)))
    return KEYED if is_keyed else ()


def _all_needs(of: Dependant) -> Iterator[Dependant]:
    yield of
    for need in of.dependencies:
        yield from _all_needs(need)


def describe_access(document: dict[str, Any], routes: Sequence[BaseRoute]) -> None:
    """Let the OpenAPI document say what kind of key the routes that are not public need."""
    if any(isinstance(route, Route) and route.access for route in routes):
        document["components"]["securitySchemes"] = {SCHEME: {"type": "http", "scheme": "bearer"}}


def refuse_undeclared(routes: Sequence[BaseRoute]) -> None:
    """Raise `UndeclaredRoute` for a route that no `Router` declared: it would be open to every stranger."""
    for route in routes:
        if not isinstance(route, Route):
            raise UndeclaredRoute(f"{getattr(route, 'path', route)}: declare it on a `chassis.app.api.Router`")
