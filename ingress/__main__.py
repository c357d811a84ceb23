"""Starts the ingress: `python -m ingress` (settings: `--help`). Owns the order of start and end."""

import asyncio
from collections.abc import Coroutine
from functools import partial
from typing import Any, Final

import structlog

from ingress.acts import Acts
from ingress.announcing import Announcer
from ingress.app import App
from ingress.entrance import Entrance
from ingress.kafka import READY, LogQueue
from ingress.review import Reviewer
from ingress.roomstate import RoomStates
from ingress.words import Libraries, Library, WordAction, read_library
from liveroom import service
from liveroom.files import watch
from liveroom.follow import RULES_READ, follow_rules
from liveroom.moderation import Rules
from liveroom.records import Moderation, RuleKind
from liveroom.service import Runtime, read_first
from liveroom.settings import IngressSettings
from liveroom.tokens import Verifier
from liveroom.web import serve

_ANSWER_S: Final = 0.5  # to write the answers after the last ack
log = structlog.get_logger()


def read_word_files(settings: IngressSettings) -> Library:
    """Return the library that the files make together; raise OSError or LibraryError where one cannot be used."""
    words: dict[str, WordAction] = {}
    for path in settings.word_files:
        words |= read_library(path.read_text())
    return Library(words)


async def _after(connected: asyncio.Event, work: Coroutine[Any, Any, None]) -> None:
    try:
        await connected.wait()
    except asyncio.CancelledError:
        work.close()
        raise
    await work


async def run(settings: IngressSettings, runtime: Runtime) -> None:
    """Serve until told to stop; then stop accepting, answer what is under way (an ack takes its time-out at most), close.

    The port is open at once: while Kafka is away requests get 503, `/readyz` says why, and nothing crashes.
    """
    verifier = Verifier(await read_first(settings.read_token_keys), settings.token_leeway_s)
    rules, queue = Rules(), LogQueue(settings, runtime)
    libraries = Libraries(rules.words)
    libraries.use_files(await read_first(partial(read_word_files, settings)))
    reviewer = Reviewer(settings, runtime.metrics)
    entrance = Entrance(settings, queue, rules, libraries, reviewer, runtime.metrics)
    announcer = Announcer(settings, queue, runtime)
    states = RoomStates(settings, queue, rules)
    app = App(settings, verifier, entrance, Acts(entrance.desk, entrance.gate, rules, states, announcer), runtime)

    def on_rule(rule: Moderation) -> None:
        if rule.kind is RuleKind.WORD:
            libraries.changed(rule.room)

    async with asyncio.TaskGroup() as tasks:
        working = [
            tasks.create_task(queue.watch()),
            tasks.create_task(_after(queue.connected, follow_rules(settings.kafka, rules, runtime, on_rule))),
            tasks.create_task(_after(queue.connected, announcer.follow_presence())),
            tasks.create_task(_after(queue.connected, announcer.follow_gateways())),
            tasks.create_task(watch([settings.token_keys_file], settings.read_token_keys, verifier.use)),
            tasks.create_task(watch(settings.word_files, lambda: read_word_files(settings), libraries.use_files)),
        ]
        drain_s = settings.ack_timeout_s + _ANSWER_S
        async with serve(app.web, settings.host, settings.port, shutdown_timeout_s=drain_s) as (_, port):
            log.info("listening", port=port)
            await runtime.stopping.wait()
            log.info("stopping", waiting=queue.waiting)
        for task in working:
            task.cancel()
    for part in (entrance, announcer, states, reviewer):
        await part.close()
    await queue.stop()


if __name__ == "__main__":
    service.main("ingress", IngressSettings, run, READY, RULES_READ)
