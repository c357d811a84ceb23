"""The WebSocket extension of a connection: `permessage-deflate` without context, or none. Pure.

Owns the parsing of `Sec-WebSocket-Extensions` (RFC 7692). Refuses an offer that limits the server's
window: the broadcaster deflates a batch once, for all viewers. `edge.handshake` calls it.
"""

import re
from typing import Final

_ANSWER: Final = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
_FULL_WINDOW: Final = "15"
_WINDOWS: Final = frozenset(str(bits) for bits in range(8, 16))

# RFC 6455, 9.1: a list of a token with parameters. A quoted value must be a token too once it is
# unquoted. Possessive, so that a header made to be tried in many ways is read once; but groups are
# not: before 3.11.5 those match what they must not (CPython issue 106052), and each of their
# characters can be read in one way only.
_NAME_CHAR: Final = r"[-!#$%&'*+.^_`|~0-9A-Za-z]"
_WORD: Final = f"{_NAME_CHAR}++"
_SPACE: Final = r"[ \t]*+"
_VALUE: Final = rf'(?:{_WORD}|"(?:\\?{_NAME_CHAR})+")'
_PARAMETER: Final = re.compile(f";{_SPACE}({_WORD}){_SPACE}(?:={_SPACE}({_VALUE}){_SPACE})?")
_NAME: Final = re.compile(f"{_SPACE}({_WORD}){_SPACE}")
_NOTHING: Final = re.compile(_SPACE)
_QUOTING: Final = re.compile(r'["\\]')


def accept_deflate(header: str | None) -> str | None:
    """Return the answer to the first acceptable offer; None where there is none.

    Offers behind a malformed one are ignored. `client_max_window_bits` only says that the viewer
    would accept a limit (7.1.2.2); the gateway sets none.
    """
    place = 0
    while header is not None and place <= len(header):
        name = _NAME.match(header, place)
        parameters: list[tuple[str, str | None]] = []
        if name is None:  # a list may have empty elements (RFC 9110, 5.6.1.2)
            end = _NOTHING.match(header, place).end()  # type: ignore[union-attr]  # it matches everywhere
        else:
            end = name.end()
            while (parameter := _PARAMETER.match(header, end)) is not None:
                parameters.append((parameter[1], parameter[2]))
                end = parameter.end()
        if end < len(header) and header[end] != ",":
            return None
        if name is not None and name[1] == "permessage-deflate" and (answer := _answer(parameters)) is not None:
            return answer
        place = end + 1
    return None


def _answer(parameters: list[tuple[str, str | None]]) -> str | None:
    """Return the answer to one offer; None where it has a parameter that is unknown, repeated or
    of a wrong value (7.1).
    """
    answer = _ANSWER
    seen = set()
    for name, quoted in parameters:
        value = None if quoted is None else _QUOTING.sub("", quoted)
        match name:
            case "server_no_context_takeover" | "client_no_context_takeover":
                good = value is None
            case "server_max_window_bits":  # to accept it is to repeat it (7.1.2.1)
                good = value == _FULL_WINDOW
                answer += f"; server_max_window_bits={_FULL_WINDOW}"
            case "client_max_window_bits":
                good = value is None or value in _WINDOWS
            case _:
                good = False
        if not good or name in seen:
            return None
        seen.add(name)
    return answer
