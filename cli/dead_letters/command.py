"""What `liveroom dead-letters` prints, asks and sends."""

import asyncio
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import typer

from broadcaster.items import BadBodyError
from cli.choices import LetterAct
from cli.dead_letters.letters import UNREADABLE, Letter, Place, Wanted, checked, contents_of, json_of, line_of, why_not_again
from cli.dead_letters.topic import DeadLetterTopic, Kept, reading, sending
from cli.endpoints import UsageError
from cli.ingress_client import target
from cli.output import drop, reader_watched
from cli.printable import printable
from cli.times import moment_s
from liveroom import clock
from liveroom.dead_letter_reasons import DEAD_LETTER_REASONS
from liveroom.kafka import UnsentError
from liveroom.kafka_port import Kafka
from liveroom.nesting import UNDECODABLE
from liveroom.records.codec import BadRecordError
from liveroom.tasks import beside

REMEMBERED: Final = (
    "An id is remembered for 10 minutes (10 s for what is not reliable): if the sender has sent a record anew since,"
    " longer ago than that, it is shown twice."
)


@dataclass(frozen=True, slots=True)
class DeadLetterOptions:
    """The options that both acts have. `since`: as typed; `most`: how many letters at most."""

    kafka: str
    prefix: str | None
    wanted: Wanted
    since: str
    most: int

    @property
    def since_ms(self) -> int | None:
        """The time of `since`, in Unix milliseconds."""
        return int(moment_s(self.since, clock.unix_s()) * 1000) if self.since else None

    def refuse(self, act: LetterAct, given: Mapping[str, object]) -> None:
        """Raise UsageError where an option is given that this act does not have."""
        if foreign := [name for name, value in given.items() if value]:
            raise UsageError(f"liveroom dead-letters {act.value} has no {foreign[0]}")


def options_of(
    kafka: str,
    prefix: str | None,
    codes: Sequence[str] | None,
    rooms: Sequence[str] | None,
    kinds: Sequence[str] | None,
    users: Sequence[str] | None,
    partition: int | None,
    since: str,
    most: int,
) -> DeadLetterOptions:
    """Return the options as typed; raise UsageError where one of them cannot be used."""
    known = [*(code.value for code in DEAD_LETTER_REASONS), UNREADABLE]
    if wrong := [code for code in codes or () if code not in known]:
        raise UsageError(f"{wrong[0]!r} is no code of a dead letter: {', '.join(known)}")
    wanted = Wanted(
        frozenset(codes or ()), frozenset(rooms or ()), frozenset(kinds or ()), frozenset(map(target, users or ())), partition
    )
    return DeadLetterOptions(kafka, prefix, wanted, since, most)


class Again(NamedTuple):
    """A record to send: that of the letter of `place`, as it was or as somebody mended it."""

    place: Place
    room: str
    value: bytes


