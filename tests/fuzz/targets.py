"""Every function that reads foreign bytes, as a target of the fuzzer.

A target takes any bytes. It refuses them by its own errors, or reads them; then what it read must
hold: written again it is read as the same, and the next service takes it. Any other error is a
defect, for it would end a task.
"""

import base64
from collections.abc import Callable
from contextlib import suppress
from ipaddress import ip_address
from typing import Any, Final, NamedTuple

import jwt
import msgspec
from multidict import CIMultiDict

from autoscaler.policy import PolicyError, read_policy
from broadcaster.items import BadBodyError
from broadcaster.rooms import Rooms
from cli import danmaku
from cli.danmaku.lines import MAX_AT_S
from edge import handshake
from edge.hub import Hub
from edge.prepared_batch import PreparedBatch
from edge.pull_answer import read_query
from ingress import requests, words
from ingress.openapi import EXAMPLES
from liveroom import tokens, users, wire
from liveroom.bodies import Danmaku
from liveroom.errors import ProblemError
from liveroom.kinds import Role
from liveroom.moderation import Rules
from liveroom.nesting import MAX_DEPTH, UNDECODABLE, nests_deeper
from liveroom.networks import FORWARDED, FORWARDED_FOR, NOBODY, Callers, NetworksError, plain_address, read_networks
from liveroom.proxy_protocol import MAX_HEADER_BYTES, SIGNATURE, ProxyHeaderError, read_header
from liveroom.records import broadcast, snapshot
from liveroom.records.codec import BadRecordError, JsonReader, JsonRecord, encode_json
from liveroom.records.control import Audit, LoadReport, Moderation, Order, Presence
from liveroom.records.uplink import DeadLetter, decode_uplink, encode_uplink
from liveroom.tickets import User
from liveroom.wire import BadFrameError
from tests.broadcaster.ticks import tick
from tests.liveroom import golden
from viewer.problem import MAX_RETRY_AFTER_S, read_problem
from viewer.session import Session

NOW_MS: Final = golden.AT_MS
ROOM: Final = "room-1"
SECRET: Final = b"k" * 32
VIEWER: Final = User("u1", Role.VIEWER)
SERVICE: Final = User("backend", Role.SERVICE)


class Target(NamedTuple):
    """A reader of bytes: `run`, the errors by which it may refuse them, and bytes that it reads."""

    run: Callable[[bytes], object]
    refusals: tuple[type[Exception], ...]
    seeds: tuple[bytes, ...]

    def reads(self, data: bytes) -> bool:
        """Return whether the target reads `data`, or else refuses it; raise any other error."""
        try:
            self.run(data)
        except self.refusals:
            return False
        return True


def golden_records(*prefixes: str) -> tuple[bytes, ...]:
    """Return the golden records whose file names begin with one of `prefixes`."""
    return tuple(sample.value for sample in golden.EVERY if sample.file.startswith(prefixes))


# ---- records
def uplink(data: bytes, room: str = ROOM) -> None:
    """An owner numbers and packs what it decodes, and the next owner knows it."""
    record = decode_uplink(room.encode(), data)
    assert decode_uplink(room.encode(), encode_uplink(record)) == record
    rooms, again = Rooms(), Rooms()
    rooms.take(record, 0, NOW_MS)
    again.apply(tick(rooms, NOW_MS).batch)
    assert not again.lost


def log_record(data: bytes) -> None:
    """Gateways push what they decode, and owners restore it or lose single rooms."""
    broadcast.decode_broadcast(data, as_owner=True)
    record = broadcast.decode_broadcast(data)
    if isinstance(record, broadcast.Batch):
        hub = Hub()
        for name in ("room-1", "room-2"):
            hub.add_pending(_Reader(), name, 0)
        for room in list(hub.rooms.values()):
            for member in list(room.waiting):
                hub.enter(member, room)
        for _ in hub.deliver(record, 3, 7, 1):
            pass
        list(record.notices())
        _ = record.balance, record.allowances
        Rooms().apply(record)


class _Reader:
    """A viewer that deflates nothing, so every payload is inflated for it."""

    user = "u1"
    user_hash = 1
    device_hash = 0
    role = Role.VIEWER
    named_rooms: tuple[str, ...] = ()
    form = 0
    address = "192.0.2.1"
    request_id = "i"

    def __init__(self) -> None:
        self.rooms: dict[int, Any] = {}

    def push(self, prepared: PreparedBatch) -> int:
        return len(prepared.make(self.form))

    def replay(self, prepared: PreparedBatch, *, is_whole: bool) -> None:
        _ = prepared.make(self.form) if is_whole else prepared.reliable(self.form)

    def send(self, text: bytes) -> None:
        pass

    def close(self, code: object, reason: str = "", /) -> None:
        pass


