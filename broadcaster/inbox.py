"""The uplink records of one partition that were fetched and not yet taken.

Owns their bounds in number and bytes, the offset from which records are wanted, and the search for
a record that no batch can hold. Refuses nothing: `Inbox.put` returns whether more records fit, and
the caller pauses fetching. Called by `broadcaster.partition`.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Final

from liveroom.kafka_port import Record
from liveroom.records.codec import BadRecord, BadRecordError

MAX_INBOX: Final = 20_000
MAX_INBOX_BYTES: Final = 16 * 1024 * 1024


class Inbox:
    """Records in the order of the log.

    `next_offset` is the first uplink offset that was not taken; None: not known.
    `unfit` are the offsets of records with which no batch could be made.
    """

    def __init__(self) -> None:
        self.next_offset: int | None = None
        self.unfit: set[int] = set()
        self._records: deque[Record] = deque()
        self._bytes = 0
        self._suspect_to = 0
        self._is_alone = False

    def __len__(self) -> int:
        return len(self._records)

    def put(self, records: Sequence[Record]) -> bool:
        """Add records behind those that are here; return whether more may follow at once."""
        self._records.extend(records)
        self._bytes += sum([len(record.value or b"") for record in records])
        return len(self._records) < MAX_INBOX and self._bytes < MAX_INBOX_BYTES

    @property
    def has_space(self) -> bool:
        """Whether it is half empty: fetching may resume."""
        return len(self._records) < MAX_INBOX // 2 and self._bytes < MAX_INBOX_BYTES // 2

    @property
    def wanted_next(self) -> int | None:
        """The first uplink offset that was not put in; None: not known."""
        return self._records[-1].offset + 1 if self._records else self.next_offset

    def clear(self) -> None:
        """Drop what was not taken: it will be fetched again."""
        self._records.clear()
        self._bytes = 0

    def take(self) -> Iterator[Record]:
        """Give records in order, each of which then counts as taken.

        Where a batch with them failed before, one alone is given.
        """
        records, next_offset = self._records, self.next_offset or 0
        is_suspect, self._is_alone = next_offset < self._suspect_to, False
        while records:
            record = records.popleft()
            self._bytes -= len(record.value or b"")
            if record.offset < next_offset:
                continue
            self.next_offset = next_offset = record.offset + 1
            self._is_alone = is_suspect
            yield record
            if is_suspect:
                return

    def blame(self) -> None:
        """Note that no batch could be made of what was taken since the last one.

        From then on its records are taken one by one. One that fails alone too is unfit. Those
        behind them are taken as ever: one by one a busy partition would fall behind for good.
        """
        if self.next_offset is None:
            return
        if self._is_alone:
            self.unfit.add(self.next_offset - 1)
        self._suspect_to = max(self._suspect_to, self.next_offset)

    def refuse_unfit(self, offset: int) -> None:
        """Raise BadRecordError where the record at this offset is unfit."""
        if offset in self.unfit:
            raise BadRecordError(BadRecord.UNHANDLED, "the batch with it could not be made; the log has the reason")

    def forgive(self) -> None:
        """Forget which records failed: other records may lie at their offsets now."""
        self.unfit.clear()
        self._suspect_to = 0
