"""An attacker in a process of its own that tries to occupy what services have for all users: their
HTTP ports, TLS handshakes, rules of a room.

`python -m tests.attacks.flooding TARGETS` with the ports, tokens and the room as JSON; each attack
needs only some of them. It obeys lines on its standard input: `ATTACK SECONDS` for each attack
below, and `burn SECONDS`, which takes as much of the processor as the last attack did, without the
network. It answers each with what it got, as JSON. It comes from an address of its own, or through
the proxy where that is the attack.
"""

import _ssl
import asyncio
import contextlib
import ctypes
import gzip
import json
import resource
import ssl
import sys
import time
from collections import Counter
from typing import Any, Final

from tests.attacks.pulling import burn
from tests.bench.tls import SSL_OFFSET

OWN: Final = "127.0.0.66"
SECOND: Final = "127.0.0.67"  # for bodies: the storm of silent connections uses up the places of the first
THIRD: Final = "127.0.0.68"
PROXY: Final = "127.0.0.1"
THROUGH_PROXY: Final = "203.0.113.66"  # the address that the proxy writes for this attacker
SILENT: Final = 600  # connections to each port
TRICKLING: Final = 50
HELD_S: Final = 5.0  # a connection that is open for longer than this was not ended in time
HANDSHAKES: Final = 3000  # connections that are open at the same time
COMES_BACK_S: Final = 3.0  # after a handshake was ended
CHANGING: Final = 4  # connections that change their keys at the same time
CHANGES: Final = 5000  # of keys, which come to a gateway at once: OpenSSL works at them for 50 ms
UNSENT: Final = 65_536  # bytes that wait in an attacker before it makes more
HOSTING: Final = 16  # connections with which a host floods each ingress
BOMB: Final = gzip.compress(bytes(32 * 1024 * 1024))

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Flood:
    """The attacks.

    `targets`: `ports` (all of them), `ingress`, `scheduler`, `token`, `room`; `tls`, the port of a
    gateway; `ingresses`, the ports at which a host floods.
    """

    def __init__(self, targets: dict[str, Any]) -> None:
        self.targets = targets
        self.seen: Counter[str] = Counter()

    async def _open(self, port: int, address: str = OWN) -> Connection:
        return await asyncio.open_connection("127.0.0.1", port, local_addr=(address, 0))

    async def _answer(self, connection: Connection) -> str:
        """The status and code of an answer; `closed` where there is none."""
        reader, _ = connection
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
            body = await reader.readexactly(length)
        except (asyncio.IncompleteReadError, ConnectionError):
            return "closed"
        code = json.loads(body).get("code", "") if body[:1] == b"{" else ""
        return f"{head.split()[1].decode()} {code}".strip()

    def _post(self, head: str = "", *, token: str | None = None) -> bytes:
        authorization = f"Authorization: Bearer {self.targets['token'] if token is None else token}\r\n"
        path = f"/v1/rooms/{self.targets['room']}/danmaku"
        return f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{authorization}{head}\r\n".encode()

    # ---- attacks
    async def slow(self, end_s: float) -> None:
        """Silent connections, heads and bodies that trickle, at every port."""
        async with asyncio.TaskGroup() as tasks:
            for _ in range(TRICKLING):
                body = self._post("Content-Length: 1000\r\n")
                tasks.create_task(self._trickle("body", self.targets["ingress"], SECOND, body, b" ", end_s))
            for port in self.targets["ports"]:
                for _ in range(SILENT):
                    tasks.create_task(self._trickle("silent", port, OWN, b"", b"", end_s))
                for _ in range(TRICKLING):
                    tasks.create_task(self._trickle("head", port, OWN, b"GET / HTTP/1.1\r\n", b"X: y\r\n", end_s))

    async def _trickle(self, what: str, port: int, address: str, first: bytes, then: bytes, end_s: float) -> None:
        try:
            reader, writer = await self._open(port, address)
        except OSError:
            self.seen[f"{what} refused"] += 1
            return
        opened_s = time.monotonic()
        reading = asyncio.create_task(self._answer((reader, writer)))
        with contextlib.suppress(ConnectionError):
            writer.write(first)
            while not reading.done() and time.monotonic() < end_s:
                writer.write(then)
                await asyncio.wait({reading}, timeout=0.5)
        open_ = "held" if time.monotonic() - opened_s > HELD_S else "young"
        self.seen[f"{what} {reading.result() if reading.done() else open_}"] += 1
        reading.cancel()
        writer.close()

    async def bombs(self, end_s: float) -> None:
        """Small bodies that inflate to 32 MB, with and without a token."""

        async def one(token: str | None) -> None:
            while time.monotonic() < end_s:
                connection = await self._open(self.targets["ingress"])
                head = f"Content-Encoding: gzip\r\nContent-Length: {len(BOMB)}\r\n"
                connection[1].write(self._post(head, token=token) + BOMB)
                self.seen[f"bomb {await self._answer(connection)}"] += 1
                connection[1].close()
                await asyncio.sleep(0.05)

        await asyncio.gather(*(one(token) for token in (None, "none") for _ in range(4)))

    async def forged(self, end_s: float) -> None:
        """Requests and entries through the proxy, each with another forged address before its
        own.
        """

        async def one(port: int, request: bytes, body: bytes) -> None:
            connection = await self._open(port, PROXY)
            number = 0
            while time.monotonic() < end_s:
                number += 1
                lines = f"X-Forwarded-For: 10.9.{number % 250}.1\r\nX-Forwarded-For: {THROUGH_PROXY}:4711\r\n".encode()
                connection[1].write(request[:-2] + lines + b"\r\n" + body)
                self.seen[f"forged {await self._answer(connection)}"] += 1
                await asyncio.sleep(0.02)
            connection[1].close()

        entry = f"GET /v1/entry?room={self.targets['room']} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
        post = self._post("Content-Length: 12\r\n", token="none")
        await asyncio.gather(
            *(one(self.targets["scheduler"], entry, b"") for _ in range(4)),
            *(one(self.targets["ingress"], post, b'{"text":"a"}') for _ in range(4)),
        )

    async def ticket(self, end_s: float) -> None:
        """One ticket in a loop, from many connections."""
        reader, writer = await self._open(self.targets["scheduler"])
        writer.write(f"GET /v1/entry?room={self.targets['room']} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        entry = json.loads(await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].split()[0])))
        writer.close()
        port, request = int(entry["gateways"][0]["port"]), _upgrade(entry["ticket"])

        async def one() -> None:
            while time.monotonic() < end_s:
                connection = await self._open(port)
                connection[1].write(request)
                self.seen[f"ticket {await self._answer(connection)}"] += 1
                connection[1].close()
                await asyncio.sleep(0.02)

        await asyncio.gather(*(one() for _ in range(20)))

    async def handshakes(self, end_s: float) -> None:
        """Connections that send nothing, half of a ClientHello, a whole one and nothing more, or no
        TLS at all; two thirds of them from one address.
        """
        out = ssl.MemoryBIO()
        client = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), out, server_hostname="127.0.0.1")
        with contextlib.suppress(ssl.SSLWantReadError):
            client.do_handshake()
        hello = out.read()
        sent = {"silent": b"", "half": hello[: len(hello) // 2], "stopped": hello, "plain": b"GET / HTTP/1.1\r\n\r\n"}

        async def one(number: int) -> None:
            address = (OWN, SECOND, OWN, OWN, THIRD, OWN)[number % 6]
            what = list(sent)[number // 6 % 4]
            while time.monotonic() < end_s:
                try:
                    reader, writer = await self._open(self.targets["tls"], address)
                except OSError:
                    self.seen[f"{what} refused"] += 1
                else:
                    self.seen[f"{what} {await self._until_ended(reader, writer, sent[what], end_s)}"] += 1
                await asyncio.sleep(max(0.0, min(COMES_BACK_S, end_s - time.monotonic())))

        await asyncio.gather(*(one(number) for number in range(HANDSHAKES)))

    async def keys(self, end_s: float) -> None:
        """Connections that change their TLS keys without end."""
        await asyncio.gather(*(self._change_keys(end_s) for _ in range(CHANGING)))

    async def _change_keys(self, end_s: float) -> None:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        while time.monotonic() < end_s:
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            client = context.wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
            reader, writer = await self._open(self.targets["tls"])
            try:
                while True:
                    with contextlib.suppress(ssl.SSLWantReadError):
                        client.do_handshake()
                        break
                    writer.write(outgoing.read())
                    if not (data := await reader.read(65_536)):
                        raise ConnectionError  # noqa: TRY301 - refused, which a reset reports too
                    incoming.write(data)
                self.seen["keys connected"] += 1
                ending = asyncio.create_task(self._until_ended(reader, writer, b"", end_s))
                while time.monotonic() < end_s and not ending.done():
                    # Not `drain`: a gateway that is gone may leave it waiting for a minute.
                    if writer.transport.get_write_buffer_size() < UNSENT:
                        _change_keys(client, CHANGES)
                        writer.write(outgoing.read())
                    await asyncio.sleep(0.02)
                self.seen[f"keys {await ending}"] += 1
            except ConnectionError:
                self.seen["keys ended" if client.version() else "keys refused"] += 1
            writer.transport.abort()
            await asyncio.sleep(0.05)

    async def _until_ended(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, said: bytes, end_s: float) -> str:
        """Say something, and nothing more until the other side or the attack ends."""
        try:
            async with asyncio.timeout(max(0.0, end_s - time.monotonic())):
                writer.write(said)
                while await reader.read(65_536):
                    pass
        except TimeoutError:
            return "open"
        except ConnectionError:
            return "ended"
        finally:
            writer.close()
        return "ended"

    async def rules(self, end_s: float) -> None:
        """A host mutes and bans users that nobody knows, and sets some words, at every ingress."""

        async def one(port: int, name: str) -> None:
            connection = await self._open(port)
            number = 0
            while time.monotonic() < end_s:
                number += 1
                for what in ("mutes", "bans") if number % 5 else ("mutes", "bans", "words"):
                    connection[1].write(self._rule(what, f"{name}-{number}"))
                    answer = await self._answer(connection)
                    self.seen[f"{what} {answer}"] += 1
                    if answer == "closed":
                        connection[1].close()
                        connection = await self._open(port)
            connection[1].close()

        began = int(time.monotonic() * 1000)
        names = [(port, f"x{began}-{port}-{number}") for port in self.targets["ingresses"] for number in range(HOSTING)]
        await asyncio.gather(*(one(port, name) for port, name in names))

    def _rule(self, what: str, name: str) -> bytes:
        method, path = ("PUT", f"words/{name}") if what == "words" else ("POST", what)
        body = json.dumps({"action": "count"} if what == "words" else {"user": name}).encode()
        return (
            f"{method} /v1/rooms/{self.targets['room']}/{path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            f"Authorization: Bearer {self.targets['token']}\r\nContent-Length: {len(body)}\r\n\r\n"
        ).encode() + body


def _change_keys(client: ssl.SSLObject, times: int) -> None:
    """Change the keys of a client's side (RFC 8446, 4.6.3), for which Python has no function."""
    connection = ctypes.c_void_p.from_address(id(client._sslobj) + SSL_OFFSET)  # type: ignore[attr-defined]
    change = ctypes.CDLL(_ssl.__file__).SSL_key_update
    for _ in range(times):
        change(connection, 0)
        client.do_handshake()


def _upgrade(ticket: str) -> bytes:
    return (
        f"GET /v1/live?ticket={ticket} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ).encode()


async def main(targets: str) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    flood, share = Flood(json.loads(targets)), 0.0
    print("ready", flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        what, seconds = line.split()
        flood.seen = Counter()
        if what == "burn":
            await asyncio.to_thread(burn, float(seconds), share)
        else:
            before_s, began_s = time.process_time(), time.monotonic()
            await getattr(flood, what)(began_s + float(seconds))
            share = min(1.0, (time.process_time() - before_s) / (time.monotonic() - began_s))
        print(json.dumps(flood.seen), flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
