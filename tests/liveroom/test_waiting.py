"""Starts that wait: what passes, what is told of it, and what ends a start."""

import asyncio
import socket
import ssl
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import structlog
import trustme
from aiokafka import errors as kafka
from pydantic import ValidationError
from structlog.testing import capture_logs

from liveroom.broadcast_log import LogReadError
from liveroom.errors import in_words
from liveroom.kafka import TopicsError, probe_brokers
from liveroom.kafka_port import AioKafka
from liveroom.service import Runtime, StartError
from liveroom.settings import KafkaSettings
from liveroom.waiting import PassingError, Waiting, passes
from liveroom.web import ListenError


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Pause shortly between attempts, and let the logs be captured."""
    monkeypatch.setattr("liveroom.waiting.FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr("liveroom.waiting.LONGEST_PAUSE_S", 0.001)
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(kafka.NotLeaderForPartitionError(), id="a leader is being elected"),
        pytest.param(kafka.LeaderNotAvailableError(), id="no leader yet"),
        pytest.param(kafka.UnknownTopicOrPartitionError(), id="a topic just made"),
        pytest.param(kafka.KafkaTimeoutError("Failed to get offsets by times in 3000 ms"), id="offsets not told in time"),
        pytest.param(kafka.GroupCoordinatorNotAvailableError(), id="no coordinator yet"),
        pytest.param(kafka.NotCoordinatorForGroupError(), id="the coordinator moved"),
        pytest.param(kafka.NotControllerError(), id="the controller moved"),
        pytest.param(kafka.RequestTimedOutError(), id="a broker that is slow"),
        pytest.param(kafka.NodeNotReadyError(), id="a broker that restarts"),
        pytest.param(kafka.KafkaConnectionError("Unable to bootstrap"), id="no broker answers"),
        pytest.param(kafka.InvalidReplicationFactorError(), id="too few brokers at the moment"),
        pytest.param(kafka.for_code(9_999)(), id="an error that the client does not know"),
        pytest.param(socket.gaierror(socket.EAI_NONAME, "Name or service not known"), id="a name not resolved"),
        pytest.param(ConnectionRefusedError(), id="refused"),
        pytest.param(ConnectionResetError(), id="reset"),
        pytest.param(OSError("Multiple exceptions: [Errno 111] Connect call failed"), id="refused at each address"),
        pytest.param(TimeoutError(), id="time-out"),
        pytest.param(ssl.SSLEOFError(), id="gone in the handshake"),
        pytest.param(LogReadError("nothing at offset 3"), id="a log that is not read"),
        pytest.param(ExceptionGroup("", [TimeoutError(), PassingError("later")]), id="several"),
    ],
)
def test_what_comes_right_by_itself_passes(error: Exception) -> None:
    assert passes(error)


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(kafka.SaslAuthenticationFailed(), id="password"),
        pytest.param(kafka.AuthenticationFailedError(), id="authentication"),
        pytest.param(kafka.UnsupportedSaslMechanismError(), id="mechanism"),
        pytest.param(kafka.TopicAuthorizationFailedError(), id="may not use a topic"),
        pytest.param(kafka.GroupAuthorizationFailedError(), id="may not use the group"),
        pytest.param(kafka.ClusterAuthorizationFailedError(), id="may not use the cluster"),
        pytest.param(kafka.InvalidSessionTimeoutError(), id="a session time-out that the broker does not take"),
        pytest.param(kafka.InvalidTopicError(), id="a prefix that cannot be"),
        pytest.param(ssl.SSLCertVerificationError(), id="certificate"),
        pytest.param(ssl.SSLError("wrong version number"), id="no TLS"),
        pytest.param(FileNotFoundError(), id="no such file"),
        pytest.param(TopicsError("topic x has 3 partitions"), id="other partitions"),
        pytest.param(ListenError(98, "cannot listen"), id="a port in use by another"),
        pytest.param(ExceptionGroup("", [TimeoutError(), StartError("never")]), id="one of several"),
        pytest.param(TypeError("a defect"), id="a defect"),
    ],
)
def test_what_nobody_mends_by_waiting_does_not_pass(error: Exception) -> None:
    assert not passes(error)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        pytest.param(TimeoutError(), "no answer in time", id="time-out"),
        pytest.param(OSError("two\n  lines"), "two lines", id="lines"),
        pytest.param(ConnectionResetError(), "ConnectionResetError", id="nothing said"),
        pytest.param(ExceptionGroup("x", [OSError("one"), OSError("one"), OSError("two")]), "one; two", id="group"),
    ],
)
def test_a_reason_is_one_line(error: Exception, words: str) -> None:
    assert in_words(error) == words


class Failing:
    """Fails with these, then succeeds."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)

    async def __call__(self) -> str:
        if self.errors:
            raise self.errors.pop(0)
        return "done"


async def test_a_start_is_tried_until_it_succeeds_and_each_reason_is_told_once() -> None:
    runtime = Runtime("edge", "kafka")
    reasons = ["no leader", "no leader", "no coordinator", "no leader", "no coordinator"]
    with capture_logs() as log:
        assert await Waiting(runtime, "kafka").until(Failing(*map(PassingError, reasons))) == "done"
    assert [(line["event"], line["waits_for"], line["why"]) for line in log] == [
        ("waiting", "kafka", "no leader"),
        ("waiting", "kafka", "no coordinator"),
    ]
    runtime.ready("kafka")
    with capture_logs() as log:
        await Waiting(runtime, "kafka").until(Failing(PassingError("no leader")))
    assert [line["why"] for line in log] == ["no leader"], "another time it is news again"


