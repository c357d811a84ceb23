"""How deep a text nests, found without decoding it."""

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from liveroom.nesting import nests_deeper

TRICKY = st.sampled_from(['[[["\\"{', "}]\\", "", '"', "a\\", "\u2028", 1, None, True])
VALUES = st.recursive(
    TRICKY, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('[]{}"\\a', max_size=4), inner, max_size=3)
)


def depth(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(depth, inner), default=0)


@given(VALUES, st.integers(0, 6), st.booleans())
def test_levels_are_counted_as_a_decoder_would_walk_them(value: Any, levels: int, is_ascii: bool) -> None:
    text = json.dumps(value, ensure_ascii=is_ascii).encode()
    assert nests_deeper(text, levels) == (depth(value) > levels)


@pytest.mark.parametrize(
    ("text", "is_deeper"),
    [
        pytest.param(b"[" * 32 + b"]" * 32, False, id="as deep as may be"),
        pytest.param(b"[" * 33 + b"]" * 33, True, id="one too deep"),
        pytest.param(b"[" * 40, True, id="never closed"),
        pytest.param(b"]" * 40 + b"[" * 40, False, id="closed before it opens"),
        pytest.param(b"[]," * 1000, False, id="wide"),
        pytest.param(b'"' + b"[" * 40, False, id="in a string that never ends"),
        pytest.param(b'["\\"' + b"[" * 40 + b'"]', False, id="behind an escaped quote"),
        pytest.param(b'["\\\\"' + b"[" * 40 + b'"]', True, id="behind an escaped backslash"),
        pytest.param(b"\xff" + b"{" * 33, True, id="not UTF-8"),
    ],
)
def test_texts_that_are_no_json_have_brackets_too(text: bytes, is_deeper: bool) -> None:
    assert nests_deeper(text, 32) == is_deeper


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(lambda n: b"[" * n, id="opened"),
        pytest.param(lambda n: b"[" * (n // 2) + b"]" * (n // 2), id="opened and closed"),
        pytest.param(lambda n: b'"' + b'\\"' * (n // 2) + b"[{" * 40, id="escaped quotes without an end"),
        pytest.param(lambda n: b'""' * (n // 2) + b"[" * 40, id="strings"),
        pytest.param(lambda n: b"\\" * n + b"[" * 40, id="backslashes"),
    ],
)
def test_time_grows_with_the_length_of_a_hostile_text_and_no_faster(text: Any) -> None:
    def cpu_s(size: int) -> float:
        hostile = text(size)
        began = time.process_time()
        for _ in range(5):
            nests_deeper(hostile, 32)
        return time.process_time() - began

    assert cpu_s(320_000) < 60 * max(cpu_s(16_000), 1e-4)  # 20 times as long; squared it would be 400
