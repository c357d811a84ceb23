"""The ingress over HTTP: routes, tokens, bodies within limits, answers, metrics.

Owns everything that is HTTP. Refuses requests without a valid token, and bodies that are too large
or arrive too slowly. Called by `__main__`; hands interactions to `admission`, commands about tokens
and connections to `revocation_api`, and all others to `moderation_api`.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from ingress import openapi, requests, responses
from ingress.admission import Admission, SendOutcome, outcome_of
from ingress.command_requests import MAX_COMMAND_BYTES, CommandRequest
from ingress.moderation_api import ModerationApi
from ingress.permissions import BY_COMMAND, COMMAND_ROUTES, Command, CommandRoute
from ingress.request_limits import RequestLimit, RequestLimits
from ingress.revocation_api import RevocationApi
from liveroom import clock, metric_catalog
from liveroom.authentication import Authentication
from liveroom.budgets import Failures
from liveroom.errors import Code, ProblemError
from liveroom.networks import subscriber
from liveroom.service import Runtime, callers_of
from liveroom.settings import IngressSettings
from liveroom.tickets import User
from liveroom.tokens import Verifier
from liveroom.web import USER, cors, json_response, log_refusal, problems, request_ids

ID_BYTES: Final = 8
_BODILESS: Final = frozenset({"GET", "DELETE"})


class App:
    """All routes of the public port."""

    def __init__(
        self,
        settings: IngressSettings,
        verifier: Verifier,
        admission: Admission,
        moderation: ModerationApi,
        revocations: RevocationApi,
        runtime: Runtime,
    ) -> None:
        self._settings = settings
        self._verifier = verifier
        self._admission = admission
        self._moderation = moderation
        self._revocations = revocations
        self._metrics = metrics = runtime.metrics
        self._chance = runtime.chance
        self._tracing = runtime.tracing
        self._document = openapi.encoded()
        self._callers = callers_of(settings)
        limited = {limit: metrics.counter(metric_catalog.REQUESTS_LIMITED, limit.value) for limit in RequestLimit}
        self._request_limits = RequestLimits(settings, lambda limit: limited[limit].inc())
        failures = Failures(settings.failures, "tokens", limited[RequestLimit.ADDRESS_FAILURES].inc)
        self._authentication = Authentication(verifier, failures)
        metrics.follow(metric_catalog.NAMES, lambda: len(self._request_limits) + len(self._authentication), "requests")
        refusals = {code: metrics.counter(metric_catalog.REFUSALS, code.value) for code in Code}
        self._counts = {
            name: {outcome: metrics.counter(metric_catalog.INTERACTIONS, name, outcome.value) for outcome in SendOutcome}
            for name in (route.name for route in requests.SEND_ROUTES)
        }
        self._refusals = refusals
        self._refusal_log = runtime.refusals
        self.web = web.Application(
            middlewares=[
                request_ids(runtime.chance),
                cors(settings.origins),
                problems(lambda code: refusals[code].inc(), runtime.refusals),
            ],
            client_max_size=settings.max_body_bytes,
        )
        router = self.web.router
        for kind in requests.SEND_ROUTES:
            router.add_post(f"/v1/rooms/{{room}}/{kind.path}", self._interaction(kind), expect_handler=_expect)
        for route in COMMAND_ROUTES:
            handler = self._timed(route.command.value, self._bulk if route.command is Command.BULK else self._command(route))
            path = route.path.replace("{word}", "{word:(?s:.+)}")
            router.add_route(route.method, path, handler, expect_handler=_expect)
        router.add_get("/v1/openapi.json", self._openapi)

    # ---- interactions
    def _interaction(self, route: requests.SendRoute) -> Callable[[web.Request], Awaitable[web.Response]]:
        """Return the handler of one kind: it answers 202 after the acknowledgement."""
        counts, admission = self._counts[route.name], self._admission
        seconds = self._metrics.histogram(metric_catalog.INGRESS_SECONDS, route.path)

        async def handle(request: web.Request) -> web.Response:
            began_s = clock.monotonic_s()
            outcome = SendOutcome.REFUSED
            try:
                user, body = await self._read(request, self._settings.max_body_bytes)
                draft = requests.parse(
                    route,
                    request.match_info["room"],
                    user,
                    body,
                    header_id=request.headers.get("Idempotency-Key"),
                    new_id=self._new_id(),
                )
                outcome = SendOutcome.UNKNOWN  # until the acknowledgement, whatever happens
                written, at_ms = await admission.admit(draft)
                outcome = SendOutcome.ACCEPTED
                self._trace(draft, began_s)
                text = _changed_text(draft, written)
                return json_response(responses.encode(responses.Accepted(draft.id, draft.room, route.name, at_ms, text)), 202)
            except ProblemError as problem:
                outcome = outcome_of(problem)
                raise
            finally:
                counts[outcome].inc()
                seconds.observe(clock.monotonic_s() - began_s)

        return handle

    async def _bulk(self, request: web.Request) -> web.Response:
        user, body = await self._read(request, requests.MAX_BULK_BYTES)
        if user.role not in BY_COMMAND[Command.BULK].roles:
            raise ProblemError(Code.FORBIDDEN, f"the role {user.role.value} may not publish in bulk")
        new_id, began_s = self._new_id(), clock.monotonic_s()
        drafts = requests.parse_bulk(body, user, new_id)
        good = [draft for draft in drafts if isinstance(draft, requests.Draft)]
        outcomes = iter(await self._admission.admit_many(good))
        results: list[responses.BulkResult] = []
        for draft in drafts:
            if isinstance(draft, ProblemError):
                results.append(self._refused(request, draft))
                continue
            written = next(outcomes)
            outcome = outcome_of(written) if isinstance(written, ProblemError) else SendOutcome.ACCEPTED
            if outcome is SendOutcome.ACCEPTED:
                self._trace(draft, began_s)
            self._counts[draft.name][outcome].inc()
            if isinstance(written, ProblemError):
                results.append(self._refused(request, written, draft))
            else:
                results.append(responses.BulkResult(draft.id))
        accepted = sum(not result.code for result in results)
        return json_response(responses.encode(responses.BulkAnswer(accepted, results)))

    def _trace(self, draft: requests.Draft, began_s: float) -> None:
        """Record a span for an accepted interaction that is traced."""
        if self._tracing is None or (trace := self._tracing.trace_of(draft.room, draft.id)) is None:
            return
        now_ns = clock.unix_ns()
        began_ns = now_ns - int((clock.monotonic_s() - began_s) * 1e9)
        self._tracing.begin(trace, "ingress accept", began_ns, now_ns, kind=draft.name, room=draft.room, id=draft.id)

    def _refused(
        self, request: web.Request, problem: ProblemError, draft: requests.Draft | None = None
    ) -> responses.BulkResult:
        """Count and log the refusal of one item, and return its result."""
        self._refusals[problem.code].inc()
        room, user = (draft.room, draft.user.id) if draft is not None else (None, None)
        log_refusal(self._refusal_log, request, problem, room, user)
        return responses.BulkResult(code=problem.code.value, detail=problem.detail, retry_after_s=problem.retry_after_s)

    # ---- commands
    def _command(self, route: CommandRoute) -> Callable[[web.Request], Awaitable[web.Response]]:
        api = self._revocations if route.command in self._revocations.commands else self._moderation

        async def handle(request: web.Request) -> web.Response:
            if route.method in _BODILESS:
                user, body = self._sender(request), b""
            else:
                user, body = await self._read(request, MAX_COMMAND_BYTES)
            api.check(route.command, request.match_info.get("room"), user)
            status, answer = await api.answer(
                CommandRequest(
                    route.command,
                    user,
                    path=request.match_info,
                    query=request.query,
                    body=body,
                    header_id=request.headers.get("Idempotency-Key"),
                    new_id=self._new_id(),
                )
            )
            return json_response(responses.encode(answer), status)

        return handle

    def _timed(
        self, name: str, handler: Callable[[web.Request], Awaitable[web.Response]]
    ) -> Callable[[web.Request], Awaitable[web.Response]]:
        seconds = self._metrics.histogram(metric_catalog.INGRESS_SECONDS, name)

        async def handle(request: web.Request) -> web.Response:
            began_s = clock.monotonic_s()
            try:
                return await handler(request)
            finally:
                seconds.observe(clock.monotonic_s() - began_s)

        return handle

    def _new_id(self) -> str:
        """Return an id for a request whose sender gave none."""
        return self._chance.token_hex(ID_BYTES)

    async def _openapi(self, request: web.Request) -> web.Response:
        self._request_limits.take_document(self._address(request), clock.monotonic_s())
        return json_response(self._document)

    # ---- senders
    def _address(self, request: web.Request) -> str:
        return subscriber(self._callers.address(request.remote, request.headers))

    def _sender(self, request: web.Request) -> User:
        """Return the sender by its token, or refuse the request."""
        address, now_s = self._address(request), clock.monotonic_s()
        user = self._authentication.user(request.headers.get("Authorization"), address, now_s, clock.unix_s())
        request[USER] = user.id
        self._request_limits.take(user, address, now_s)
        return user

    # ---- reading
    async def _read(self, request: web.Request, max_bytes: int) -> tuple[User, bytes]:
        """Return the sender and the body. The cheap checks come first."""
        headers = request.headers
        requests.check_size(request.content_length, max_bytes)
        user = self._sender(request)
        requests.check_media_type(headers.get("Content-Type"))
        if max_bytes != self._settings.max_body_bytes:
            request = request.clone(client_max_size=max_bytes)
        body = await self._body(request)
        self._verifier.check_revoked(user)  # the body may have taken seconds
        return user, body

    async def _body(self, request: web.BaseRequest) -> bytes:
        """Return the body.

        aiohttp cuts it at `client_max_size`, also when it is chunked or inflates to more.
        """
        if request.content.is_eof() and not request.content.exception():
            return await request.read()  # nearly always the whole body is here: a timer would cost more than the read
        try:
            async with asyncio.timeout(self._settings.body_timeout_s):
                if "Expect" in request.headers:
                    await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                    request.writer.output_size = 0
                return await request.read()
        except TimeoutError:
            raise ProblemError(Code.BODY_LATE) from None
        except (HttpProcessingError, web.RequestPayloadError) as error:
            raise ProblemError(Code.BAD_REQUEST, str(error)) from None


def _changed_text(draft: requests.Draft, written: requests.Draft) -> str:
    """Return the text of a danmaku as written where that differs from the text sent."""
    return "" if draft.package or written == draft else str(written.items[0].data.text)


async def _expect(_: web.Request) -> None:
    """Send no `100 Continue` yet: `_body` does, once size and token have passed."""