async def test_readiness_says_what_a_start_waits_for() -> None:
    runtime = Runtime("edge", "kafka", "listening")

    async def look() -> list[str]:
        told: list[str] = []
        while len(told) < 2:
            reasons = dict(runtime._waiting_for)
            if reasons["kafka"] not in told:
                told.append(reasons["kafka"])
            await asyncio.sleep(0)
        return told

    looking = asyncio.create_task(look())
    waiting = asyncio.create_task(Waiting(runtime, "kafka").until(Failing(*[PassingError("no leader")] * 1000)))
    assert await looking == ["not yet", "no leader"]
    assert not runtime.is_ready
    waiting.cancel()
    with suppress(asyncio.CancelledError):
        await waiting


async def test_what_is_no_condition_of_readiness_makes_no_service_unready() -> None:
    runtime = Runtime("ingress", "kafka")
    runtime.ready("kafka")
    await Waiting(runtime, "presence").until(Failing(PassingError("no leader")))
    assert runtime.is_ready


async def test_what_does_not_pass_ends_a_start_with_its_reason() -> None:
    runtime = Runtime("edge", "kafka")
    with pytest.raises(StartError, match=r"^kafka: \[Error 58\] SaslAuthenticationFailed: wrong$"):
        await Waiting(runtime, "kafka").until(Failing(TimeoutError(), kafka.SaslAuthenticationFailed("wrong")))
    with pytest.raises(StartError, match=r"^topic x has 3 partitions$"):
        await Waiting(runtime, "kafka").until(Failing(TopicsError("topic x has 3 partitions")))
    with pytest.raises(TypeError, match="a defect"):
        await Waiting(runtime, "kafka").until(Failing(TypeError("a defect")))


async def test_a_service_that_was_ready_ends_for_nothing_that_a_start_would_end_for() -> None:
    runtime = Runtime("broadcaster", "assigned")
    runtime.ready("assigned")
    assert await Waiting(runtime, "assigned").until(Failing(kafka.GroupAuthorizationFailedError("g"))) == "done"


async def test_an_attempt_that_ends_as_cancelled_by_itself_is_made_again() -> None:
    cancelled = [True, True]

    async def attempt() -> str:
        if cancelled:
            cancelled.pop()
            raise asyncio.CancelledError
        return "done"

    assert await Waiting(Runtime("edge", "kafka"), "kafka").until(attempt) == "done"


async def test_a_start_that_is_told_to_stop_breaks_off_its_attempt() -> None:
    runtime = Runtime("edge", "kafka")
    is_broken_off = asyncio.Event()

    async def hang() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            is_broken_off.set()

    waiting = asyncio.create_task(Waiting(runtime, "kafka").until(hang))
    await asyncio.sleep(0)
    runtime.stopping.set()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert is_broken_off.is_set()


async def test_a_start_that_is_told_to_stop_waits_for_no_attempt_that_refuses_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("liveroom.waiting.CANCEL_S", 0.01)
    runtime, going_on = Runtime("edge", "kafka"), asyncio.Event()

    async def refuse() -> None:
        while not going_on.is_set():
            with suppress(asyncio.CancelledError):
                await going_on.wait()
        raise OSError("seen by nobody")

    waiting = asyncio.create_task(Waiting(runtime, "kafka").until(refuse))
    await asyncio.sleep(0)
    runtime.stopping.set()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    going_on.set()


async def test_a_broker_whose_certificate_is_not_trusted_ends_a_start(tmp_path: Path) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    trusted = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(trusted)  # another one
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=context)
    async with server:
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with pytest.raises(StartError, match=rf"no connection to the broker at {address}: .*certificate verify failed"):
            await probe_brokers(AioKafka(KafkaSettings(bootstrap=address, security="SSL", ca_file=trusted)))


async def test_a_file_of_the_settings_that_is_not_there_ends_a_start(tmp_path: Path) -> None:
    settings = KafkaSettings(bootstrap="127.0.0.1:1", security="SSL", ca_file=tmp_path / "nowhere.pem")
    with pytest.raises(StartError, match=r"kafka\.ca_file.*: \[Errno 2\] No such file"):
        await probe_brokers(AioKafka(settings))


@pytest.mark.parametrize("address", ["", ",", "localhost:x", "localhost:99999", "a..b:9092"])
async def test_an_address_that_can_be_none_ends_a_start(address: str) -> None:
    with pytest.raises((StartError, ValidationError), match=r"bootstrap"):
        await probe_brokers(AioKafka(KafkaSettings(bootstrap=address, request_timeout_s=0.5)))


async def test_names_and_brokers_that_are_not_there_yet_are_waited_for() -> None:
    with pytest.raises(PassingError, match=r"broker at 127\.0\.0\.1:1: .*no connection to the broker at nowhere\.invalid:9092"):
        await probe_brokers(AioKafka(KafkaSettings(bootstrap="127.0.0.1:1,nowhere.invalid:9092")))
