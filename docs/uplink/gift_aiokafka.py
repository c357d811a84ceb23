"""Show a paid gift in a live room: write it to the topic uplink, with aiokafka.

Arguments: ROOM USER ORDER GIFT COUNT. Environment: KAFKA_BOOTSTRAP, KAFKA_USERNAME, KAFKA_PASSWORD;
KAFKA_SECURITY if it is not SASL_SSL.
"""

import asyncio
import json
import os
import sys
import time

from aiokafka import AIOKafkaProducer


def connection() -> dict[str, object]:
    return {
        "bootstrap_servers": os.environ["KAFKA_BOOTSTRAP"],
        "security_protocol": os.environ.get("KAFKA_SECURITY", "SASL_SSL"),
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": os.environ.get("KAFKA_USERNAME"),
        "sasl_plain_password": os.environ.get("KAFKA_PASSWORD"),
    }


async def main(room: str, user: str, order: str, gift: str, count: str) -> None:
    record = {
        "v": 1,
        "room": room,
        "id": order,  # your own number of it: whoever sends it again sends the same one
        "user": user,
        "at_ms": time.time_ns() // 1_000_000,
        "via": "gift-service",
        "items": [{"kind": "gift", "data": {"gift": gift, "count": int(count)}}],
    }
    # Its partitioner hashes the key by murmur2, as Kafka's own does.
    producer = AIOKafkaProducer(**connection(), acks="all", enable_idempotence=True)
    await producer.start()
    try:
        async with asyncio.timeout(30):
            at = await producer.send_and_wait(
                os.environ.get("UPLINK", "uplink"), json.dumps(record).encode(), key=room.encode()
            )
    finally:
        await producer.stop()
    print(f"written to partition {at.partition} at offset {at.offset}")


# An error leaves open whether Kafka has the record: run it again with the same ORDER.
asyncio.run(main(*sys.argv[1:]))
