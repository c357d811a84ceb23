"""Real proxies in front of services: HAProxy, nginx, and Hitch, which ends TLS.

Each is started with a configuration as its own documentation shows it, not as would suit the
services best: HAProxy adds a second line of X-Forwarded-For, nginx speaks HTTP/1.0 and buffers
answers where it was not asked for anything else.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Final

from devstack.programs import HAPROXY, HITCH, NGINX, Program, need
from liveroom import clock
from liveroom.addresses import authority
from liveroom.child_process import spawn_tethered, stop_process
from liveroom.ports import HOST

READY_S: Final = 30.0
# Each pair: the port of the proxy, and that of the service behind it.
Ports = Mapping[int, int]

HAPROXY_HEAD: Final = """
global
  maxconn 1000
defaults
  mode http
  option http-keep-alive
  option forwardfor
  http-reuse always
  timeout connect 5s
  timeout client 30s
  timeout server 30s
  timeout tunnel {tunnel}
"""
HAPROXY_PART: Final = """
listen p{port}
  bind {here}
  server s {there}
"""
HAPROXY_ANNOUNCING: Final = """
global
  maxconn 1000
defaults
  mode {mode}
  timeout connect 5s
  timeout client 30s
  timeout server 30s
listen gateways
  bind {here}{ends}
  balance roundrobin
"""
NGINX_HEAD: Final = """
daemon off;
master_process off;
pid {folder}/pid;
error_log stderr warn;
events {{ worker_connections 512; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  proxy_set_header Host $http_host;
  proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
  map $http_upgrade $connection_upgrade {{ default upgrade; '' close; }}
"""
NGINX_PLAIN: Final = """
  server {{ listen {here}; location / {{ proxy_pass http://{there}; }} }}
"""
NGINX_UPGRADING: Final = """
  server {{
    listen {here};
    location / {{
      proxy_pass http://{there};
      proxy_http_version 1.1;
      proxy_set_header Host $host:443;
      proxy_set_header X-Forwarded-For $remote_addr:$remote_port;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection $connection_upgrade;
    }}
  }}
"""


@asynccontextmanager
async def haproxy(ports: Ports, folder: Path, *, tunnel: str = "1h") -> AsyncIterator[None]:
    """Run HAProxy; `tunnel`: how long it lets a connection be silent after an upgrade."""
    parts = (
        HAPROXY_PART.format(port=port, here=authority(HOST, port), there=authority(HOST, to)) for port, to in ports.items()
    )
    config = await _written(folder / "haproxy.cfg", HAPROXY_HEAD.format(tunnel=tunnel) + "".join(parts))
    async with _running(HAPROXY, ["-db", "-f", str(config)], ports, folder):
        yield


@asynccontextmanager
async def haproxy_announcing(
    port: int, replicas: Sequence[int], folder: Path, header: str, *, ends: Path | None = None, trusting: Path | None = None
) -> AsyncIterator[None]:
    """Run HAProxy in front of replicas, which it sends a PROXY header by the option `header`.

    `ends`: certificate and key with which it ends TLS; it then speaks TLS to the replicas, whose
    certificates `trusting` signed. By default it passes TLS on as it is. It does without no
    replica, however many of its checks come late.
    """
    text = HAPROXY_ANNOUNCING.format(
        mode="http" if ends else "tcp", here=authority(HOST, port), ends=f" ssl crt {ends}" if ends else ""
    )
    secured = f" ssl verify required ca-file {trusting}" if ends else ""
    for to in replicas:
        text += f"  server s{to} {authority(HOST, to)} check inter 2s fall 1000 check-send-proxy {header}{secured}\n"
    config = await _written(folder / "haproxy.cfg", text)
    async with _running(HAPROXY, ["-db", "-f", str(config)], [port], folder):
        yield


@asynccontextmanager
async def nginx(plain: Ports, upgrading: Ports, folder: Path) -> AsyncIterator[None]:
    """Run nginx; `upgrading`: the ports where it passes upgrades on, and names the usual port."""
    head = NGINX_HEAD.format(folder=folder)
    parts = [
        part.format(here=authority(HOST, port), there=authority(HOST, to))
        for part, ports in ((NGINX_PLAIN, plain), (NGINX_UPGRADING, upgrading))
        for port, to in ports.items()
    ]
    config = await _written(folder / "nginx.conf", head + "".join(parts) + "}\n")
    async with _running(NGINX, ["-p", str(folder), "-e", "stderr", "-c", str(config)], [*plain, *upgrading], folder):
        yield


@asynccontextmanager
async def hitch(ports: Ports, certificate: Path, folder: Path) -> AsyncIterator[None]:
    """Run Hitch, which ends TLS and begins each connection with a PROXY header of version 2."""
    user = 'user = "nobody"\n' if os.geteuid() == 0 else ""
    async with AsyncExitStack() as stack:
        for port, to in ports.items():
            text = (
                f'frontend = {{ host = "{HOST}" port = "{port}" }}\nbackend = "[{HOST}]:{to}"\npem-file = "{certificate}"\n'
                f'{user}workers = 1\nwrite-proxy-v2 = on\ndaemon = off\nocsp-dir = ""\n'
            )
            config = await _written(folder / f"hitch-{port}.conf", text)
            await stack.enter_async_context(_running(HITCH, [f"--config={config}"], [port], folder))
        yield


async def _written(path: Path, text: str) -> Path:
    await asyncio.to_thread(path.write_text, text, "utf-8")
    return path


@asynccontextmanager
async def _running(
    program: Program, arguments: Sequence[str], ports: Sequence[int] | Ports, folder: Path
) -> AsyncIterator[None]:
    log = folder / f"{program.name}.log"
    with await asyncio.to_thread(log.open, "ab") as file:
        process = await spawn_tethered([need(program), *arguments], stdout=file, stderr=file)
    try:
        for port in ports:
            await _listens(port, process, log)
        yield
    finally:
        await stop_process(process)


async def _listens(port: int, process: asyncio.subprocess.Process, log: Path) -> None:
    """Return once a proxy takes connections."""
    deadline = clock.monotonic_s() + READY_S
    while clock.monotonic_s() < deadline and process.returncode is None:
        with suppress(OSError):
            _, writer = await asyncio.open_connection(HOST, port)
            writer.close()
            return
        await clock.sleep(0.05)
    raise AssertionError(f"the proxy takes no connections: {await asyncio.to_thread(log.read_text, 'utf-8')}")
