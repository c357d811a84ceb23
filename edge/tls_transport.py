"""TLS over the descriptor: the transport of one connection whose handshake is done.

Theory of operation. The event loop's own TLS copies every byte through two buffers and a transport
of its own. Here OpenSSL reads from and writes to the descriptor, and the event loop only reports
when the descriptor is ready. Five rules keep that right:

- OpenSSL decrypts whole records, so bytes may wait in it while the descriptor is silent. A read
  goes on until `SSLWantReadError`. One that stops earlier goes on in the loop's next turn, and
  reading begins by itself after the handshake and after `resume_reading`.
- A read may have to write first, and a write may have to read first. Either waits for the other
  readiness then. A read that brings nothing may last as long as records come: `Guard` ends it,
  and the reads of all connections together have a part of each turn.
- After a write that could not finish, OpenSSL expects the same bytes again. They stay first, and
  count as unsent, until it takes them.
- One write is one record at most, or a slow viewer's progress within a large frame is invisible.
- The end is TLS's close_notify, then a shut-down of the socket below. `SSLSocket.shutdown` would
  throw TLS away and send what follows in the clear.

Owns the socket. Refuses nothing. `edge.tls_server` creates one for each connection; a member writes
by `write_now`, past the buffer, while nothing waits.
"""

import asyncio
import socket
import ssl
from collections import deque
from enum import Enum
from typing import Any, Final, cast

from edge.tls_guard import READ_S, WASTE_S, Account, FloodError, Guard

RECORD_BYTES: Final = 16_384  # RFC 8446, section 5.1
READS_A_TURN: Final = 4
HIGH_BYTES: Final = 64 * 1024
CLOSE_S: Final = 30.0  # without progress, for the last bytes of a connection that is closing
_WAITS: Final = (ssl.SSLWantWriteError, ssl.SSLWantReadError)


class _Ends(Enum):
    """How far the end of our side has come."""

    NOT_YET = 0
    WANTED = 1  # once what waits is written
    SENT = 2


