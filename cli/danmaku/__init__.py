"""Danmaku files of others, parsed for ingress: `replay` and the demo play them.

Owns which formats are read, and the error that names one that is not. `xml_file`, `segment_file`
and `json_file` read a format each, `encoding` finds out a text's encoding, and `lines` has the
bounds of a line. All are pure but for `read_file`. A file is not trusted: its size is limited. A
line that cannot be used is skipped and counted by reason.
"""

from pathlib import Path
from typing import Final

from cli.danmaku.encoding import decode
from cli.danmaku.json_file import read_json
from cli.danmaku.lines import DanmakuFile, DanmakuFileError, Flaw, Line, user_of
from cli.danmaku.segment_file import is_segment, read_segment
from cli.danmaku.xml_file import read_xml

__all__ = ["DanmakuFile", "DanmakuFileError", "Flaw", "Line", "default_file", "parse", "read_file", "user_of"]

FILE: Final = "danmaku-130614.xml"
MAX_FILE_BYTES: Final = 64 * 1024 * 1024

_COMPRESSED: Final = {
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "zip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"7z\xbc\xaf": "7z",
    b"Rar!": "rar",
    b"\x78\x01": "zlib",
    b"\x78\x9c": "zlib",
    b"\x78\xda": "zlib",
}
_OTHERS: Final = {
    **dict.fromkeys(("[script info]", "[v4+ styles]", "[v4 styles]", "[events]"), "a subtitle file (ASS)"),
    **dict.fromkeys(("[ti:", "[ar:", "[al:", "[by:", "[offset:"), "a file of lyrics (LRC)"),
    **{
        f"[{digit}{rest}": "a file of lyrics (LRC)"
        for digit in range(10)
        for rest in (":", *(f"{unit}:" for unit in range(10)))
    },
    "webvtt": "a subtitle file (WebVTT)",
    "1\n00:": "a subtitle file (SRT)",
    "1\r\n00:": "a subtitle file (SRT)",
    "%pdf-": "a PDF file",
    "flv\x01": "a video (FLV)",
}
READABLE: Final = "Bilibili's XML, its segments in protobuf, and JSON can be read"


def default_file() -> Path:
    """Return the danmaku file that comes with liveroom; raise DanmakuFileError where it is missing.

    In a wheel it lies beside this package, in a checkout among the tests.
    """
    here = Path(__file__)
    places = (here.parents[1] / "data" / FILE, here.parents[2] / "tests" / "data" / FILE)
    for path in places:
        if path.is_file():
            return path
    raise DanmakuFileError(f"{FILE} is missing ({places[0]}); name another file with --file")


def read_file(path: Path) -> DanmakuFile:
    """Read and parse a file; raise DanmakuFileError where that is not possible."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise DanmakuFileError(f"{path} cannot be read: {error.strerror or error}") from None
    if len(content) > MAX_FILE_BYTES:
        raise DanmakuFileError(f"{path} is larger than {MAX_FILE_BYTES // 1024 // 1024} MiB")
    try:
        return parse(content)
    except DanmakuFileError as error:
        raise DanmakuFileError(f"{path}: {error}") from None


def parse(content: bytes) -> DanmakuFile:
    """Parse a file's bytes; raise DanmakuFileError where they are in no format that is read."""
    for magic, name in _COMPRESSED.items():
        if content.startswith(magic):
            raise DanmakuFileError(f"it is compressed ({name}); unpack it first")
    if is_segment(content):
        return read_segment(content)
    text = decode(content).lstrip()
    start = text[:20].lower()
    for beginning, name in _OTHERS.items():
        if start.startswith(beginning):
            raise DanmakuFileError(f"it is {name}, not XML; {READABLE}")
    if start.startswith(("{", "[")):
        return read_json(text)
    if start.startswith("<"):
        return read_xml(text)
    raise DanmakuFileError(f"it is {'in no format that is known' if start else 'empty'}, not XML; {READABLE}")
