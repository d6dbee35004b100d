"""An OTLP/HTTP receiver, as a collector has one, and what it received."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as SpanMessage


@dataclass(frozen=True, slots=True)
class Span:
    trace_id: str
    id: str
    parent_id: str
    service: str
    instance: str
    kind: str
    name: str
    attributes: dict[str, str | int]

    @property
    def described(self) -> tuple[str, str, str]:
        return self.service, self.kind, self.name

    @property
    def is_in_api(self) -> bool:
        """Of the spans in these chains, what an API does before it answers; all else is a worker's."""
        return self.kind == "SERVER" or self.name in {
            "enqueue request_payment",
            "publish order.placed",
            "enqueue charge_payment",
            "enqueue publish_event",
        }


@dataclass(slots=True)
class Collector:
    """An OTLP/HTTP receiver, as a collector has one."""

    url: str = ""
    spans: dict[str, Span] = field(default_factory=dict)
    received: str = ""
    _runner: web.AppRunner = field(init=False)

    async def listen(self) -> None:
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self.take)
        self._runner = web.AppRunner(application)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def close(self) -> None:
        await self._runner.cleanup()

    async def take(self, request: web.Request) -> web.Response:
        assert (request.path, request.content_type) == ("/v1/traces", "application/x-protobuf")
        exported = ExportTraceServiceRequest.FromString(await request.read())
        self.received += str(exported)
        self.spans |= {span.id: span for span in _spans(exported)}
        return web.Response(body=b"", content_type="application/x-protobuf")

    def chains_to_mails(self) -> list[list[Span]]:
        """For each mail, the spans from the request to it."""
        return [self._chain(span) for span in self.spans.values() if span.name == "send mail"]

    def is_complete(self) -> bool:
        """Whether every span's parent has arrived."""
        return all(not span.parent_id or span.parent_id in self.spans for span in self.spans.values())

    def _chain(self, span: Span) -> list[Span]:
        parent = self.spans.get(span.parent_id)
        return [*(self._chain(parent) if parent else []), span]


def _spans(exported: ExportTraceServiceRequest) -> Iterator[Span]:
    for of_resource in exported.resource_spans:
        resource = _attributes(of_resource.resource.attributes)
        for of_scope in of_resource.scope_spans:
            for span in of_scope.spans:
                yield Span(
                    trace_id=span.trace_id.hex(),
                    id=span.span_id.hex(),
                    parent_id=span.parent_span_id.hex(),
                    service=str(resource["service.name"]),
                    instance=str(resource["service.instance.id"]),
                    kind=SpanMessage.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
                    name=span.name,
                    attributes=_attributes(span.attributes),
                )


def _attributes(pairs: Iterable[KeyValue]) -> dict[str, str | int]:
    return {pair.key: getattr(pair.value, str(pair.value.WhichOneof("value"))) for pair in pairs}
