"""A real Kubernetes control plane without containers: etcd, API server, controllers, scheduler.

`tests.kube.build` makes its programs. It starts in seconds, on free ports of 127.0.0.1, with all
data in a temporary folder. `tests.kube.nodes` has the nodes and kubelets.
"""

import asyncio
import json
import secrets
import shutil
import signal
import ssl
import subprocess
import tempfile
import time
from asyncio.subprocess import Process
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import aiohttp
import trustme
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from devstack.programs import KUBECTL, need
from liveroom.child_process import spawn_tethered, stop_process
from liveroom.ports import HOST, free_ports

# No endpoint slices: they refuse the loopback addresses that the pods here have. No node lifecycle:
# nobody renews leases.
CONTROLLERS: Final = (
    "deployment-controller",
    "replicaset-controller",
    "serviceaccount-controller",
    "serviceaccount-token-controller",
    "namespace-controller",
    "garbage-collector-controller",
    "disruption-controller",
    "root-ca-certificate-publisher-controller",
)
READY_S: Final = 90.0


class Plane:
    """The control plane, running while the block does.

    `kubeconfig(token)` writes what clients need.
    """

    def __init__(self, programs: Path) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="liveroom-kube-"))
        self.admin_token = secrets.token_hex(24)
        self._programs = programs
        self._kubectl = need(KUBECTL)
        self._etcd, self._etcd_peer, self._port, self._manager, self._scheduler = free_ports(5)
        self._processes: dict[str, Process] = {}
        self._commands: dict[str, list[str]] = {}

    @property
    def url(self) -> str:
        """The API server's."""
        return f"https://{HOST}:{self._port}"

    @property
    def ca(self) -> str:
        """Its authority's certificate, PEM."""
        return (self.folder / "ca.crt").read_text()

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self._make_keys)
        self._commands = self._made_commands()
        try:
            for name in self._commands:
                await self.start(name)
        except BaseException:
            await self.stop_all()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop_all()
        if error is None:
            await asyncio.to_thread(shutil.rmtree, self.folder, ignore_errors=True)

    async def start(self, name: str) -> None:
        """Start one of its programs and return when it is healthy."""
        with (self.folder / f"{name}.log").open("ab") as log:
            self._processes[name] = await spawn_tethered(self._commands[name], stdout=log, stderr=log)
        checks = {
            "etcd": f"http://{HOST}:{self._etcd}/health",
            "kube-apiserver": f"{self.url}/readyz",
            "kube-controller-manager": f"https://{HOST}:{self._manager}/healthz",
            "kube-scheduler": f"https://{HOST}:{self._scheduler}/healthz",
        }
        await self._healthy(name, checks[name])

    async def stop(self, name: str) -> None:
        """End one of its programs at once."""
        await stop_process(self._processes.pop(name), grace_s=0)

    def pause(self, name: str, *, on: bool) -> None:
        """Have one of its programs hang, or go on."""
        self._processes[name].send_signal(signal.SIGSTOP if on else signal.SIGCONT)

    async def stop_all(self) -> None:
        """End all, in the order in which nobody waits for another."""
        for name in reversed(self._commands):
            if name in self._processes:
                await self.stop(name)

    def kubeconfig(self, token: str, name: str, namespace: str = "default") -> Path:
        """Write a kubeconfig for the holder of a token; return its path."""
        path = self.folder / f"{name}.kubeconfig"
        path.write_text(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "here",
                    "clusters": [
                        {"name": "here", "cluster": {"server": self.url, "certificate-authority": str(self.folder / "ca.crt")}}
                    ],
                    "users": [{"name": "me", "user": {"token": token}}],
                    "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me", "namespace": namespace}}],
                }
            )
        )
        path.chmod(0o600)
        return path

    async def kubectl(self, *arguments: str, given: str = "", token: str = "") -> tuple[int, str, str]:
        """Run kubectl; return its exit code, output and errors."""
        config = await asyncio.to_thread(self.kubeconfig, token or self.admin_token, f"kubectl-{secrets.token_hex(4)}")
        process = await asyncio.create_subprocess_exec(
            self._kubectl,
            "--kubeconfig",
            str(config),
            *arguments,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        out, err = await process.communicate(given.encode())
        return process.returncode or 0, out.decode(), err.decode()

    def _make_keys(self) -> None:
        authority = trustme.CA()
        authority.cert_pem.write_to_path(self.folder / "ca.crt")
        served = authority.issue_cert(HOST, "localhost", "kubernetes.default.svc")
        served.private_key_pem.write_to_path(self.folder / "server.key")
        for part in served.cert_chain_pems:
            part.write_to_path(self.folder / "server.crt", append=True)
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        (self.folder / "accounts.key").write_bytes(
            key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        )
        (self.folder / "accounts.pub").write_bytes(
            key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        )
        manager, scheduler = secrets.token_hex(24), secrets.token_hex(24)
        (self.folder / "tokens.csv").write_text(
            f'{self.admin_token},admin,admin,"system:masters"\n'
            f"{manager},system:kube-controller-manager,manager\n"
            f"{scheduler},system:kube-scheduler,scheduler\n"
        )
        self.kubeconfig(manager, "manager")
        self.kubeconfig(scheduler, "scheduler")

    def _made_commands(self) -> dict[str, list[str]]:
        keys, programs = self.folder, self._programs
        client, peer = f"http://{HOST}:{self._etcd}", f"http://{HOST}:{self._etcd_peer}"

        def secured(name: str, port: int) -> list[str]:
            config = str(keys / f"{name}.kubeconfig")
            return [
                f"--kubeconfig={config}",
                f"--authentication-kubeconfig={config}",
                f"--authorization-kubeconfig={config}",
                "--authentication-skip-lookup=true",
                f"--bind-address={HOST}",
                f"--secure-port={port}",
                f"--cert-dir={keys / name}",
                "--leader-elect=false",
                "--profiling=false",
                "--v=1",
            ]

        return {
            "etcd": [
                str(programs / "etcd"),
                *("--name", "one", "--data-dir", str(keys / "etcd"), "--log-level", "warn", "--unsafe-no-fsync"),
                *("--listen-client-urls", client, "--advertise-client-urls", client),
                *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", f"one={peer}"),
            ],
            "kube-apiserver": [
                str(programs / "kube-apiserver"),
                f"--etcd-servers={client}",
                f"--bind-address={HOST}",
                f"--advertise-address={HOST}",
                f"--secure-port={self._port}",
                f"--tls-cert-file={keys / 'server.crt'}",
                f"--tls-private-key-file={keys / 'server.key'}",
                f"--cert-dir={keys / 'apiserver'}",
                f"--token-auth-file={keys / 'tokens.csv'}",
                "--authorization-mode=RBAC",
                "--anonymous-auth=false",
                "--service-account-issuer=https://kubernetes.default.svc",
                f"--service-account-key-file={keys / 'accounts.pub'}",
                f"--service-account-signing-key-file={keys / 'accounts.key'}",
                "--service-cluster-ip-range=10.96.0.0/24",
                "--endpoint-reconciler-type=none",
                "--profiling=false",
                "--v=1",
            ],
            "kube-controller-manager": [
                str(programs / "kube-controller-manager"),
                *secured("manager", self._manager),
                "--use-service-account-credentials=true",
                f"--service-account-private-key-file={keys / 'accounts.key'}",
                f"--root-ca-file={keys / 'ca.crt'}",
                f"--controllers={','.join(CONTROLLERS)}",
            ],
            "kube-scheduler": [str(programs / "kube-scheduler"), *secured("scheduler", self._scheduler)],
        }

    async def _healthy(self, name: str, url: str) -> None:
        trusting = ssl.create_default_context()
        trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
        headers = {"Authorization": f"Bearer {self.admin_token}"} if name == "kube-apiserver" else {}
        deadline_s = time.monotonic() + READY_S
        async with aiohttp.ClientSession(headers=headers, timeout=aiohttp.ClientTimeout(total=2)) as http:
            while time.monotonic() < deadline_s and self._processes[name].returncode is None:
                try:
                    async with http.get(url, ssl=trusting) as answer:
                        if answer.status == 200:
                            return
                except (aiohttp.ClientError, TimeoutError):
                    pass
                await asyncio.sleep(0.1)
        tail = (self.folder / f"{name}.log").read_text(errors="replace").splitlines()[-15:]
        raise RuntimeError("\n".join([f"{name} did not get healthy", *tail]))
