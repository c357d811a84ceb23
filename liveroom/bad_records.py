"""Records that cannot be used: each is counted, and a log says it once where one line is enough.

While services of several versions run, every record of a topic may be refused for the same reason.
Owns the choice of what is logged (`Refusals`). Called by whoever reads a topic.
"""

import re
from typing import Final

import structlog

from liveroom import metric_catalog
from liveroom.records.codec import BadRecord, BadRecordError
from liveroom.registry import Metrics
from liveroom.topics import Topic

_MOST_REMEMBERED: Final = 20  # anybody may write any number or name to `uplink`
_PATH: Final = re.compile(r" - at `[^`]*`?\Z")  # how msgspec ends its message; a detail that was cut lacks the last mark
_QUOTED: Final = re.compile(
    r"'(?:[^'\\]|\\.)*'?|\"(?:[^\"\\]|\\.)*\"?", re.DOTALL
)  # as `repr` escapes; the last may be cut off
_USER: Final = re.compile(r"'\.\.\.' is not a user id(?:[;:].*?)?(?= - at `|\Z)")  # `liveroom.users.why_not` goes on with ids
_INDEX: Final = re.compile(r"\[\d+(\]|\Z)")
_NAME: Final = re.compile(r"'[a-z_]{1,32}'").fullmatch  # of a kind, role, mode or action
log = structlog.get_logger()


def without_content(reason: BadRecord, detail: str) -> str:
    """Return a detail as a log may show it: without what it quotes of the record.

    What this version does not know is named where it looks like a name, since it is the reason.
    """
    if reason.is_foreign:
        return detail
    if reason is BadRecord.UNHANDLED:
        return ""
    is_named = reason is BadRecord.UNKNOWN

    def shown(quoted: re.Match[str]) -> str:
        return quoted[0] if is_named and _NAME(quoted[0]) else "'...'"

    return _USER.sub("not a user id", _QUOTED.sub(shown, detail))


class Refusals:
    """Chooses which refusals of one topic's records are logged.

    Each version, section, kind, role, mode and action that this service does not know is logged
    once, wherever in a record it stands. Once `_MOST_REMEMBERED` of them were logged, one more line
    says that no others will be. Every other refusal is logged.
    """

    def __init__(self, topic: Topic) -> None:
        self._topic = topic
        self._seen: set[tuple[BadRecord, str]] = set()
        self._is_full = False

    def is_logged(self, reason: BadRecord, detail: str) -> bool:
        """Return whether the caller should log this refusal; remember it if so."""
        if not reason.is_foreign and reason is not BadRecord.UNKNOWN:
            return True
        refused = reason, _without_position(detail)
        if refused in self._seen or self._is_full:
            return False
        if len(self._seen) == _MOST_REMEMBERED:
            self._is_full = True
            log.warning("more_refusals_not_logged", topic=self._topic.name, logged=_MOST_REMEMBERED)
            return False
        self._seen.add(refused)
        return True


def _without_position(detail: str) -> str:
    """Return a detail without the positions in lists that its path has."""
    return _PATH.sub(lambda path: _INDEX.sub("[]", path[0]), detail)


class BadRecords:
    """Counts the records of one topic that cannot be used, and logs them as `Refusals` chooses."""

    def __init__(self, metrics: Metrics, topic: Topic) -> None:
        self._metrics = metrics
        self._topic = topic
        self._refusals = Refusals(topic)

    def note(self, offset: int, error: BadRecordError, partition: int | None = None) -> None:
        """Count the record at `offset`, and log why it cannot be used. `partition`: if known."""
        self._metrics.counter(metric_catalog.BAD_RECORDS, self._topic.name, error.reason.value).inc()
        if self._refusals.is_logged(error.reason, error.detail):
            why = f"{error.reason.value}: {without_content(error.reason, error.detail)}"
            log.error("bad_record", topic=self._topic.name, partition=partition, offset=offset, error=why)
