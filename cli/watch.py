"""`liveroom watch`: prints what a viewer of a room sees, a line each."""

import asyncio
import sys
from collections.abc import Callable
from functools import partial

import aiohttp
import msgspec

from cli.endpoints import Endpoints, UsageError, make_user, need_scheduler
from cli.output import OutputError, drop, reader_watched
from cli.printable import count_in, json_line, plain, price_in, printable, printable_user, text_in
from cli.refusals import words_of
from liveroom.kinds import Kind
from liveroom.nesting import UNDECODABLE
from liveroom.tasks import beside
from liveroom.texts import is_visible
from liveroom.wire import Error, Message
from viewer.client import Viewer
from viewer.effects import Counts, Delivered, Effect, Ended, Entered, Lost, Moved, Renumbered, Told
from viewer.problem import of_frame


async def run_watch(room: str, endpoints: Endpoints, *, user: str, as_json: bool, duration_s: float | None) -> int:
    """Print what a viewer of a room sees; return the exit code.

    It is 1 where the connection ended for good, or the viewer was in the room at no time, and 0
    where nobody reads the output any more: that reader has what it wanted. Raises OutputError where
    the output cannot be written for another reason, and UsageError where no service answers at
    first.
    """
    # Without a key the viewer is a guest.
    token = endpoints.token_for(make_user(user)) if endpoints.token or endpoints.token_key else None
    with reader_watched() as gone:
        nobody = asyncio.Event()
        printer = Printer(as_json=as_json, on_broken=gone.set)

        def failed(why: str) -> None:
            error = viewer.error
            if error is not None and not error.is_ours and not printer.has_entered:
                nobody.set()  # a wrong address, say: it would ask there for ever
            else:
                printer.failed(why)

        async with aiohttp.ClientSession() as http:
            viewer = Viewer(
                need_scheduler(endpoints),
                [room],
                http=http,
                token=token,
                on_effect=printer.on_effect,
                on_gone=printer.gone,
                on_failed=failed,
            )
            async with viewer, beside(viewer.until_ended(), gone.wait(), nobody.wait()) as works:
                await asyncio.wait(works, timeout=duration_s, return_when=asyncio.FIRST_COMPLETED)
                error = viewer.error
    if printer.failure is not None:
        raise printer.failure
    if gone.is_set():
        drop()
        return 0
    if nobody.is_set() and error is not None:
        raise UsageError(f"no scheduler or gateway at {endpoints.scheduler}: {words_of(error)}")
    if viewer.ended is None and printer.has_entered:
        return 0
    print(f"liveroom: {words_of(error) if error is not None else 'the viewer was never in the room'}", file=sys.stderr)
    return 1


class Printer:
    """Prints a session's effects, a line each.

    `out` prints a line. `on_broken` is called when nobody reads the lines any more, or when they
    cannot be written: then `failure` is why.
    """

    def __init__(
        self,
        *,
        as_json: bool,
        out: Callable[[str], None] = partial(print, flush=True),
        on_broken: Callable[[], None] = lambda: None,
    ) -> None:
        self._as_json = as_json
        self._out = out
        self._on_broken = on_broken
        self._error = partial(print, file=sys.stderr, flush=True)
        self._failed = ""
        self.failure: OutputError | None = None
        self.has_entered = False

    def on_effect(self, effect: Effect) -> None:
        """Print an effect that people can read."""
        self.has_entered = self.has_entered or isinstance(effect, Entered)
        if isinstance(effect, Ended):
            if self.has_entered:  # else there may have been no connection; the last line says why
                self._note(f"the connection ended for good: {printable(effect.rule.reason)}")
        elif isinstance(effect, Delivered):
            self._print(self._json(effect.message) if self._as_json else line_of(effect.message))
        elif note := _note_of(effect):
            self._note(note)

    def gone(self) -> None:
        """Print that the connection was lost."""
        self._note("the connection was lost; trying again")

    def failed(self, why: str) -> None:
        """Print, on the error stream, why no gateway was reached; the same reason once."""
        if why != self._failed:
            self._failed = why
            self._error(f"liveroom: {printable(why)}; trying again")

    def _note(self, text: str) -> None:
        if not self._as_json:
            self._print(f"-- {text}")

    def _print(self, line: str) -> None:
        try:
            self._out(line)
        except BrokenPipeError:
            self._on_broken()
        except OutputError as error:
            self.failure = error
            self._on_broken()

    @staticmethod
    def _json(message: Message) -> str:
        return json_line(msgspec.json.encode(message).decode(), sys.stdout.encoding)


def line_of(message: Message) -> str:
    """Return a message as a line for people.

    The body is not trusted: it may hold what no decoder reads, and anything where a number or a
    text should be. Texts of others turn nothing beside them, and move no cursor.
    """
    data = message.body
    match message.kind:
        case Kind.DANMAKU:
            what = f": {printable(text_in(data, 'text'))}" + (f" x{message.n}" if message.n > 1 else "")
        case Kind.GIFT:
            combo = count_in(data, "combo")
            what = f" gives {count_in(data, 'count')} {printable(text_in(data, 'gift'))}" + (
                f", combo {combo}" if combo > 1 else ""
            )
        case Kind.GOODS if is_visible(text_in(data, "title")):
            what = f" offers {printable(text_in(data, 'title'))}" + (f" for {price}" if (price := price_in(data)) else "")
        case Kind.ANNOUNCEMENT if is_visible(text_in(data, "text")):
            what = f" announces: {printable(text_in(data, 'text'))}"
        case kind:
            what = f" {printable(kind)} {printable(_shown(message.data))}"
    return f"{message.seq:>6}  {printable_user(message.user, message.name)}{what}"


def _shown(data: msgspec.Raw) -> str:
    try:
        return plain(msgspec.json.decode(data))
    except UNDECODABLE:
        return plain({"unreadable": bytes(data).decode(errors="replace")})


def _note_of(effect: Effect) -> str:
    match effect:
        case Entered():
            return f"in room {printable(effect.room)}"
        case Counts(likes=int(likes)):
            return f"{likes:,} likes"
        case Lost():
            return f"{effect.to_rseq - effect.after_rseq} gifts or notices were missed"
        case Renumbered():
            return "the room's history begins again"
        case Told(what=Error() as said):
            return f"refused: {words_of(of_frame(said))}"
        case Told(what=what):
            return printable(msgspec.json.encode(what).decode())
        case Moved():
            return f"the gateway asks to move: {printable(effect.reason)}"
        case _:
            return ""
