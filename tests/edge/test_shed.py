"""How a gateway with too many viewers moves some of them away."""

from edge.shed import SHED_FOR_S, SHED_GRACE_S
from liveroom import clock
from liveroom.closecodes import Close
from liveroom.records.control import Order, OrderKind
from tests.edge.harness import GENERATION, settings_of
from tests.edge.memory import MemoryEdge, MemoryViewer, in_memory
from tests.manual_clock import ManualClock

VIEWERS = 6


def shed(edge: MemoryEdge, rate_per_s: float) -> None:
    edge.orders.obey(Order(1, "e1", GENERATION, OrderKind.SHED, 0, "test", rate_per_s))


def moved(viewers: list[MemoryViewer]) -> int:
    return sum(came["t"] == "move" for viewer in viewers for came in viewer.frames())


async def test_so_many_viewers_a_second_are_asked_to_move_and_closed_where_they_stay() -> None:
    time = ManualClock()
    with clock.running_on(time):
        async with in_memory(settings_of(heartbeat_s=60, handshake_timeout_s=300)) as edge:
            viewers = [await edge.viewer(f"u{number}") for number in range(VIEWERS)]
            moved(viewers)
            shed(edge, 1)
            await time.advance(3.5)
            assert moved(viewers) == 3
            assert not any(viewer.code for viewer in viewers)
            shed(edge, 1)  # those who were asked stay asked, and are not asked again
            await time.advance(SHED_GRACE_S)
            assert moved(viewers) == VIEWERS - 3
            assert sum(viewer.code == Close.SHED for viewer in viewers) == 3


async def test_shedding_ends_unless_the_order_is_repeated() -> None:
    time = ManualClock()
    with clock.running_on(time):
        async with in_memory(settings_of(heartbeat_s=60, handshake_timeout_s=300)) as edge:
            first = await edge.viewer()
            shed(edge, 1)
            await time.advance(SHED_FOR_S / 2)
            shed(edge, 1)
            await time.advance(SHED_FOR_S - 2)
            first.frames()
            assert first.code == Close.SHED
            second = await edge.viewer()
            await time.advance(1)
            assert moved([second]) == 1
            await time.advance(SHED_GRACE_S + 2)
            third = await edge.viewer()
            await time.advance(SHED_FOR_S)
            assert moved([third]) == 0


async def test_an_order_to_resume_lets_those_who_were_asked_stay() -> None:
    time = ManualClock()
    with clock.running_on(time):
        async with in_memory(settings_of(heartbeat_s=60, handshake_timeout_s=300)) as edge:
            viewer = await edge.viewer()
            shed(edge, 1)
            await time.advance(2)
            assert moved([viewer]) == 1
            edge.orders.obey(Order(1, "e1", GENERATION, OrderKind.RESUME, 0, "test", 0))
            await time.advance(SHED_FOR_S + SHED_GRACE_S)
            viewer.frames()
            assert viewer.code is None
