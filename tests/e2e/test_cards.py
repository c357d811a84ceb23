"""A viewer who joins sees the room as it is: the owner's snapshot reaches it through the queue."""

import asyncio
import secrets

import aiohttp
import msgspec
import pytest

from devstack.system import System
from liveroom.kinds import Role
from liveroom.wire import Card
from tests.e2e.audience import knows_gateways
from viewer.client import Viewer
from viewer.effects import Counts, Delivered, Effect, Entered, RoomCard
from viewer.sender import Accepted, Sender

pytestmark = pytest.mark.kafka


class View:
    """What a viewer shows of a room: the card, and what came behind it."""

    def __init__(self) -> None:
        self.carded = asyncio.Event()
        self.lines: dict[str, dict[str, object]] = {}
        self.likes = 0
        self.card: Card | None = None

    def on_effect(self, effect: Effect) -> None:
        match effect:
            case Entered(card=Card() as card) | RoomCard(card=card):
                self.card, self.likes = card, card.likes or 0
                for raw in (*card.reliable, *card.messages):
                    line = msgspec.json.decode(raw)
                    self.lines[line["id"]] = line
                self.carded.set()
            case Delivered(message=message):
                self.lines[message.id] = {"kind": message.kind, "data": msgspec.json.decode(message.data)}
            case Counts(likes=likes):
                self.likes = self.likes if likes is None else likes

    def texts(self) -> set[object]:
        return {line["data"]["text"] for line in self.lines.values() if line["kind"] == "danmaku"}  # type: ignore[index]


async def view_of(system: System, http: aiohttp.ClientSession, room: str, name: str) -> View:
    """Enter the room, wait until its card is there and what came behind it, and leave."""
    view = View()
    viewer = Viewer(system.scheduler_url, [room], http=http, token=system.token(name), on_effect=view.on_effect)
    async with viewer:
        await asyncio.wait_for(view.carded.wait(), 10)
        await asyncio.sleep(0.3)
    return view


async def say(system: System, http: aiohttp.ClientSession, room: str) -> None:
    ann = Sender(system.ingress_url, system.token("ann"), http)
    star = Sender(system.ingress_url, system.token("star", role=Role.STREAMER, rooms=(room,)), http)
    assert isinstance(await star.send(room, "announcements", {"text": "welcome"}), Accepted)
    assert isinstance(await ann.gift(room, "rose"), Accepted)
    assert isinstance(await ann.like(room, 7), Accepted)
    for number in range(3):
        assert isinstance(await ann.danmaku(room, f"hello {number}"), Accepted)


async def test_who_enters_sees_the_room_as_it_is(kafka_bootstrap: str) -> None:
    async with (
        System(kafka_bootstrap, prefix=f"e{secrets.token_hex(4)}.", partitions=2) as system,
        aiohttp.ClientSession() as http,
    ):
        await knows_gateways(system, 2)
        early = await view_of(system, http, "lobby", "early")
        assert early.card is not None
        assert (early.card.seq, early.card.rseq, early.lines) == (0, 0, {})
        await say(system, http, "lobby")  # a gateway has a card from before this, and what came since
        await say(system, http, "hall")  # no gateway knows this one
        await asyncio.sleep(0.5)
        rooms = ["lobby", "hall"] * 5
        views = await asyncio.gather(*(view_of(system, http, room, f"viewer-{number}") for number, room in enumerate(rooms)))
        for room, view in zip(rooms, views, strict=True):
            assert view.texts() == {"hello 0", "hello 1", "hello 2"}, room
            assert {"announcement", "gift"} <= {line["kind"] for line in view.lines.values()}, room
            assert view.likes == 7, room
            if room == "hall":
                assert view.card is not None
                assert (view.card.seq, view.card.rseq, view.card.likes) == (5, 2, 7)
                assert msgspec.json.decode(view.card.announcement)["data"]["text"] == "welcome"
