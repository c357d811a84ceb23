"""Builds the word libraries of rooms in short steps, so that they never block the loop.

A library of 500 long words takes 10 ms to build, and one of 5,000 takes 100 ms. The texts that need
it wait for that. Owns the pace: one build at a time, and at most `TURN_S` of it before other tasks
run. `words` owns the libraries, and which must be built. Called by `admission` before a text is
judged.
"""

import asyncio
from collections.abc import Generator
from typing import Final

from ingress.words import WordLibraries, WordLibrary
from liveroom import clock

TURN_S: Final = 0.001  # a step adds up to 3 ms


class WordBuilds:
    """The builds of one ingress."""

    def __init__(self, words: WordLibraries) -> None:
        self._words = words
        self._turn = asyncio.Lock()

    async def prepare(self, room: str) -> None:
        """Return once the libraries for a room's texts hold the words that are rules now.

        A word that is set meanwhile holds for the next text: under steady changes this one would
        never be judged. The caller judges before it waits for anything else.
        """
        names = self._words.due(room)
        while names:
            for name in names:
                async with self._turn:
                    rules = self._words.begin_build(name)  # None: it was built while this one waited
                    if rules is not None:
                        self._words.end_build(name, await _built(WordLibrary.building(rules)))
            names = self._words.missing(room)  # one may have been dropped while another was built


async def _built(building: Generator[None, None, WordLibrary]) -> WordLibrary:
    began_s = clock.monotonic_s()
    while True:
        try:
            next(building)
        except StopIteration as done:
            library: WordLibrary = done.value
            return library
        if clock.monotonic_s() - began_s >= TURN_S:
            await clock.sleep(0)
            began_s = clock.monotonic_s()