class TlsTransport(asyncio.Transport):
    """One TLS connection. `sock`: its handshake is done, and it does not block."""

    __slots__ = (
        "_account",
        "_chunks",
        "_closes",
        "_deadline",
        "_end",
        "_fd",
        "_guard",
        "_high",
        "_is_deaf",
        "_is_lost",
        "_is_paused",
        "_is_reading",
        "_loop",
        "_low",
        "_peer",
        "_protocol",
        "_read_wants_write",
        "_size",
        "_sock",
        "_turn_is_due",
        "_write_wants_read",
    )

    def __init__(
        self, loop: asyncio.AbstractEventLoop, sock: ssl.SSLSocket, peer: object, protocol: asyncio.Protocol, guard: Guard
    ) -> None:
        super().__init__()
        self._loop = loop
        self._sock = sock
        self._fd = sock.fileno()
        self._peer = peer
        self._guard = guard
        self._account = Account(WASTE_S)
        self._protocol: asyncio.Protocol = protocol
        self._chunks: deque[memoryview] | None = None
        self._size = 0
        self._high, self._low = HIGH_BYTES, HIGH_BYTES // 4
        self._is_paused = False  # the protocol, by `pause_writing`
        self._is_reading = False
        self._is_deaf = False
        self._is_lost = False
        self._closes = False
        self._end = _Ends.NOT_YET
        self._read_wants_write = False
        self._write_wants_read = False
        self._turn_is_due = False
        self._deadline: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Give the protocol its connection and read what came with the end of the handshake."""
        try:
            self._protocol.connection_made(self)
        except Exception as error:  # noqa: BLE001 - a defect of one connection ends that connection
            self._fail(error, "connection_made")
        if not (self._is_reading or self._is_lost or self._closes):
            self._is_reading = True
            self._loop.add_reader(self._fd, self._on_readable)
            self._read()

    # ---- what a transport tells
    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return what is known of the connection by the names of `asyncio.BaseTransport`."""
        match name:
            case "socket" | "ssl_object":
                return self._sock
            case "sslcontext":
                return self._sock.context
            case "peername":
                return self._peer
            case "sockname":
                return self._sock.getsockname()
            case "cipher":
                return self._sock.cipher()
            case "compression":
                return self._sock.compression()
            case "peercert":
                return self._sock.getpeercert()
        return default

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Give what comes from now on to another protocol."""
        self._protocol = cast("asyncio.Protocol", protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Return the protocol. Raises AttributeError once it has lost its connection."""
        return self._protocol

    def is_closing(self) -> bool:
        """Return whether the connection is closing or closed."""
        return self._closes or self._is_lost

    # ---- in
    def is_reading(self) -> bool:
        """Return whether the protocol receives what comes."""
        return self._is_reading

    def pause_reading(self) -> None:
        """Read nothing until `resume_reading`."""
        if self._is_reading:
            self._is_reading = False
            if not self._write_wants_read:
                self._loop.remove_reader(self._fd)

    def resume_reading(self) -> None:
        """Read on: first what OpenSSL holds, which the descriptor does not show."""
        if self._is_reading or self._is_lost or self._closes:
            return
        self._is_reading = True
        self._loop.add_reader(self._fd, self._on_readable)
        self._read_soon()

    def _read_soon(self) -> None:
        if not self._turn_is_due:
            self._turn_is_due = True
            self._loop.call_soon(self._read_on)

    def _wait_for_turn(self) -> None:
        if not self._turn_is_due:
            self._turn_is_due = True
            self._guard.wait(self._read_on)

    def _read_on(self) -> None:
        self._turn_is_due = False
        if self._is_reading:
            self._on_readable()

    def _on_readable(self) -> None:
        if self._write_wants_read:
            self._write_wants_read = False
            if not self._is_reading:
                self._loop.remove_reader(self._fd)
            self._flush()
        if self._is_reading:
            self._read()

    def _read(self) -> None:
        """Hand the protocol what comes, until nothing more does or its turn is over."""
        for _ in range(READS_A_TURN):
            if not self._guard.has_turn():
                self._wait_for_turn()
                return
            try:
                data = self._received()
            except (ssl.SSLWantReadError, BlockingIOError):
                return
            except ssl.SSLWantWriteError:
                self._read_wants_write = True
                self._loop.add_writer(self._fd, self._on_writable)
                return
            except OSError as error:
                self._lose(error)
                return
            if not data:
                self._take_end()
                return
            if not self._is_deaf:
                self._give(data)
            if not self._is_reading:
                return
        if self._is_deaf or self._sock.pending():
            self._read_soon()

    def _give(self, data: bytes) -> None:
        try:
            self._protocol.data_received(data)
        except Exception as error:  # noqa: BLE001 - as in `start`
            self._fail(error, "data_received")

    def _received(self) -> bytes:
        if self._is_deaf:
            return socket.socket.recv(self._sock, RECORD_BYTES)
        return self._guard.read(self._sock, self._account, self._peer, self._sock.read, RECORD_BYTES)

    def _take_end(self) -> None:
        """End after the other side has ended, unless the protocol keeps its own side open."""
        self._is_reading = False
        if not self._write_wants_read:
            self._loop.remove_reader(self._fd)
        try:
            stays = self._protocol.eof_received()
        except Exception as error:  # noqa: BLE001 - as in `start`
            self._fail(error, "eof_received")
            return
        if not stays:
            self.close()

    # ---- out
    def write_now(self, _: int, data: bytes) -> int:
        """Write past the buffer, for a caller that knows that nothing waits in it.

        Returns how many bytes were taken, at most all. The caller must pass the rest to `write`
        before it writes anything else, because OpenSSL expects those bytes again. The first
        argument is not used: the call has the shape of `os.write`. Raises OSError.
        """
        size = len(data)
        if size <= RECORD_BYTES:
            try:
                return self._sock.write(data)  # not `send`: after `unwrap` that would send in the clear
            except _WAITS:
                return 0
            except ValueError:
                raise BrokenPipeError from None
        view = memoryview(data)
        sent = 0
        try:
            while sent < size:
                sent += self._sock.write(view[sent : sent + RECORD_BYTES])
        except _WAITS:
            pass
        except ValueError:
            raise BrokenPipeError from None
        return sent

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Write, or keep what the connection does not take now."""
        if not data or self._is_lost or self._closes or self._end is not _Ends.NOT_YET:
            return
        if self._chunks is None:
            self._chunks = deque()
        # What its owner may change is copied: OpenSSL expects the same bytes again.
        self._chunks.append(memoryview(data if isinstance(data, bytes) else bytes(data)))
        self._size += len(data)
        if len(self._chunks) == 1:
            self._flush()
        self._pause_protocol()

    def get_write_buffer_size(self) -> int:
        """Return how many bytes wait."""
        return self._size

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set above how many bytes the protocol must pause, and from how many on it resumes."""
        if high is None:
            high = HIGH_BYTES if low is None else 4 * low
        self._high, self._low = high, high // 4 if low is None else low
        self._pause_protocol()

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """Return the low and the high limit."""
        return self._low, self._high

    def _pause_protocol(self) -> None:
        if self._size > self._high and not self._is_paused:
            self._is_paused = True
            self._protocol.pause_writing()

    def _on_writable(self) -> None:
        self._loop.remove_writer(self._fd)
        if self._read_wants_write:
            self._read_wants_write = False
            if self._is_reading:
                self._read()
        self._flush()

    def _flush(self) -> None:
        """Write what waits, and go on with what was to follow it."""
        chunks = self._chunks
        while chunks and not self._is_lost:
            try:
                sent = self._sock.write(chunks[0][:RECORD_BYTES])
            except ssl.SSLWantWriteError:
                self._loop.add_writer(self._fd, self._on_writable)
                return
            except ssl.SSLWantReadError:
                self._wait_for_read()
                return
            except OSError as error:
                self._lose(error)
                return
            self._size -= sent
            if self._closes:
                self._allow_time()
            if sent == len(chunks[0]):
                chunks.popleft()
            else:
                chunks[0] = chunks[0][sent:]
        if self._is_lost:
            return
        self._chunks = None
        if self._is_paused and self._size <= self._low:
            self._is_paused = False
            self._protocol.resume_writing()  # which may write again
        self._end_after_flush()

    def _end_after_flush(self) -> None:
        if not self._chunks and not self._is_lost and (self._end is _Ends.WANTED or self._closes):
            self._send_end()

    def _wait_for_read(self) -> None:
        self._write_wants_read = True
        if not self._is_reading:
            self._loop.add_reader(self._fd, self._on_readable)

    # ---- the end
    def can_write_eof(self) -> bool:
        """Return True."""
        return True

    def write_eof(self) -> None:
        """End our side once what waits is written; what comes is still read."""
        if self._end is _Ends.NOT_YET and not self._closes and not self._is_lost:
            self._end = _Ends.WANTED
            if not self._chunks:
                self._send_end()

    def close(self) -> None:
        """Close once what waits is written, or when nothing of it went for `CLOSE_S`. Nothing more
        is read.
        """
        if self._closes or self._is_lost:
            return
        self._closes = True
        self.pause_reading()
        if not self._chunks:
            self._send_end()
        if not self._is_lost:
            self._allow_time()

    def _allow_time(self) -> None:
        """Give what waits on a closing connection `CLOSE_S` from now on."""
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self._loop.call_later(CLOSE_S, self.abort)

    def abort(self) -> None:
        """Close at once; what waits is dropped."""
        self._lose(None)

    def _send_end(self) -> None:
        """Send close_notify and shut our side down; lose the connection where it is closing."""
        if self._end is not _Ends.SENT:
            try:
                self._guard.run(self._sock, READ_S, self._sock.unwrap)
                self._is_deaf = True  # both sides have ended: what still came would be in the clear
            except ssl.SSLWantReadError:
                pass  # it is sent, and the other side has not sent its own
            except ssl.SSLWantWriteError:
                self._loop.add_writer(self._fd, self._on_writable)
                return
            except FloodError as error:
                self._lose(error)
                return
            except (OSError, ValueError):
                self._is_deaf = True  # OpenSSL reads no more: data came instead of the other side's end
            self._end = _Ends.SENT
            try:
                socket.socket.shutdown(self._sock, socket.SHUT_WR)
            except OSError as error:
                self._lose(error)
                return
        if self._closes:
            self._lose(None)

    def _fail(self, error: Exception, method: str) -> None:
        self._loop.call_exception_handler(
            {
                "message": f"a protocol's {method} failed",
                "exception": error,
                "transport": self,
                "protocol": self._protocol,
            }
        )
        self._lose(error)

    def _lose(self, error: Exception | None) -> None:
        """Let go of the descriptor; the protocol learns of it in the loop's next turn."""
        if self._is_lost:
            return
        if isinstance(error, FloodError):
            self._guard.on_flood(self._peer)
        self._is_lost = self._closes = True
        self._is_reading = False
        self._chunks = None
        self._size = 0
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        self._loop.remove_reader(self._fd)
        self._loop.remove_writer(self._fd)
        self._loop.call_soon(self._report_loss, error)

    def _report_loss(self, error: Exception | None) -> None:
        try:
            self._protocol.connection_lost(error)
        finally:
            self._sock.close()  # not before: the protocol may hold the descriptor's number
            del self._protocol  # the two know each other: only the collector would free them
