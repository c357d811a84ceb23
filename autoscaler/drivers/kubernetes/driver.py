"""Gateways as the pods of one Deployment, scaled through its scale subresource.

Owns the scaling: the order of a scale-in, and what went at the last one. The ReplicaSet chooses
which pods go (`pods`). So a pod gets a low deletion cost when it begins to be emptied, long before
it goes. The driver lowers the scale only when nothing that serves would go, and checks afterwards
what went. The pods' annotations hold what is under way, so the next leader continues with it.

Refuses to guess: while the API does not answer nothing is scaled, and a scale that somebody else
changed meanwhile is read again first.
"""

import asyncio
import math
from collections.abc import Awaitable, Mapping, Sequence
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Final, NamedTuple

import msgspec
import structlog
from kubernetes.aio import client
from kubernetes.aio.client.exceptions import ApiException

from autoscaler.drivers.kubernetes.api import FAILURES, connect, failure_of, in_words, read
from autoscaler.drivers.kubernetes.pods import COST, DUE_COST, LEAVING, LEAVING_COST, Pod, Pods, Scale, cost_of, why_not
from autoscaler.pool import Failure
from liveroom import clock, metric_catalog
from liveroom.registry import Metrics

SETTLE_S: Final = 1.0  # the ReplicaSet sees pods a moment late, so a cost counts only after this time
STUCK_S: Final = 60.0  # a pod that is not running by then no longer counts
WRONG_PAUSE_S: Final = 300.0
_WRITES: Final = 4  # of a larger scale, each after the Deployment had changed
_MERGE: Final = "application/merge-patch+json"
log = structlog.get_logger()


class _Cut(NamedTuple):
    """A scale-in that was ordered.

    `before`: the pods that served (uid to name). `due`: the uids of those that should go.
    `replicas`: how many stay.
    """

    before: dict[str, str]
    due: set[str]
    replicas: int


