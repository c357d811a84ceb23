"""The table of rights: who may what, and the commands that follow from it."""

from liveroom import topics
from liveroom.access import OPERATOR, SERVICES, USERS, Operation, Rule, commands, rules, writer_rules


def may(operation: Operation) -> dict[str, set[str]]:
    """The users of each topic for an operation."""
    found: dict[str, set[str]] = {topic.name: set() for topic in topics.ALL}
    for rule in rules(user_prefix=""):
        for topic in rule.topics if operation in rule.operations else ():
            found[topic].add(rule.user)
    return found


def test_each_topic_is_written_by_its_writers_and_no_others() -> None:
    assert may(Operation.WRITE) == {
        "uplink": {"ingress", OPERATOR},
        "broadcast": {"broadcaster"},
        "moderation": {"ingress"},
        "presence": {"edge", "ingress"},
        "gateways": {"edge"},
        "control": {"autoscaler"},
        "dead-letter": {"broadcaster", OPERATOR},
        "audit": {"ingress"},
        "revocations": {"ingress"},
        "connection-orders": {"ingress"},
        "connection-reports": {"edge"},
    }


def test_a_service_may_create_what_it_uses_so_that_the_order_of_starts_does_not_matter() -> None:
    for topic, users in may(Operation.CREATE).items():
        assert users == (may(Operation.READ)[topic] | may(Operation.WRITE)[topic]) - {OPERATOR}


def test_whoever_reads_or_writes_a_topic_may_ask_about_it() -> None:
    for topic, users in may(Operation.DESCRIBE).items():
        assert users == may(Operation.READ)[topic] | may(Operation.WRITE)[topic]


def test_gateways_and_schedulers_never_see_what_was_sent_before_it_is_numbered() -> None:
    assert may(Operation.READ)["uplink"] == {"broadcaster", OPERATOR}
    assert may(Operation.READ)["audit"] == {OPERATOR}


def test_operators_read_everything_and_write_what_sending_dead_letters_again_takes() -> None:
    assert all(OPERATOR in users for users in may(Operation.READ).values())
    assert {topic for topic, users in may(Operation.WRITE).items() if OPERATOR in users} == {"uplink", "dead-letter"}


def test_a_service_uses_the_topics_that_it_reads_or_writes() -> None:
    used = ["broadcast", "moderation", "presence", "gateways", "control"]
    assert [topic.name for topic in SERVICES["edge"].topics] == [
        *used,
        "revocations",
        "connection-orders",
        "connection-reports",
    ]


def test_a_rule_is_about_topics_or_a_group_of_the_prefix() -> None:
    for rule in rules("b."):
        assert bool(rule.topics) is not bool(rule.group)
        assert all(name.startswith("b.") for name in (*rule.topics, *([rule.group] if rule.group else [])))


def test_a_command_of_kafka_s_tools_gives_one_rule() -> None:
    made = list(commands(rules("b.", "lr-")))
    assert len(made) == len(list(rules()))
    assert (
        'kafka-acls.sh --bootstrap-server "$KAFKA" --command-config admin.properties --add --allow-principal User:lr-scheduler '
        "--operation Read --operation Describe --operation Create --topic b.gateways --topic b.revocations"
    ) in made
    assert any(line.endswith("--allow-principal User:lr-broadcaster --operation Read --group b.broadcaster") for line in made)
    assert {name for name in USERS if any(f"User:lr-{name} " in line for line in made)} == set(USERS)


def test_a_writer_of_the_uplink_may_write_it_and_nothing_else() -> None:
    made = list(writer_rules(["gifts", "CN=danmaku bot"], "b."))
    operations = (Operation.WRITE, Operation.DESCRIBE)
    assert made == [Rule(user, operations, ("b.uplink",)) for user in ("gifts", "CN=danmaku bot")]
    plain, quoted = commands(made)
    assert plain.endswith("--allow-principal User:gifts --operation Write --operation Describe --topic b.uplink")
    assert "--allow-principal 'User:CN=danmaku bot' " in quoted