def log_headers(data: bytes) -> None:
    broadcast.decode_traces([(broadcast.TRACE_HEADER, data), ("other", data)])


def state(data: bytes) -> None:
    """A partition's snapshot is written again as it is, and its rooms are opened one by one."""
    found = snapshot.decode_state([data])
    assert snapshot.decode_state(snapshot.encode_state(found)) == found
    for room in found.rooms:
        snapshot.decode_room(room)


def room_state(data: bytes) -> None:
    packed = snapshot.pack_room(snapshot.unpack_room(data))
    assert snapshot.pack_room(snapshot.unpack_room(packed)) == packed


def of(record: type[JsonRecord]) -> Callable[[bytes], None]:
    """Return the target that reads records of one JSON topic."""
    reader = JsonReader(record)

    def run(data: bytes) -> None:
        found = reader.read(data)
        assert reader.read(encode_json(found)) == found
        if isinstance(found, Moderation):
            rules = Rules()
            rules.apply(found)
            rules.settings(found.room)
            rules.banned(found.room, found.name, NOW_MS)

    return run


# ---- requests and frames
def request(data: bytes) -> None:
    """An owner takes whatever an ingress accepts. The first byte chooses the route."""
    route = requests.SEND_ROUTES[data[0] % len(requests.SEND_ROUTES)] if data else requests.SEND_ROUTES[0]
    draft = requests.parse(route, ROOM, VIEWER, data[1:], header_id=None, new_id="n1")
    uplink(requests.to_record(draft, NOW_MS))


def bulk(data: bytes) -> None:
    for raw in requests.read_bulk(data):
        draft = requests.parse_bulk_item(raw, SERVICE, "n1")
        uplink(requests.to_record(draft, NOW_MS), draft.room)


def client_frame(data: bytes) -> None:
    frame = wire.decode_client_frame(data)
    assert wire.decode_client_frame(wire.encode_frame(frame)) == frame


def server_frame(data: bytes) -> None:
    """A viewer goes on whatever its gateway sends: it counts what it cannot read."""
    session = Session(["room-1"])
    session.start()
    session.opened(0)
    session.received(wire.encode_frame(golden.SERVER_FRAMES["hello"]), 0)
    session.received(data, 1)
    session.tick(2)


def pulled(data: bytes) -> None:
    wire.decode_pulled(data)


def payload(data: bytes) -> None:
    """Inflating at once and in pieces give the same text, and a purge leaves what can be read."""
    try:
        text: bytes | None = wire.inflate(data)
    except BadFrameError:
        text = None
    try:
        pieces: bytes | None = b"".join(wire.text_pieces(data, deflated=True))
    except BadFrameError:
        pieces = None
    assert text == pieces
    for is_deflated in (True, False):
        prepared = PreparedBatch(data, is_deflated=is_deflated, has_clear=True)
        if prepared.is_readable:
            try:
                prepared.purge(list(prepared.clears()))
            except BadFrameError:
                continue
            assert prepared.is_readable


def message_line(data: bytes) -> None:
    """A line is split as it is decoded."""
    head, body = wire.split_message(data)
    try:
        whole = msgspec.json.decode(data, type=wire.Message)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return
    assert (head.seq, head.rseq, head.id, head.user, head.at) == (whole.seq, whole.rseq, whole.id, whole.user, whole.at)
    with suppress(UnicodeDecodeError):  # a raw body is not decoded, and an ingress refuses such bytes
        assert msgspec.json.decode(body) == msgspec.json.decode(bytes(whole.data))


def query(data: bytes) -> None:
    pairs = (pair.partition("=") for pair in data.decode("latin-1").split("&"))
    read_query({name: value for name, _, value in pairs}, 3)


def upgrade(data: bytes) -> None:
    """Headers of an upgrade, one a line. The answer has no line that the caller chose."""
    headers: CIMultiDict[str] = CIMultiDict()
    for line in data.decode("utf-8", "surrogateescape").replace("\r", "\n").split("\n"):
        name, _, value = line.partition(":")
        headers.add(name, value.strip())
    answer = handshake.accept(headers).answer
    assert answer.endswith(b"\r\n\r\n")
    assert answer.count(b"\r\n") <= 7


