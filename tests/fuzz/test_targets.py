"""Every target against its seeds, its corpus, and what Hypothesis makes of both."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz import corpus
from tests.fuzz.targets import TARGETS


@pytest.mark.parametrize("name", TARGETS)
def test_good_bytes_are_read(name: str) -> None:
    assert all(TARGETS[name].reads(seed) for seed in TARGETS[name].seeds)


@pytest.mark.parametrize("name", TARGETS)
def test_what_the_fuzzer_found_is_read_or_refused(name: str) -> None:
    inputs = corpus.read(name)
    assert inputs, "make fuzz writes its corpus"
    for data in inputs:
        TARGETS[name].reads(data)


@pytest.mark.parametrize("name", TARGETS)
def test_changed_bytes_are_read_or_refused(name: str) -> None:
    known = [*TARGETS[name].seeds, *corpus.read(name)]

    @settings(max_examples=60)
    @given(st.sampled_from(known), st.integers(0, corpus.MAX_INPUT_BYTES), st.integers(0, 8), st.binary(max_size=8))
    def change(data: bytes, place: int, gone: int, new: bytes) -> None:
        place %= len(data) + 1
        TARGETS[name].reads(data[:place] + new + data[place + gone :])

    change()


def test_there_is_no_corpus_without_a_target() -> None:
    assert {file.stem for file in corpus.FOLDER.glob("*.json")} == set(TARGETS)
