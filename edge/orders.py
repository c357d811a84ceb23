"""What the pool orders of this gateway: `control`, read from its beginning.

What they mean is `edge.drain`'s.
"""

from edge.drain import Drain
from liveroom import topics
from liveroom.consumers import records
from liveroom.kafka import TopicReader
from liveroom.records.control import Order
from liveroom.service import Runtime


async def follow_orders(orders: TopicReader, drain: Drain, runtime: Runtime) -> None:
    """Do what the pool asks of this gateway, for ever."""
    async for found in records(orders, topics.CONTROL, Order, runtime):
        for _, order in found:
            drain.obey(order)
