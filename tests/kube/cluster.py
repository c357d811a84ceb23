"""A whole system on the control plane.

It is that of `deploy/overlays/demo`, with the session's Kafka and small limits.
"""

import asyncio
import json
import os
import secrets
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import aiohttp
import yaml

from devstack.builds import ROOT
from liveroom.kinds import Role
from liveroom.tickets import User
from liveroom.tokens import sign_user
from tests.kube.nodes import Nodes
from tests.kube.plane import Plane
from tests.rates import UNLIMITED
from tests.tickets import PRIVATE_KEYS, PUBLIC_KEYS

SPACE: Final = "liveroom-demo"
DEMO: Final = ROOT / "deploy" / "overlays" / "demo"
ROOM_FOR: Final = 20  # viewers of one gateway
POLICY: Final = """
min = 2
max = 6
down_window_s = 4
down_after_up_s = 4
step_down = 0.5
warm_up_s = 3
ahead_s = 1
"""


class Cluster:
    """The system's pods, and its doors."""

    def __init__(self, plane: Plane, nodes: Nodes, bootstrap: str, folder: Path) -> None:
        self.plane = plane
        self.nodes = nodes
        self.token_key = secrets.token_hex(32)
        self._bootstrap = bootstrap
        self._folder = folder

    async def install(self) -> None:
        """Do what deploy/README.md says, with an overlay over the demo's."""
        folder = self._folder
        (folder / "policy.toml").write_text(POLICY)
        settings = {
            "KAFKA__BOOTSTRAP": self._bootstrap,
            "KAFKA__PREFIX": f"k{secrets.token_hex(4)}.",
            "KAFKA__PARTITIONS": "2",
            "KAFKA__SESSION_TIMEOUT_S": "3",
            "MAX_CONNECTIONS": str(ROOM_FOR),
            "DRAIN_S": "4",
            **UNLIMITED,
            "ADDRESS_GUESTS_PER_S": "0",
            "ADDRESS_REQUESTS_PER_S": "0",
        }
        literals = [f"LIVEROOM_{name}={value}" for name, value in settings.items()]
        overlay = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "namespace": SPACE,
            "resources": [await asyncio.to_thread(os.path.relpath, DEMO, folder)],
            "configMapGenerator": [
                {"name": "liveroom", "behavior": "merge", "literals": literals},
                {
                    "name": "autoscaler-policy",
                    "behavior": "replace",
                    "files": ["policy.toml"],
                    "options": {"disableNameSuffixHash": True},
                },
            ],
            # There is no network of Services here, by whose names the canary finds the others.
            "replicas": [{"name": "autoscaler", "count": 2}, {"name": "canary", "count": 0}],
        }
        (folder / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
        await self.must("apply", "-f", str(DEMO / "namespace.yaml"))
        given = {
            "liveroom_token_key": self.token_key,
            "liveroom_ticket_signing_keys": PRIVATE_KEYS,
            "liveroom_ticket_public_keys": PUBLIC_KEYS,
        }
        literals = [f"--from-literal={name}={value}" for name, value in given.items()]
        await self.must("create", "secret", "generic", "liveroom", *literals)
        await self.must("apply", "-k", str(folder))

    async def must(self, *arguments: str, given: str = "") -> str:
        """Run kubectl; it must do it, without a warning."""
        code, out, err = await self.plane.kubectl("--namespace", SPACE, *arguments, given=given)
        assert code == 0, f"kubectl {' '.join(arguments)}: {err}"
        assert "Warning" not in err, err
        return out

    async def pods(self, service: str) -> list[dict[str, Any]]:
        """The pods of a service that are not terminating, oldest first."""
        selector = f"app.kubernetes.io/name={service}"
        answer = await self.nodes.core.list_namespaced_pod_without_preload_content(SPACE, label_selector=selector)
        pods = json.loads(await answer.read())["items"]
        alive = [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]
        return sorted(alive, key=lambda pod: pod["metadata"]["creationTimestamp"])

    async def ready(self, service: str, count: int, timeout_s: float = 120) -> list[str]:
        """Wait until so many pods of a service are there, all ready; return their names."""
        async with asyncio.timeout(timeout_s):
            while True:
                pods = await self.pods(service)
                ready = [pod["metadata"]["name"] for pod in pods if _is_ready(pod)]
                if len(ready) == len(pods) == count:
                    return ready
                await asyncio.sleep(0.2)

    async def serving(self) -> list[str]:
        """The gateways that are ready."""
        return [pod["metadata"]["name"] for pod in await self.pods("edge") if _is_ready(pod)]

    async def replicas(self) -> int:
        """What the edges' scale says."""
        return int(await self.must("get", "deployment", "edge", "--output", "jsonpath={.spec.replicas}"))

    async def open(self) -> None:
        """Find the doors once all is up."""
        for service, count in (("ingress", 1), ("scheduler", 1), ("broadcaster", 1), ("autoscaler", 2)):
            await self.ready(service, count)
        await self.ready("edge", 2)

    def _url(self, service: str, port: int) -> str:
        for run in self.nodes.runs.values():
            if run.pod["metadata"]["name"].startswith(f"{service}-") and not run.is_ending:
                return f"http://{run.address}:{port}"
        raise LookupError(f"no pod of {service} is on a node")

    @property
    def scheduler_url(self) -> str:
        return self._url("scheduler", 8002)

    @property
    def ingress_url(self) -> str:
        return self._url("ingress", 8001)

    def token(self, user: str, role: Role = Role.VIEWER) -> str:
        return sign_user(User(user, role), self.token_key.encode(), int(time.time()))

    async def pool(
        self, http: aiohttp.ClientSession, name: str, order: str = "", given: dict[str, object] | None = None
    ) -> dict[str, Any]:
        """What an autoscaler says of the pool, once it has taken an order if there is one."""
        headers = {"Authorization": f"Bearer {self.token('op', Role.OPERATOR)}"}
        url = f"http://{self.nodes.named(name).address}:8003/v1/pool{f'/{order}' if order else ''}"
        async with http.request("POST" if order else "GET", url, headers=headers, json=given) as answer:
            found: dict[str, Any] = await answer.json()
            return found

    async def leader(self, http: aiohttp.ClientSession) -> str:
        """The name of the autoscaler that leads, once it is one alone: while they agree nobody
        does.
        """
        async with asyncio.timeout(60):
            while True:
                leading = list[str]()
                for name in [pod["metadata"]["name"] for pod in await self.pods("autoscaler")]:
                    with suppress(aiohttp.ClientError, LookupError):
                        leading += [name] if (await self.pool(http, name))["leading"] else []
                if len(leading) == 1:
                    return leading[0]
                await asyncio.sleep(0.2)


def _is_ready(pod: dict[str, Any]) -> bool:
    return any((one["type"], one["status"]) == ("Ready", "True") for one in pod["status"].get("conditions", ()))
