"""The guard of the management port, and the functions that its endpoints use to read requests and answer errors.

Every client inside the cluster may send requests that only read. A change needs `Authorization: Bearer
<management.token>`, and is logged. The HTTP method decides: GET, HEAD and OPTIONS read, and every other method is a
change. So a new endpoint is guarded by default.
"""

import hmac
import uuid
from collections.abc import Callable

import orjson
from pydantic import BaseModel, SecretStr, ValidationError
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chassis.config import fingerprint
from chassis.errors import ApiError, ErrorCode, ErrorDetail
from chassis.errors.answers import answer
from chassis.logging import canonical_line, get_logger, request_id_from, request_id_var, shown_back
from chassis.process.bodies import DECLARES_BODY, check_encoding, declares_more
from chassis.process.management_hosts import Hosts, is_allowed

log = get_logger(__name__)

type Token = Callable[[], SecretStr | None]
"""Returns the current management token, or None if none is configured. The token may change while the process runs."""

_OPEN_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_MAX_BODY_BYTES = 1024
_MAX_SHOWN = 100  # an answer quotes at most this many characters of an invalid value
_OTHER_HOST = "This port does not answer to the name in Host: use its address, or add the name to management.hosts."
_REQUEST_ID_KEY = "holdfast.request_id"
"""The key of the request id in the ASGI scope. The framework handles unexpected errors outside the guard, where
`request_id_var` is not set. So the answer to such an error takes the request id from the scope."""


class ManagementGuard:
    """ASGI middleware around the management application.

    The guard answers 403 if the Host header is a name that a web page may have: see `chassis.process.management_hosts`.
    The guard answers a change with 401 if the token is missing or wrong, and with 403 if no token is configured. An
    endpoint describes its change with `put_on_canonical_line(logger="chassis.retries", level="DEBUG")`. The log line
    `management_changed` has these fields, beside the method, path, status and client.
    """

    def __init__(self, app: ASGIApp, *, token: Token, hosts: Hosts) -> None:
        self._app = app
        self._token = token
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        scope[_REQUEST_ID_KEY] = request_id_from(headers.get("x-request-id", ""))
        reset = request_id_var.set(scope[_REQUEST_ID_KEY])
        try:
            if not is_allowed(headers.get("host", ""), self._hosts()):
                await respond(scope, ApiError(ErrorCode.FORBIDDEN, _OTHER_HOST))(scope, receive, send)
            elif scope["method"] in _OPEN_METHODS:
                await self._app(scope, receive, send)
            else:
                await self._change(scope, receive, send, headers)
        finally:
            request_id_var.reset(reset)

    async def _change(self, scope: Scope, receive: Receive, send: Send, headers: Headers) -> None:
        about = {"method": scope["method"], "path": scope["path"], "client": _client(scope)}
        try:
            token = check_token(headers.get("authorization"), self._token())
        except ApiError as refusal:
            log.warning("management_refused", **about, code=refusal.code.name)
            await respond(scope, refusal)(scope, receive, send)
            return
        status = 500  # this status is logged if an endpoint fails before its answer starts

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-ID"] = scope[_REQUEST_ID_KEY]
            await send(message)

        with canonical_line() as changed:
            try:
                await self._app(scope, receive, send_with_id)
            finally:
                # All operators share one token, so the log has the token's fingerprint instead of an operator's name.
                log.info("management_changed", **about, status=status, by=fingerprint(token), **changed)


def check_token(authorization: str | None, token: SecretStr | None) -> SecretStr:
    """The management token, if the Authorization header contains it. Raises `ApiError` (401 or 403) otherwise."""
    if token is None:
        raise ApiError(ErrorCode.FORBIDDEN, "No management token is configured, so this port accepts no changes.")
    scheme, _, given = (authorization or "").partition(" ")
    is_right = hmac.compare_digest(given.strip().encode(), token.get_secret_value().encode())
    if scheme.lower() != "bearer" or not is_right:
        raise ApiError(ErrorCode.UNAUTHENTICATED, "The management token is needed: Authorization: Bearer <token>.")
    return token


async def parse_body[M: BaseModel](request: Request, model: type[M]) -> M:
    """The request's body as a `model`. Raises `ApiError` (400, 413, 415, 422), which names every problem."""
    declared = {name: value.decode("latin-1") for name, value in request.scope["headers"] if name in DECLARES_BODY}
    check_encoding(declared)
    if declares_more(declared, _MAX_BODY_BYTES):
        raise ApiError(ErrorCode.PAYLOAD_TOO_LARGE)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MAX_BODY_BYTES:
            raise ApiError(ErrorCode.PAYLOAD_TOO_LARGE)
    try:
        return model.model_validate_json(bytes(body))
    except ValidationError as error:
        problems = error.errors(include_url=False)
    if any(problem["type"] == "json_invalid" for problem in problems):
        raise ApiError(ErrorCode.MALFORMED_REQUEST, "The body is not valid JSON.")
    details = [
        ErrorDetail(
            shown(".".join(map(str, problem["loc"]))) or "body",
            problem["msg"],
            # The value of an unknown field is not quoted: a misspelt `tokn` may hold a token.
            None if problem["type"] == "extra_forbidden" else shown(problem["input"]),
        )
        for problem in problems
    ]
    raise ApiError(ErrorCode.VALIDATION_FAILED, details=details)


def shown(value: object) -> str | None:
    """The text of an invalid value, as an answer may quote it. The result is None for an object or a list."""
    if not isinstance(value, str | int | float):
        return None
    return shown_back(str(value), _MAX_SHOWN)


def _client(scope: Scope) -> str:
    return scope["client"][0] if scope.get("client") else ""


def respond(scope: Scope, error: ApiError) -> Response:
    """The answer to an error on this port. This function does not use the public port's renderer, which a worker does
    not load.
    """
    request_id = scope.get(_REQUEST_ID_KEY) or uuid.uuid4().hex
    found = answer(error, accept=Headers(scope=scope).getlist("accept"), request_id=request_id)
    return Response(orjson.dumps(found.body), found.status, found.headers)


async def on_api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)  # noqa: S101  the handler is registered for this type only
    return respond(request.scope, error)


async def on_framework_error(request: Request, error: Exception) -> Response:
    """The answer to an error of the framework, such as a 404, in the same JSON format as on the public port."""
    assert isinstance(error, HTTPException)  # noqa: S101  the handler is registered for this type only
    response = respond(request.scope, ApiError(ErrorCode.of_status(error.status_code)))
    response.headers.update(error.headers or {})
    return response


async def on_unexpected(request: Request, _error: Exception) -> Response:
    """The answer to an unexpected error. The framework then raises the error again, so that the server logs it."""
    return respond(request.scope, ApiError(ErrorCode.INTERNAL_ERROR))
