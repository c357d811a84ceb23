"""Show a paid gift in a live room: write it to the topic uplink, with confluent-kafka (librdkafka).

Arguments: ROOM USER ORDER GIFT COUNT. Environment: KAFKA_BOOTSTRAP, KAFKA_USERNAME, KAFKA_PASSWORD;
KAFKA_SECURITY if it is not SASL_SSL.
"""

import json
import os
import sys
import time

from confluent_kafka import KafkaError, KafkaException, Message, Producer


def connection() -> dict[str, str]:
    return {
        "bootstrap.servers": os.environ["KAFKA_BOOTSTRAP"],
        "security.protocol": os.environ.get("KAFKA_SECURITY", "SASL_SSL"),
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": os.environ.get("KAFKA_USERNAME", ""),
        "sasl.password": os.environ.get("KAFKA_PASSWORD", ""),
    }


def told(error: KafkaError | None, message: Message) -> None:
    if error is not None:
        raise KafkaException(error)
    print(f"written to partition {message.partition()} at offset {message.offset()}")


def main(room: str, user: str, order: str, gift: str, count: str) -> None:
    record = {
        "v": 1,
        "room": room,
        "id": order,  # your own number of it: whoever sends it again sends the same one
        "user": user,
        "at_ms": time.time_ns() // 1_000_000,
        "via": "gift-service",
        "items": [{"kind": "gift", "data": {"gift": gift, "count": int(count)}}],
    }
    settings = {
        "acks": "all",
        "enable.idempotence": True,
        "delivery.timeout.ms": 30_000,
        "partitioner": "murmur2_random",  # its default is CRC32: most rooms would be in the wrong partition
    }
    producer = Producer(connection() | settings)
    producer.produce(os.environ.get("UPLINK", "uplink"), json.dumps(record).encode(), key=room.encode(), on_delivery=told)
    producer.flush()


# An error leaves open whether Kafka has the record: run it again with the same ORDER.
main(*sys.argv[1:])
