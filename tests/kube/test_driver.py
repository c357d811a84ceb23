"""The driver against a real API server, with the rights of its account and no others.

Pods are small web servers.
"""

import asyncio
import itertools
import json
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes.aio import client

from autoscaler.drivers.kubernetes.addresses import ADDRESS
from autoscaler.drivers.kubernetes.driver import KubernetesDriver
from autoscaler.drivers.kubernetes.pods import COST, LEAVING
from autoscaler.pool import Failure
from liveroom import metric_catalog
from liveroom.registry import Metrics
from tests.kube.nodes import Nodes, account_token, connected
from tests.kube.plane import Plane

pytestmark = [pytest.mark.kube, pytest.mark.timeout(300)]
SPACE = "default"
SCALE = f"/apis/apps/v1/namespaces/{SPACE}/deployments/edge/scale"
RIGHTS = {"ServiceAccount", "Role", "RoleBinding", "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"}
BASE = Path(__file__).parents[2] / "deploy" / "base"
# What is asked of it must be there before it can be taken away: /ready is a file in the pod's
# folder.
SERVER = ["sh", "-c", "touch ready; exec python3 -m http.server 8080 --bind $POD_IP"]
# Bounds on what would hang: on a busy machine everything is slow, and nothing here is about that.
LONG_S = 90.0


def deployment(replicas: int, command: Iterable[str] = SERVER, **more: Any) -> dict[str, Any]:
    container = {
        "name": "edge",
        "image": "none",
        "command": list(command),
        "env": [{"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
        "readinessProbe": {
            "httpGet": {"path": "/ready", "port": 8080},
            "periodSeconds": 1,
            "timeoutSeconds": 20,  # unready is who says so, not who is slow
            "failureThreshold": 1,
        },
        **more,
    }
    return {
        "metadata": {"name": "edge"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "edge"}},
            "template": {
                "metadata": {"labels": {"app": "edge"}},
                "spec": {"terminationGracePeriodSeconds": 2, "containers": [container]},
            },
        },
    }


class World:
    """A Deployment, and drivers of it with the autoscaler's account."""

    def __init__(self, plane: Plane, nodes: Nodes) -> None:
        self.plane = plane
        self.nodes = nodes
        self.apps = client.AppsV1Api(nodes.api)
        self.made: list[Metrics] = []

    async def pods(self) -> dict[str, dict[str, Any]]:
        """The pods that are not terminating."""
        answer = await self.nodes.core.list_namespaced_pod_without_preload_content(SPACE, label_selector="app=edge")
        items = json.loads(await answer.read())["items"]
        return {pod["metadata"]["name"]: pod for pod in items if "deletionTimestamp" not in pod["metadata"]}

    async def ready(self, count: int, but: Collection[str] = ()) -> set[str]:
        """Wait until so many pods are there, all ready `but` those, and the Deployment says so too;
        return all their names.

        Its controller writes that down a moment later, which is a change of the scale that nobody
        ordered.
        """
        async with asyncio.timeout(LONG_S):
            while True:
                pods = await self.pods()
                ready = {name for name, pod in pods.items() if is_ready(pod)}
                if len(pods) == count and pods.keys() - ready == set(but):
                    found = await self.apps.read_namespaced_deployment("edge", SPACE)
                    seen, status = found.metadata, found.status
                    assert seen is not None
                    assert status is not None
                    counts = status.replicas, status.ready_replicas or 0, status.available_replicas or 0
                    if seen.generation == status.observed_generation and counts == (count, len(ready), len(ready)):
                        return set(pods)
                await asyncio.sleep(0.1)

    async def replicas(self) -> int:
        scale = await self.apps.read_namespaced_deployment_scale("edge", SPACE)
        assert scale.spec is not None
        return scale.spec.replicas or 0

    async def set(self, replicas: int) -> None:
        body = {"spec": {"replicas": replicas}}
        await self.apps.patch_namespaced_deployment_scale("edge", SPACE, body, _content_type="application/merge-patch+json")

    async def events(self) -> dict[str, list[str]]:
        """The events on the Deployment, of the autoscaler: reason -> messages."""
        found: dict[str, list[str]] = {}
        for event in (await self.nodes.core.list_namespaced_event(SPACE)).items:
            if event.source is not None and event.source.component == "liveroom-autoscaler":
                assert (event.involved_object.kind, event.involved_object.name) == ("Deployment", "edge")
                found.setdefault(event.reason or "", []).append(event.message or "")
        return found

    def counted(self, failure: Failure) -> float:
        return sum(
            float(metrics.counter(metric_catalog.POOL_API_FAILURES, failure.value)._value.get()) for metrics in self.made
        )

    @property
    def wrong(self) -> float:
        return sum(float(metrics.counter(metric_catalog.POOL_WRONG_PODS)._value.get()) for metrics in self.made)

    def touch(self, name: str, *, ready: bool) -> None:
        """Have a pod ready, or not."""
        file = self.nodes.named(name).folder / "ready"
        file.touch() if ready else file.unlink()

    @asynccontextmanager
    async def driver(self, timeout_s: float = LONG_S) -> AsyncIterator[KubernetesDriver]:
        self.made.append(Metrics("autoscaler"))
        driver = KubernetesDriver(SPACE, "edge", timeout_s, self.made[-1])
        watching = asyncio.create_task(driver.watch())
        try:
            yield driver
        finally:
            watching.cancel()
            await asyncio.wait([watching])


