"""Topic names and partitions: agree with Kafka's own partitioner, stay what they are."""

import string

import pytest
from aiokafka.partitioner import DefaultPartitioner
from aiokafka.partitioner import murmur2 as kafka_murmur2
from hypothesis import given
from hypothesis import strategies as st

from liveroom import topics
from liveroom.topics import murmur2, partition_of, room_hash, rule_key

ROOMS = st.text(string.ascii_letters + string.digits + "_-", min_size=1, max_size=64)


@given(st.binary(max_size=300))
def test_murmur2_is_the_one_of_kafka_clients(data: bytes) -> None:
    assert murmur2(data) == kafka_murmur2(data) & 0xFFFFFFFF


@given(ROOMS, st.integers(1, 1024))
def test_a_default_partitioner_puts_a_room_where_we_look_for_it(room: str, partitions: int) -> None:
    every = list(range(partitions))
    assert partition_of(room, partitions) == DefaultPartitioner()(room.encode(), every, every)


@pytest.mark.parametrize(
    ("room", "partition", "hash_"),
    [
        pytest.param("1", 15, 0x7637BA9F0342FCF6, id="short"),
        pytest.param("room-1", 7, 0xC3EDE35E35ADE40B, id="usual"),
        pytest.param("Z" * 64, 7, 0x8DE6BBCBB7EA75E0, id="longest"),
    ],
)
def test_partition_and_hash_of_a_room_never_change(room: str, partition: int, hash_: int) -> None:
    assert (partition_of(room, 16), room_hash(room)) == (partition, hash_)


@pytest.mark.parametrize("room", ["", "a" * 65, "a b", "a\n", "é", "a/b", "a.b"])
def test_other_ids_are_no_rooms(room: str) -> None:
    assert topics.ROOM_ID.match(room) is None


@given(ROOMS)
def test_any_id_of_the_alphabet_is_a_room(room: str) -> None:
    assert topics.ROOM_ID.match(room)


def test_topic_names_differ_and_kafka_takes_them() -> None:
    names = [topic.name for topic in topics.ALL]
    assert len(set(names)) == len(names)
    assert all(set(name) <= set(string.ascii_lowercase + "-") for name in names)


@pytest.mark.parametrize(
    ("topic", "policy", "retention_ms", "more"),
    [
        pytest.param(topics.UPLINK, "delete", "86400000", {}, id="a log"),
        pytest.param(topics.CONTROL, "compact", "-1", {}, id="a table"),
        pytest.param(topics.MODERATION, "compact", "-1", {"min.compaction.lag.ms": "86400000"}, id="one with withdrawals"),
        pytest.param(topics.GATEWAYS, "compact,delete", "600000", {}, id="a table that forgets"),
    ],
)
def test_a_topic_says_how_long_it_is_kept(topic: topics.Topic, policy: str, retention_ms: str, more: dict[str, str]) -> None:
    assert topic.config() == more | {
        "cleanup.policy": policy,
        "compression.type": "producer",
        "message.timestamp.type": "LogAppendTime",
        "retention.ms": retention_ms,
    }


def test_every_rule_of_a_room_has_a_key_of_its_own() -> None:
    assert rule_key("r", "mode", "slow_s") == b"r/mode/slow_s"
    assert len({rule_key(room, kind, name) for room in ("r", "*") for kind in ("mute", "ban") for name in ("a", "b/c")}) == 8