def proxy_header(data: bytes) -> None:
    """A header that comes in pieces is the one that comes at once."""
    whole = read_header(data)
    for size in range(1, min(len(data), MAX_HEADER_BYTES)):
        part = read_header(data[:size])
        assert part is None or part == whole
    if whole is not None and whole.source is not None:
        assert plain_address(whole.source.address) == whole.source.address or ":" in whole.source.address


def forwarded(data: bytes) -> None:
    """Headers of a proxy, one a line: whatever they say, the caller has an address."""
    for name in (FORWARDED, FORWARDED_FOR):
        headers: CIMultiDict[str] = CIMultiDict()
        for line in data.decode("latin-1").split("\n"):
            headers.add(name, line)
        address = Callers(["192.0.2.0/24", "10.0.0.0/8"], name).address("192.0.2.1", headers)
        if address != NOBODY:
            ip_address(address)


# ---- who somebody is
def token(data: bytes) -> None:
    tokens.Verifier([tokens.secret(SECRET)]).verify(data.decode("latin-1"), NOW_MS / 1000)


def claims(data: bytes) -> None:
    """Claims that the identity service signed."""
    signed = jwt.api_jws.encode(data, SECRET, algorithm="HS256")
    user = tokens.Verifier([tokens.secret(SECRET)]).verify(signed, NOW_MS / 1000)
    user.permits("room-1")
    users.check_user_id(user.id)


def keys(data: bytes) -> None:
    tokens.read_keys(data)


def user_id(data: bytes) -> None:
    """Text and user id stand for one another."""
    text = data.decode("utf-8", "surrogatepass")
    user = users.user_id(text)
    users.check_user_id(user)
    assert users.user_text(user) == text
    users.shown_user(text)


# ---- files, and what other services answer
def words_file(data: bytes) -> None:
    """Words are found in a text, and what is found is masked. The text follows the first NUL."""
    library, _, text = data.decode("utf-8", "replace").partition("\0")
    libraries = words.WordLibraries({})
    libraries.use_files(words.WordLibrary(words.read_library(library)))
    verdict = libraries.judge("room-1", text[:200])
    if verdict is not None:
        assert len(verdict.text) == len(text[:200])


def networks(data: bytes) -> None:
    found = read_networks(data.decode("utf-8", "replace"))
    found.find("192.0.2.1")
    found.find("2001:db8::1")


def danmaku_file(data: bytes) -> None:
    """What is played of a file is what an ingress accepts, in order of time."""
    found = danmaku.parse(data)
    assert found.lines == sorted(found.lines, key=lambda line: line.at_s)
    for line in found.lines:
        assert 0 <= line.at_s <= MAX_AT_S
        users.check_user_id(line.user)
        msgspec.json.decode(msgspec.json.encode(line.body), type=Danmaku)
    assert all(found.remarks())


def problem(data: bytes) -> None:
    found = read_problem(429, {"Retry-After": data.decode("latin-1")}, data)
    assert found.retry_after_s is None or 0 <= found.retry_after_s <= MAX_RETRY_AFTER_S


def nesting(data: bytes) -> None:
    """What does not nest too deep is decoded without an error of the stack."""
    if not nests_deeper(data, MAX_DEPTH):
        with suppress(msgspec.DecodeError, UnicodeDecodeError):
            msgspec.json.decode(data)


STATE: Final = msgspec.structs.replace(golden.state(), rooms=[snapshot.encode_room(golden.room())])
REQUESTS: Final = tuple(
    bytes([number]) + msgspec.json.encode(EXAMPLES[route.name]) for number, route in enumerate(requests.SEND_ROUTES)
)
BULK: Final = b'{"items":[{"room":"room-1","user":"u1","kind":"gift","data":{"gift":"rose"},"name":"Ann","level":2}]}'
CLIENT_FRAMES: Final = tuple(map(wire.encode_frame, golden.CLIENT_FRAMES.values()))
UPGRADE: Final = b"""Upgrade: websocket
Connection: keep-alive, Upgrade
Sec-WebSocket-Version: 13
Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==
Sec-WebSocket-Protocol: liveroom.v1
Sec-WebSocket-Extensions: x; a="b\\"c", permessage-deflate; client_max_window_bits"""
PROXY_HEADERS: Final = (
    b"PROXY TCP4 198.51.100.7 192.0.2.1 56324 443\r\n",
    SIGNATURE + bytes([0x21, 0x11, 0, 12, 198, 51, 100, 7, 192, 0, 2, 1, 220, 4, 1, 187]),
)
CLAIMS: Final = b'{"sub":"u1","aud":"%b","exp":%d,"role":"viewer","rooms":["room-1"],"level":3,"name":"Ann"}' % (
    tokens.AUDIENCE.encode(),
    NOW_MS // 1000 + 600,
)
TOKEN: Final = jwt.api_jws.encode(CLAIMS, SECRET, algorithm="HS256").encode()
KEYS: Final = b'{"keys":[{"kty":"oct","kid":"k1","k":"%b"}]}' % base64.urlsafe_b64encode(SECRET).rstrip(b"=")
WORDS: Final = "mask 坏词 # why\nrefuse b*d\n\0a 坏 词 bad".encode()
POLICY: Final = b'min = 2\nmax = 9\n[[events]]\nname = "gala"\nat = 2026-11-27T18:00:00Z\nviewers = 5000\n'
XML: Final = '<?xml version="1.0"?><i><d p="1.5,1,25,16777215,1370000000,0,abc,1">弹幕 &amp; 😀</d></i>'.encode()
EXPORTS: Final = (b'[{"progress":1500,"content":"hi"}]', b'{"comments":[{"p":"1.5,1,255,a","m":"{}"}]}')
SEGMENT: Final = bytes.fromhex("0a1b080110dc0b1801201928ffffff0732036162633a06e5bcb9e5b995") * 2

