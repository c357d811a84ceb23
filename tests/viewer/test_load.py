"""The crowd's reader of frames: however the bytes are cut, the frames are the same."""

from hypothesis import given
from hypothesis import strategies as st

from liveroom.wire import PING, TEXT, websocket_frame
from viewer.frames import FrameReader

SIZES = st.sampled_from([0, 1, 125, 126, 127, 65_535, 65_536])


@given(st.lists(st.tuples(st.sampled_from([TEXT, PING]), SIZES), min_size=1, max_size=5), st.data())
def test_frames_are_the_same_however_their_bytes_are_cut(frames: list[tuple[int, int]], data: st.DataObject) -> None:
    expected = [(opcode, bytes((number,)) * size) for number, (opcode, size) in enumerate(frames)]
    stream = b"".join(websocket_frame(payload, opcode) for opcode, payload in expected)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    reader = FrameReader()
    got: list[tuple[int, bytes]] = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        got += reader.feed(stream[start:end])
    assert got == expected


def test_one_byte_at_a_time_is_enough() -> None:
    stream = websocket_frame(b"a" * 200) + websocket_frame(b"") + websocket_frame(b"b")
    reader = FrameReader()
    got = [frame for index in range(len(stream)) for frame in reader.feed(stream[index : index + 1])]
    assert got == [(TEXT, b"a" * 200), (TEXT, b""), (TEXT, b"b")]