def is_ready(pod: dict[str, Any]) -> bool:
    return any((one["type"], one["status"]) == ("Ready", "True") for one in pod["status"].get("conditions", ()))


async def until(driver: KubernetesDriver, holds: Callable[[], bool], timeout_s: float = LONG_S) -> None:
    """Look as the pool does, until something holds."""
    async with asyncio.timeout(timeout_s):
        while True:
            await driver.take(may_act=True)
            if holds():
                return
            await asyncio.sleep(0.2)


async def timed(work: Awaitable[object]) -> float:
    """Return how long something takes, in seconds."""
    began_s = time.monotonic()
    await work
    return time.monotonic() - began_s


def rights() -> list[dict[str, Any]]:
    """The autoscaler's account, role and binding, as they are deployed."""
    found = [one for file in sorted(BASE.glob("autoscaler*.yaml")) for one in yaml.safe_load_all(file.read_text())]
    return [one for one in found if one["kind"] in RIGHTS]


@pytest.fixture
async def world(plane: Plane, nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> World:
    for one in rights():
        code, _, said = await plane.kubectl("apply", "-f", "-", given=yaml.safe_dump(one))
        assert code == 0, said
    token = await account_token(nodes.core, SPACE, "autoscaler")
    monkeypatch.setenv("KUBECONFIG", str(plane.kubeconfig(token, "autoscaler")))
    monkeypatch.setattr(
        "kubernetes.aio.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(plane.folder / "autoscaler.kubeconfig")
    )
    async with asyncio.timeout(LONG_S):  # new rights are in force after a moment
        while "NotFound" not in (await plane.kubectl("get", "--raw", SCALE, token=token))[2]:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    return World(plane, nodes)


async def create(world: World, replicas: int, **more: Any) -> set[str]:
    await world.apps.create_namespaced_deployment(SPACE, deployment(replicas, **more))  # type: ignore[arg-type]
    return await world.ready(replicas)


async def test_in_twenty_scale_ins_exactly_the_emptied_pods_go(world: World) -> None:
    chance = random.Random(20)
    await create(world, 6)
    went = 0
    async with world.driver() as driver:
        await driver.take(may_act=True)
        while went < 20:
            due = set(chance.sample(sorted(driver.running()), chance.choice((1, 1, 2))))
            for name in due:
                assert await driver.leave(name, "a test")
            draining = due if chance.random() < 0.5 else set()
            for name in draining:  # a gateway that drains says that it is not ready
                world.touch(name, ready=False)
            await until(driver, lambda due=due: set(driver.leaving()) == due)  # type: ignore[misc]
            before = await world.ready(6, but=draining)
            for name in due:
                await driver.end(name, "it is empty")
            await until(driver, lambda: driver.leaving() == [])
            left = await world.ready(6 - len(due))
            assert before - left == due
            went += 1
            await until(driver, lambda: driver._cut is None)
            await driver.take(may_act=True)
            assert await driver.grow(len(due), "connections: a test")
            await until(driver, lambda: len(driver.running()) == 6)
            await world.ready(6)
            await driver.take(may_act=True)
    events = await world.events()
    assert (len(events["ScaledIn"]), len(events["ScaledOut"]), "WrongPodsRemoved" in events) == (20, 20, False)
    assert events["ScaledIn"][0].startswith("from 6 to ")
    assert "it is empty" in events["ScaledIn"][0]
    assert "connections: a test" in events["ScaledOut"][0]
    assert world.wrong == 0
    assert {failure: world.counted(failure) for failure in Failure} == dict.fromkeys(Failure, 0)


async def test_of_several_that_are_being_emptied_only_those_go_that_are_empty(world: World) -> None:
    names = sorted(await create(world, 6))
    async with world.driver() as driver:
        await driver.take(may_act=True)
        for name in names[:5]:
            assert await driver.leave(name, "a test")
        for due in (names[2], names[4], names[0]):
            await until(driver, lambda due=due: due in driver.leaving())  # type: ignore[misc]
            await driver.end(due, "it is empty")
            await until(driver, lambda due=due: due not in driver.leaving())  # type: ignore[misc]
        assert await world.ready(3) == {names[1], names[3], names[5]}
    assert world.wrong == 0


async def test_nothing_that_serves_goes_because_it_is_not_ready(world: World) -> None:
    names = sorted(await create(world, 3))
    async with world.driver() as driver:
        await driver.take(may_act=True)
        world.touch(names[0], ready=False)
        await world.ready(3, but={names[0]})
        await driver.leave(names[1], "a test")
        await driver.take(may_act=True)
        await driver.end(names[1], "late")
        await until(driver, lambda: "would go first" in driver._held)
        assert await world.replicas() == 3
        world.touch(names[0], ready=True)
        await until(driver, lambda: driver.leaving() == [])
        assert await world.ready(2) == {names[0], names[2]}
        assert world.wrong == 0


async def test_ordered_pods_that_find_no_node_go_before_those_that_serve(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await world.apps.create_namespaced_deployment(
        SPACE,
        deployment(10, ports=[{"containerPort": 8080, "hostPort": 8080}]),  # type: ignore[arg-type]
    )
    async with asyncio.timeout(LONG_S):
        while sum(map(is_ready, (await world.pods()).values())) < 8:  # noqa: ASYNC110 - it is asked over HTTP
            await asyncio.sleep(0.1)
    monkeypatch.setattr("autoscaler.drivers.kubernetes.driver.STUCK_S", 2)
    async with world.driver() as driver:
        await driver.take(may_act=True)
        assert len(driver.running()) == 10
        await until(driver, lambda: len(driver.running()) == 8)
        assert await driver.grow(2, "a test")
        assert await world.replicas() == 10, "those that wait for a node are as good as more of them"
        serving = {name for name, pod in (await world.pods()).items() if is_ready(pod)}
        due = min(serving)
        await driver.leave(due, "a test")
        await driver.take(may_act=True)
        await driver.end(due, "it is empty")
        await until(driver, lambda: due not in driver.leaving())
        assert serving - set(await world.pods()) == {due}
        assert world.wrong == 0


async def test_what_one_began_the_next_one_ends(world: World) -> None:
    names = sorted(await create(world, 3))
    async with world.driver() as driver:
        await driver.take(may_act=True)
        await driver.leave(names[2], "a test")
    async with world.driver() as driver:
        assert driver.running() == []
        assert await driver.take(may_act=True)
        assert (sorted(driver.running()), driver.leaving()) == (names[:2], [names[2]])
        await driver.end(names[2], "it is empty")
        await until(driver, lambda: driver.leaving() == [])
    assert await world.ready(2) == set(names[:2])


async def test_a_pool_grows_though_the_deployment_has_a_newer_version_and_shrinks_only_on_what_was_seen(world: World) -> None:
    await create(world, 2)
    async with world.driver() as driver:
        await driver.take(may_act=True)
        assert (await world.plane.kubectl("-n", SPACE, "annotate", "deployment", "edge", "seen=1"))[0] == 0
        assert await driver.grow(1, "the same number, a newer version")
        assert (world.counted(Failure.CONFLICT), await world.replicas()) == (0, 3)
        await world.ready(3)
        await driver.take(may_act=True)
        assert (await world.plane.kubectl("-n", SPACE, "annotate", "deployment", "edge", "seen=2", "--overwrite"))[0] == 0
        assert not await driver._resize(2, "ScaledIn", "a newer version")
        assert (world.counted(Failure.CONFLICT), await world.replicas()) == (1, 3)


async def test_a_scale_that_somebody_else_changed_is_looked_at_anew(world: World) -> None:
    names = await create(world, 2)
    async with world.driver() as driver, world.driver() as other:
        await driver.take(may_act=True)
        await other.take(may_act=True)
        await other.grow(1, "the other")
        await driver.grow(1, "on what was")
        assert (world.counted(Failure.CONFLICT), await world.replicas()) == (1, 3)
        await world.ready(3)
        await driver.take(may_act=True)
        assert len(driver.running()) == 3
        await driver.grow(1, "on what is")
        assert await world.replicas() == 4
    assert names <= await world.ready(4)


async def test_a_rollout_is_not_disturbed(world: World) -> None:
    await create(world, 4)
    body = {
        "spec": {
            "minReadySeconds": 1,
            "strategy": {"rollingUpdate": {"maxSurge": 0}},
            "template": {"metadata": {"annotations": {"version": "2"}}},
        }
    }
    async with world.driver() as driver:
        await driver.take(may_act=True)
        await world.apps.patch_namespaced_deployment("edge", SPACE, body, _content_type="application/merge-patch+json")
        held: set[str] = set()
        async with asyncio.timeout(2 * LONG_S):
            while True:
                await driver.take(may_act=True)
                if not driver.leaving():
                    chosen = next(name for name in driver.running() if not name.startswith("ordered"))
                    await driver.leave(chosen, "a test")
                for name in driver.leaving():
                    await driver.end(name, "it is empty")
                held.add(driver._held)
                if await world.replicas() < 4:
                    break
                await asyncio.sleep(0.2)
        assert "a new version is being rolled out" in held
        hashes = {pod["metadata"]["labels"]["pod-template-hash"] for pod in (await world.pods()).values()}
        assert len(hashes) == 1
    assert world.wrong == 0


async def test_an_api_server_that_hangs_or_is_away_costs_two_seconds_and_nothing_else(world: World) -> None:
    names = await create(world, 2)
    async with world.driver(2.0) as driver:
        await until(driver, lambda: driver.can_act)
        for fault in ("hangs", "is away"):
            if fault == "hangs":
                world.plane.pause("kube-apiserver", on=True)
            else:
                await world.plane.stop("kube-apiserver")
            # A busy machine holds up both.
            took_s, two_s = await asyncio.gather(timed(driver.take(may_act=True)), timed(asyncio.sleep(2)))
            assert took_s < two_s + 0.5
            assert not driver.can_act
            assert set(driver.running()) == names, "what was seen last"
            assert not await driver.leave(min(names), "a test")
            await driver.grow(1, "a test")
            if fault == "hangs":
                world.plane.pause("kube-apiserver", on=False)
            else:
                await world.plane.start("kube-apiserver")
            await until(driver, lambda: driver.can_act)
        assert world.counted(Failure.SILENT) >= 4
        replicas = await world.replicas()
        assert replicas in {2, 3}, "an order that reached a hanging server may have been carried out, once"
        assert names <= await world.ready(replicas)
        await driver.take(may_act=True)
        assert len(driver.running()) + len(driver.leaving()) == replicas
        assert set(driver.leaving()) <= {min(names)}, "so may the mark; nothing else was marked"


async def test_it_has_no_other_rights(world: World) -> None:
    names = await create(world, 1)
    token = await account_token(world.nodes.core, SPACE, "autoscaler")
    pod = f"pod/{min(names)}"
    for refused in (
        ("delete", pod),
        ("get", "secrets"),
        ("get", "configmaps"),
        ("get", "deployments"),
        ("get", "nodes"),
        ("get", "pods", "--namespace", "kube-system"),
        ("delete", "deployment", "edge"),
        ("scale", "deployment", "other", "--replicas", "1"),
        ("create", "deployment", "mine", "--image", "x"),
        ("exec", min(names), "--", "true"),
        ("create", "token", "autoscaler"),
    ):
        code, _, said = await world.plane.kubectl(*refused, token=token)
        assert code != 0, refused
        assert "orbidden" in said, (refused, said)


async def test_of_pods_it_may_change_annotations_alone(world: World) -> None:
    (name,) = await create(world, 1)
    patches: tuple[dict[str, Any], ...] = (
        {"spec": {"containers": [{"name": "edge", "image": "mine"}]}},
        {"spec": {"activeDeadlineSeconds": 1}},
        {"metadata": {"labels": {"app": "other"}}},
        {"metadata": {"finalizers": ["example.com/stay"]}},
    )
    async with await connected(world.plane.folder / "autoscaler.kubeconfig") as api:

        async def refused(patch: dict[str, Any]) -> str:
            merge = "application/strategic-merge-patch+json"
            answer = await client.CoreV1Api(api).patch_namespaced_pod_without_preload_content(
                name, SPACE, patch, _content_type=merge
            )
            return "" if answer.status < 300 else str(json.loads(await answer.read())["message"])

        async with asyncio.timeout(LONG_S):  # a new policy is in force after a moment
            for number in itertools.count():
                if await refused({"metadata": {"labels": {"probe": str(number)}}}):
                    break
                await asyncio.sleep(0.5)
        said = [await refused(patch) for patch in patches]
        assert all("may change annotations of pods and nothing else" in one for one in said), said
    async with world.driver() as driver:
        await driver.take(may_act=True)
        assert await driver.leave(name, "a test")


async def test_without_a_deployment_or_rights_it_says_what_is_missing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async with world.driver() as driver:
        assert not await driver.take(may_act=True)
        assert world.counted(Failure.OTHER) == 1
        await create(world, 1)
        assert await driver.take(may_act=True)
        assert driver.can_act
        await world.plane.kubectl("delete", "rolebinding", "autoscaler")
        async with asyncio.timeout(LONG_S):
            while world.counted(Failure.REFUSED) == 0:
                await driver.take(may_act=True)
                await asyncio.sleep(0.2)
        assert not driver.can_act


async def test_a_pod_that_somebody_marks_by_hand_is_emptied_and_goes(world: World) -> None:
    names = sorted(await create(world, 3))
    async with world.driver() as driver:
        code, _, said = await world.plane.kubectl("annotate", f"pod/{names[1]}", f"{LEAVING}=its node is to go")
        assert code == 0, said
        await driver.take(may_act=True)
        assert (driver.leaving(), len(driver.running())) == ([names[1]], 2)
        await driver.end(names[1], "it is empty")
        await until(driver, lambda: driver.leaving() == [])
    assert await world.ready(2) == {names[0], names[2]}
    assert world.wrong == 0


async def test_a_mark_is_what_it_says(world: World) -> None:
    names = await create(world, 1)
    async with world.driver() as driver:
        await driver.take(may_act=True)
        assert await driver.leave(min(names), "fewer: 1 would do")
        assert not await driver.leave("ordered-0", "not there yet")
    annotations = (await world.pods())[min(names)]["metadata"]["annotations"]
    assert annotations[LEAVING] == "fewer: 1 would do"
    assert int(annotations[COST]) < 0
    assert ADDRESS not in annotations