TARGETS: Final[dict[str, Target]] = {
    "uplink": Target(uplink, (BadRecordError, BadBodyError), golden_records("uplink")),
    "log-record": Target(log_record, (BadRecordError,), golden_records("claim.bin", "batch.bin", "snapshot.bin")),
    "log-headers": Target(log_headers, (), (bytes(24),)),
    "state": Target(state, (BadRecordError,), (snapshot.encode_state(STATE)[0],)),
    "room-state": Target(room_state, (BadRecordError, *UNDECODABLE), golden_records("room.bin")),
    "presence": Target(of(Presence), (BadRecordError,), golden_records("presence")),
    "load-report": Target(of(LoadReport), (BadRecordError,), golden_records("load-report")),
    "order": Target(of(Order), (BadRecordError,), golden_records("order")),
    "moderation": Target(of(Moderation), (BadRecordError,), golden_records("moderation")),
    "audit": Target(of(Audit), (BadRecordError,), golden_records("audit")),
    "dead-letter": Target(of(DeadLetter), (BadRecordError,), golden_records("dead-letter")),
    "request": Target(request, (ProblemError, BadBodyError), REQUESTS),
    "bulk": Target(bulk, (ProblemError, BadBodyError), (BULK,)),
    "client-frame": Target(client_frame, (BadFrameError,), CLIENT_FRAMES),
    "server-frame": Target(server_frame, (), golden_records("frame-")),
    "pulled": Target(pulled, (BadFrameError,), golden_records("frame-pulled")),
    "payload": Target(payload, (), (wire.pack_lines(b"x" * 300, [b"y"], [b"z"]).data, *golden_records("frame-batch"))),
    "message-line": Target(message_line, (BadFrameError,), (wire.encode_message(golden.MESSAGE),)),
    "query": Target(query, (ProblemError,), (b"epoch=7&after_rseq=4&pos=3.99", b"before_seq=9&after_seq=1")),
    "upgrade": Target(upgrade, (ProblemError,), (UPGRADE,)),
    "proxy-header": Target(proxy_header, (ProxyHeaderError,), PROXY_HEADERS),
    "forwarded": Target(forwarded, (), (b"198.51.100.7, 10.0.0.9:80", b'for="[2001:db8::7]:4711";proto=https, for=10.0.0.9')),
    "token": Target(token, (ProblemError,), (TOKEN,)),
    "claims": Target(claims, (ProblemError,), (CLAIMS,)),
    "keys": Target(keys, (tokens.KeysError,), (KEYS,)),
    "user-id": Target(user_id, (users.UserIdError, UnicodeDecodeError), ("用户 1".encode(), b"~", b"a.b@c")),
    "words-file": Target(words_file, (words.LibraryError,), (WORDS,)),
    "networks": Target(networks, (NetworksError,), (b"10.0.0.0/8 east\n2001:db8::/32 west # v6\n",)),
    "policy": Target(read_policy, (PolicyError,), (POLICY,)),
    "danmaku-file": Target(danmaku_file, (danmaku.DanmakuFileError,), (XML, XML.decode().encode("utf-16"), *EXPORTS)),
    "danmaku-segment": Target(danmaku_file, (danmaku.DanmakuFileError,), (SEGMENT,)),
    "problem": Target(problem, (), (b'{"code":"rate_limited","retry_after_s":2.5}', b"12")),
    "nesting": Target(nesting, (), (b'[{"a":["\\"[",1]}]',)),
}