class KubernetesDriver:
    """The gateways of one Deployment.

    `timeout_s` limits each call of the API. A call that fails is made again at the next tick.
    """

    def __init__(self, namespace: str, deployment: str, timeout_s: float, metrics: Metrics) -> None:
        self.can_act = False
        self._namespace = namespace
        self._deployment = deployment
        self._timeout_s = timeout_s
        self._failures = {failure: metrics.counter(metric_catalog.POOL_API_FAILURES, failure.value) for failure in Failure}
        self._wrong = metrics.counter(metric_catalog.POOL_WRONG_PODS)
        self._api: client.ApiClient | None = None
        self._scale: Scale | None = None
        self._pods: list[Pod] = []
        self._due_s: dict[str, float] = {}  # uid -> since when it is due, as seen here
        self._idle_s: dict[str, float] = {}  # uid, or a place without a pod -> since when it does not run
        self._wrong_s = -math.inf  # when pods went that had not drained
        self._cut: _Cut | None = None
        self._ordered: set[int] = set()  # replicas that this driver knows of: those it read, and those it wrote
        self._held = ""
        self._failing: dict[str, Failure] = {}  # what fails at present, and was logged

    async def take(self, *, may_act: bool) -> bool:
        """Read the Deployment and its pods, and continue the scale-in that is under way.

        Returns whether the Deployment was ever read. `can_act` is False while the API does not
        answer.
        """
        self.can_act = await self._tried(self._read_pods(), "reading the Deployment")
        if self.can_act:
            await self._check()
        if self.can_act and may_act:
            for pod in self._pods:
                if pod.is_alive and pod.is_leaving and cost_of(pod.metadata.annotations) > LEAVING_COST:  # marked by hand
                    await self.leave(pod.name, pod.metadata.annotations[LEAVING])
            await self._lower()
        return self._scale is not None

    def release(self) -> None:
        """Forget everything that was read; the annotations have it for the next leader."""
        self.can_act = False
        self._scale, self._cut = None, None
        self._pods, self._due_s, self._idle_s, self._ordered = [], {}, {}, set()

    def running(self) -> list[str]:
        """Return the pods that stay.

        Pods that are ordered and not there yet count; pods that are stuck do not.
        """
        staying = {pod.metadata.uid: pod.name for pod in self._pods if pod.is_alive and not pod.is_leaving}
        staying |= {place: place for place in self._missing()}
        return [name for uid, name in staying.items() if not self._is_stuck(uid)]

    def leaving(self) -> list[str]:
        """Return the pods that drain or terminate: they may still have viewers."""
        return [pod.name for pod in self._pods if pod.is_leaving or pod.metadata.deletion_timestamp is not None]

    async def grow(self, count: int, why: str) -> bool:
        """Order `count` more pods; return whether the API took the order.

        Pods that are stuck count as ordered already.
        """
        stuck = sum(map(self._is_stuck, self._idle_s))
        return count <= stuck or await self._resize(self._replicas + count - stuck, "ScaledOut", why)

    async def leave(self, name: str, why: str) -> bool:
        """Mark a pod as draining, so that the ReplicaSet removes it before others.

        Return whether the API took the mark.
        """
        if name not in (pod.name for pod in self._pods if pod.is_alive):
            return False
        marks = {LEAVING: why[:200], COST: str(LEAVING_COST)}
        return await self._tried(self._annotate(name, marks), "marking a pod as leaving")

    async def end(self, name: str, why: str) -> None:
        """Mark a pod as due; `take` lowers the scale once the ReplicaSet must have seen it."""
        if any(pod.name == name and pod.is_alive and pod.is_leaving and not pod.is_due for pod in self._pods):
            marks = {LEAVING: why[:200], COST: str(DUE_COST)}
            await self._tried(self._annotate(name, marks), "marking a pod as due")

    async def watch(self) -> None:
        """Hold the connection to the API until cancelled."""
        try:
            await asyncio.Event().wait()
        finally:
            if self._api is not None:
                await self._api.close()  # type: ignore[no-untyped-call]

    @property
    def _replicas(self) -> int:
        return self._scale.spec.replicas if self._scale is not None else 0

    async def _read_pods(self) -> None:
        scale = await self._read_scale()
        pods = await read(
            client.CoreV1Api(await self._connected()).list_namespaced_pod_without_preload_content(
                self._namespace, label_selector=scale.status.selector
            ),
            Pods,
        )
        if self._ordered and scale.spec.replicas not in self._ordered:
            log.warning("scaled_by_somebody_else", was=sorted(self._ordered), replicas=scale.spec.replicas)
        self._scale, self._pods, self._ordered = scale, pods.items, {scale.spec.replicas}
        now_s = clock.monotonic_s()
        alive = [pod for pod in self._pods if pod.is_alive]
        self._due_s = {uid: self._due_s.get(uid, now_s) for uid in (pod.metadata.uid for pod in alive if pod.is_due)}
        idle = [pod.metadata.uid for pod in alive if not pod.runs and not pod.is_leaving] + self._missing()
        self._idle_s = {uid: self._idle_s.get(uid, now_s) for uid in idle}

    async def _read_scale(self) -> Scale:
        apps = client.AppsV1Api(await self._connected())
        answer = apps.read_namespaced_deployment_scale_without_preload_content(self._deployment, self._namespace)
        return await read(answer, Scale)

    def _missing(self) -> list[str]:
        """Return a name for each pod that is ordered and does not exist yet."""
        return [f"ordered-{number}" for number in range(self._replicas - sum(pod.is_alive for pod in self._pods))]

    def _is_stuck(self, uid: str) -> bool:
        """Return whether a pod, or the place of one, has not been running for a minute."""
        return clock.monotonic_s() - self._idle_s.get(uid, math.inf) > STUCK_S

    async def _check(self) -> None:
        """Compare what went at the last scale-in with what should, and report it."""
        alive = {pod.metadata.uid for pod in self._pods if pod.is_alive}
        cut = self._cut
        if cut is None or (self._replicas == cut.replicas and len(alive) > cut.replicas):
            return
        self._cut = None
        if self._replicas != cut.replicas:  # it was not done, or another change makes it impossible to tell
            return
        gone = {uid: name for uid, name in cut.before.items() if uid not in alive}
        wrong = sorted(name for uid, name in gone.items() if uid not in cut.due)
        if wrong:
            self._wrong_s = clock.monotonic_s()
            self._wrong.inc(len(wrong))
            log.error("wrong_pods_went", pods=wrong, emptied=sorted(cut.before.get(uid, uid) for uid in cut.due))
            await self._write_event("WrongPodsRemoved", f"these had not drained: {', '.join(wrong)}", "Warning")
        elif gone:
            log.info("emptied_pods_went", pods=sorted(gone.values()))

    async def _lower(self) -> None:
        """Lower the scale by the pods that are due, unless a serving pod would go."""
        alive = [pod for pod in self._pods if pod.is_alive]
        now_s = clock.monotonic_s()
        due = [pod for pod in alive if pod.is_due and now_s - self._due_s[pod.metadata.uid] >= SETTLE_S]
        if not due:
            return
        held = self._why_held(alive, due, now_s)
        if held != self._held:
            self._held = held
            log.info("scale_in_waits" if held else "scale_in_goes_on", why=held)
        if held:
            return
        names = ", ".join(sorted(pod.name for pod in due))
        replicas = self._replicas - len(due)
        served = {pod.metadata.uid: pod.name for pod in alive if pod.runs}
        self._cut = _Cut(served, {pod.metadata.uid for pod in due}, replicas)
        await self._resize(replicas, "ScaledIn", f"{names}: {due[0].metadata.annotations[LEAVING]}")

    def _why_held(self, alive: Sequence[Pod], due: Sequence[Pod], now_s: float) -> str:
        """Return why the scale must not be lowered by the pods that are due; empty: it may be."""
        if now_s - self._wrong_s < WRONG_PAUSE_S:
            return "a moment ago pods went that had not drained"
        missing = self._missing()
        return why_not(alive, due, self._replicas - (len(missing) if all(map(self._is_stuck, missing)) else 0))

    async def _resize(self, replicas: int, reason: str, why: str) -> bool:
        """Set the replicas and write an event on the Deployment; return whether the API took it."""
        before = self._replicas
        self._ordered.add(replicas)  # even where the answer is lost
        if not await self._tried(self._set(replicas), "writing the scale"):
            return False
        log.info("scaled", reason=reason, before=before, replicas=replicas, why=why)
        await self._write_event(reason, f"from {before} to {replicas}: {why}", "Normal")
        return True

    async def _set(self, replicas: int) -> None:
        """Write the scale, unless somebody else changed the number of replicas that was read.

        The API refuses a write over any newer version of the Deployment. Its controller makes one
        whenever a pod becomes ready, so growth is tried again where only the version is new. A
        smaller scale is not: it was decided on the pods that were read.
        """
        for _ in range(_WRITES):
            scale = self._scale
            if scale is None:
                raise ApiException(status=None, reason="the Deployment was not read yet")
            try:
                self._scale = await self._write(replicas, scale.metadata.resource_version)
            except ApiException as error:
                if failure_of(error) is not Failure.CONFLICT or replicas <= scale.spec.replicas:
                    raise
                newer = await self._read_scale()
                if newer.spec.replicas != scale.spec.replicas:
                    raise
                self._scale = newer
            else:
                return
        raise ApiException(status=HTTPStatus.CONFLICT, reason=f"the Deployment changed before each of {_WRITES} writes")

    async def _write(self, replicas: int, version: str) -> Scale:
        meta = client.V1ObjectMeta(name=self._deployment, namespace=self._namespace, resource_version=version)
        body = client.V1Scale(metadata=meta, spec=client.V1ScaleSpec(replicas=replicas))
        apps = client.AppsV1Api(await self._connected())
        answer = apps.replace_namespaced_deployment_scale_without_preload_content(self._deployment, self._namespace, body)
        return await read(answer, Scale)

    async def _annotate(self, name: str, annotations: Mapping[str, str]) -> None:
        core = client.CoreV1Api(await self._connected())
        body = {"metadata": {"annotations": dict(annotations)}}
        answer = core.patch_namespaced_pod_without_preload_content(name, self._namespace, body, _content_type=_MERGE)
        await read(answer, Pod)

    async def _write_event(self, reason: str, message: str, kind: str) -> None:
        """Write an event on the Deployment.

        A failure is logged and stops nothing.
        """
        if self._scale is None:
            return
        core = client.CoreV1Api(await self._connected())
        now = datetime.fromtimestamp(clock.unix_s(), UTC)
        event = client.CoreV1Event(
            metadata=client.V1ObjectMeta(generate_name=f"{self._deployment}.", namespace=self._namespace),
            involved_object=client.V1ObjectReference(
                api_version="apps/v1",
                kind="Deployment",
                name=self._deployment,
                namespace=self._namespace,
                uid=self._scale.metadata.uid,
            ),
            reason=reason,
            message=message[:1000],
            type=kind,
            source=client.V1EventSource(component="liveroom-autoscaler"),
            first_timestamp=now,
            last_timestamp=now,
            count=1,
        )
        answer = core.create_namespaced_event_without_preload_content(self._namespace, event)
        await self._tried(read(answer, msgspec.Raw), "writing an event")

    async def _tried(self, work: Awaitable[object], what: str) -> bool:
        """Wait for `work`, but not long; return whether it was done. Count and log a failure."""
        try:
            async with asyncio.timeout(self._timeout_s):
                await work
        except FAILURES as error:
            failure = failure_of(error)
            self._failures[failure].inc()
            if self._failing.get(what) is not failure:  # not again every second
                self._failing[what] = failure
                log.warning("kubernetes_failed", what=what, why=failure.value, error=in_words(error))
            return False
        if self._failing.pop(what, None) is not None:
            log.info("kubernetes_answers", what=what)
        return True

    async def _connected(self) -> client.ApiClient:
        if self._api is None:
            self._api = await connect()
        return self._api