def _error(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


async def run_show(options: DeadLetterOptions, *, as_json: bool, follow: bool) -> int:
    """Print the letters, and with `follow` those that come; return the exit code."""
    async with reading(options.kafka, options.prefix, options.since_ms) as (_, topic):
        await topic.read_marks()
        found = await topic.kept(options.wanted.takes, options.most)
        _note_left_out(found, options)
        for letter in found.letters:
            print(_line(letter, topic, as_json=as_json))
        if follow:
            await _follow(topic, options.wanted, as_json=as_json)
        else:
            sent = sum(letter.place in topic.sent for letter in found.letters)
            _error(f"-- {len(found.letters):,} dead letters" + (f", {sent:,} of them sent again" if sent else ""))
    return 0


def _line(letter: Letter, topic: DeadLetterTopic, *, as_json: bool) -> str:
    is_sent = letter.place in topic.sent
    return json_of(letter, sys.stdout.encoding, is_sent_again=is_sent) if as_json else line_of(letter, is_sent_again=is_sent)


def _note_left_out(found: Kept, options: DeadLetterOptions) -> None:
    if found.left_out:
        _error(f"-- the newest {options.most:,}; {found.left_out:,} older ones are left out, see --limit")


async def _follow(topic: DeadLetterTopic, wanted: Wanted, *, as_json: bool) -> None:
    """Print the letters that come until nobody reads them."""

    async def show() -> None:
        async for letter in topic.follow():
            if wanted.takes(letter):
                try:
                    print(_line(letter, topic, as_json=as_json), flush=True)
                except BrokenPipeError:
                    return

    sys.stdout.flush()
    with reader_watched() as gone:
        async with beside(show(), gone.wait()) as works:
            await asyncio.wait(works, return_when=asyncio.FIRST_COMPLETED)
    drop()


async def run_send_again(options: DeadLetterOptions, mended: Path | None, *, dry_run: bool, yes: bool) -> int:
    """Send the records of letters again; return 1 where one was not sent that should have been.

    `mended`: a file of lines as `--json` prints them, whose records are sent instead of those of
    the letters. Raises UsageError where it cannot be read.
    """
    lines = await asyncio.to_thread(_read_mended, mended) if mended is not None else None
    async with reading(options.kafka, options.prefix, options.since_ms) as (kafka, topic):
        await topic.read_marks()
        if lines is None:
            again, refused = await _from_letters(topic, options)
        else:
            again, refused = _from_lines(lines, topic.sent)
        for line in refused:
            _error(line)
        for each in again if dry_run else ():
            print(f"would send {each.place} again: room {each.room}, {len(each.value):,} bytes")
        if refused and lines is None:
            _error("To mend them: liveroom dead-letters --json > letters.jsonl, correct each record in it, then --mended FILE")
        print(f"{len(again):,} records can be sent again, {len(refused):,} cannot")
        if dry_run or not again:
            return 1 if refused else 0
        _error(REMEMBERED)
        if not yes and not typer.confirm(f"Send {len(again):,} records again?"):
            return 1
        return 1 if await _send(kafka, again) < len(again) or refused else 0


async def _from_letters(topic: DeadLetterTopic, options: DeadLetterOptions) -> tuple[list[Again], list[str]]:
    """Return what can be sent, and a line for each letter that cannot. Says what is passed over."""
    passed: Counter[str] = Counter()

    def takes(letter: Letter) -> bool:
        if letter.note is None or not options.wanted.takes(letter):
            return False
        if letter.place in topic.sent:
            passed["sent again"] += 1
            return False
        return True

    found = await topic.kept(takes, options.most)
    if passed:
        _error(f"-- {passed.total():,} dead letters are passed over: they were sent again already")
    _note_left_out(found, options)
    again, refused = [], []
    for letter in found.letters:
        if why := why_not_again(letter):
            refused.append(f"cannot be sent as it is: {letter.place}  {printable(letter.code)}  {printable(why)}")
        else:
            again.append(Again(letter.place, letter.contents.room, letter.value))
    return again, refused


class _Mended(msgspec.Struct, frozen=True):
    """What is read of a line of `--json`."""

    topic: str
    partition: int
    offset: int
    record: msgspec.Raw


def _read_mended(file: Path) -> list[tuple[int, _Mended]]:
    """Return the lines of a file with their numbers; raise UsageError where one is no letter."""
    decode, found = msgspec.json.Decoder(_Mended).decode, []
    try:
        lines = file.read_bytes().splitlines()
    except OSError as error:
        raise UsageError(f"--mended {file}: {error.strerror or error}") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            found.append((number, decode(line)))
        except UNDECODABLE as error:
            raise UsageError(f"--mended {file}, line {number} is no line of liveroom dead-letters --json: {error}") from None
    return found


def _from_lines(lines: Sequence[tuple[int, _Mended]], sent: set[Place]) -> tuple[list[Again], list[str]]:
    """Return what can be sent of a file's lines, and a line for each that cannot."""
    again, refused = [], []
    for number, line in lines:
        place, value = Place(line.topic, line.partition, line.offset), bytes(line.record)
        if place in sent:
            _error(f"-- line {number}, {place}: passed over, it was sent again already")
            continue
        try:
            checked(value)
        except (BadRecordError, BadBodyError) as error:
            refused.append(f"cannot be sent: line {number}, {place}: {printable(str(error))}")
        else:
            again.append(Again(place, contents_of(b"", value).room, value))
    return again, refused


async def _send(kafka: Kafka, again: Sequence[Again]) -> int:
    """Send records in order, and stop at the first that is not acknowledged; return how many."""
    sent = 0
    async with sending(kafka) as sender:
        for each in again:
            try:
                partition = await sender.send(*each)
            except UnsentError as error:
                _error(f"liveroom: {each.place} was not acknowledged, and may be there: {error}; run the command again")
                break
            sent += 1
            print(f"sent {each.place} again to {kafka.settings.prefix}uplink-{partition}, room {each.room}")
    print(f"{sent:,} of {len(again):,} records sent again, and marked in {kafka.settings.prefix}dead-letter")
    return sent
