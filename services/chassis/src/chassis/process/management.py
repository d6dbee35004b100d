"""The guard of the management port: anyone inside may look, whoever changes something shows the management token.

It goes by the method, so that a new endpoint is guarded before anybody thinks of it: GET, HEAD and OPTIONS are open,
every other one needs `Authorization: Bearer <management.token>`. What was changed, by whom, is one line of the log.
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
from chassis.process.management_hosts import Hosts, is_answered

log = get_logger(__name__)

type Token = Callable[[], SecretStr | None]
"""The management token that is valid now, if there is one: it may be replaced while the process runs."""

_OPEN_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_MAX_BODY_BYTES = 1024
_MAX_SHOWN = 100  # characters of a wrong value that are shown back
_OTHER_HOST = "This port does not answer to the name in Host: use its address, or add the name to management.hosts."
_REQUEST_ID_KEY = "holdfast.request_id"
"""Where a request's scope keeps its id for who answers outside the guard: the framework's last resort does."""


class ManagementGuard:
    """ASGI middleware around the management application.

    Answers 403 where the Host is a name that a web page may have (`chassis.process.management_hosts`). For a change
    it answers 401 without the token or with a wrong one, and 403 while none is configured. An endpoint says what it
    changed with `put_on_canonical_line(logger="chassis.retries", level="DEBUG")`: those fields are on the
    `management_changed` line, beside method, path, status and who it was.
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
            if not is_answered(headers.get("host", ""), self._hosts()):
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
        status = 500  # until an answer says otherwise

        async def send_and_see(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-ID"] = scope[_REQUEST_ID_KEY]
            await send(message)

        with canonical_line() as changed:
            try:
                await self._app(scope, receive, send_and_see)
            finally:
                # There is one token for all operators: which it was is all that we know.
                log.info("management_changed", **about, status=status, by=fingerprint(token), **changed)


def check_token(authorization: str | None, token: SecretStr | None) -> SecretStr:
    """The token, if the header has it; raises `ApiError`, 401 or 403, if not."""
    if token is None:
        raise ApiError(ErrorCode.FORBIDDEN, "No management token is configured here: nothing can be changed.")
    scheme, _, given = (authorization or "").partition(" ")
    is_right = hmac.compare_digest(given.strip().encode(), token.get_secret_value().encode())
    if scheme.lower() != "bearer" or not is_right:
        raise ApiError(ErrorCode.UNAUTHENTICATED, "The management token is needed: Authorization: Bearer <token>.")
    return token


async def parse_body[M: BaseModel](request: Request, model: type[M]) -> M:
    """What an endpoint is asked for; raises `ApiError` (400, 413, 415, 422) naming everything that is wrong with it."""
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
            # What an unknown field holds nobody knows: a misspelt `tokn` may be one.
            None if problem["type"] == "extra_forbidden" else shown(problem["input"]),
        )
        for problem in problems
    ]
    raise ApiError(ErrorCode.VALIDATION_FAILED, details=details)


def shown(value: object) -> str | None:
    """A wrong value as it was given; a whole object says nothing that the field's name does not."""
    if not isinstance(value, str | int | float):
        return None
    return shown_back(str(value), _MAX_SHOWN)


def _client(scope: Scope) -> str:
    return scope["client"][0] if scope.get("client") else ""


def respond(scope: Scope, error: ApiError) -> Response:
    """The answer to a caller of this port. Without the public port's renderer, which a worker does not load."""
    request_id = scope.get(_REQUEST_ID_KEY) or uuid.uuid4().hex
    found = answer(error, accept=Headers(scope=scope).getlist("accept"), request_id=request_id)
    return Response(orjson.dumps(found.body), found.status, found.headers)


async def on_api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)  # noqa: S101  the application says so; the signature cannot
    return respond(request.scope, error)


async def on_framework_error(request: Request, error: Exception) -> Response:
    """Also what this port does not have is answered as the public one would."""
    assert isinstance(error, HTTPException)  # noqa: S101  the application says so; the signature cannot
    response = respond(request.scope, ApiError(ErrorCode.of_status(error.status_code)))
    response.headers.update(error.headers or {})
    return response


async def on_unexpected(request: Request, _error: Exception) -> Response:
    """The framework raises it again once this is sent, so that the server logs it."""
    return respond(request.scope, ApiError(ErrorCode.INTERNAL_ERROR))
