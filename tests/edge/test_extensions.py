"""Which offers of `permessage-deflate` are served: what browsers send, RFC 7692's grammar, and
`websockets` as judge.
"""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from websockets.exceptions import InvalidHeader, NegotiationError
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory, ServerPerMessageDeflateFactory
from websockets.headers import build_extension, parse_extension
from websockets.typing import ExtensionName

from edge.extensions import accept_deflate

PLAIN = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
WINDOW = PLAIN + "; server_max_window_bits=15"


@pytest.mark.parametrize(
    ("header", "answer"),
    [
        # Browsers
        pytest.param("permessage-deflate; client_max_window_bits", PLAIN, id="Chrome"),
        pytest.param("permessage-deflate", PLAIN, id="Firefox, Safari"),
        pytest.param("x-webkit-deflate-frame", None, id="old Safari"),
        pytest.param("x-webkit-deflate-frame, permessage-deflate; client_max_window_bits", PLAIN, id="both of Safari's"),
        # No offer
        pytest.param(None, None, id="no header"),
        pytest.param("", None, id="empty header"),
        pytest.param(" \t", None, id="blank header"),
        pytest.param("permessage-bzip2, mux", None, id="others only"),
        pytest.param("permessage-deflate-frame", None, id="a longer name"),
        pytest.param("Permessage-Deflate", None, id="another case"),
        # Parameters
        pytest.param("permessage-deflate; server_no_context_takeover", PLAIN, id="server without context"),
        pytest.param("permessage-deflate; client_no_context_takeover", PLAIN, id="client without context"),
        pytest.param(PLAIN, PLAIN, id="both without context"),
        pytest.param("permessage-deflate; server_no_context_takeover=1", None, id="a flag with a value"),
        pytest.param("permessage-deflate; client_no_context_takeover=true", None, id="another flag with a value"),
        pytest.param("permessage-deflate; server_max_window_bits=15", WINDOW, id="full window"),
        pytest.param('permessage-deflate; server_max_window_bits="15"', WINDOW, id="full window, quoted"),
        pytest.param(r'permessage-deflate; server_max_window_bits="1\5"', WINDOW, id="full window, quoted and escaped"),
        pytest.param("permessage-deflate; server_max_window_bits=14", None, id="smaller window"),
        pytest.param("permessage-deflate; server_max_window_bits=8", None, id="smallest window"),
        pytest.param("permessage-deflate; server_max_window_bits=16", None, id="larger window"),
        pytest.param("permessage-deflate; server_max_window_bits=015", None, id="leading zero"),
        pytest.param("permessage-deflate; server_max_window_bits", None, id="window without a value"),
        pytest.param("permessage-deflate; client_max_window_bits=8", PLAIN, id="client's smallest window"),
        pytest.param("permessage-deflate; client_max_window_bits=15", PLAIN, id="client's full window"),
        pytest.param("permessage-deflate; client_max_window_bits=7", None, id="client's window too small"),
        pytest.param("permessage-deflate; client_max_window_bits=16", None, id="client's window too large"),
        pytest.param("permessage-deflate; client_max_window_bits=x", None, id="client's window not a number"),
        pytest.param("permessage-deflate; level=9", None, id="unknown parameter"),
        pytest.param("permessage-deflate; client_max_window_bits; client_max_window_bits", None, id="repeated parameter"),
        pytest.param("permessage-deflate; client_max_window_bits=9; client_max_window_bits", None, id="repeated otherwise"),
        # Several offers
        pytest.param("permessage-deflate; server_max_window_bits=10, permessage-deflate", PLAIN, id="fallback"),
        pytest.param("permessage-deflate; level=9,permessage-deflate;server_max_window_bits=15", WINDOW, id="no spaces"),
        pytest.param("permessage-deflate, permessage-deflate; server_max_window_bits=15", PLAIN, id="the first that can be"),
        pytest.param("mux; a=1; b, permessage-deflate", PLAIN, id="after another extension"),
        pytest.param(",, ,permessage-deflate", PLAIN, id="empty elements"),
        pytest.param("permessage-deflate\t ;\tserver_max_window_bits = 15 ,", WINDOW, id="optional space"),
        # Malformed
        pytest.param("permessage-deflate;", None, id="no parameter"),
        pytest.param("permessage-deflate; =15", None, id="no name"),
        pytest.param("permessage-deflate; server_max_window_bits=", None, id="no value"),
        pytest.param('permessage-deflate; server_max_window_bits="15', None, id="quote left open"),
        pytest.param('permessage-deflate; server_max_window_bits=""', None, id="nothing quoted"),
        pytest.param("permessage-deflate client_max_window_bits", None, id="no semicolon"),
        pytest.param('mux; a="b, permessage-deflate, c"', None, id="an offer in quotes is none"),
        pytest.param("mux; a=(, permessage-deflate", None, id="nothing is read after a malformed offer"),
        pytest.param("permessage-deflate, mux; a=(", PLAIN, id="but before it"),
        pytest.param("permessage-deflate\r\n", None, id="line break"),
        pytest.param("permessage-defl\u0430te", None, id="not ASCII"),
        pytest.param("permessage-deflate; server_max_window_bits=\uff11\uff15", None, id="digits that are not ASCII"),
    ],
)
def test_an_offer_is_answered_or_declined(header: str | None, answer: str | None) -> None:
    assert accept_deflate(header) == answer


@pytest.mark.timeout(10)
@pytest.mark.parametrize(
    "header",
    [
        pytest.param("a" * 100_000 + "(", id="name"),
        pytest.param("a;" + " " * 100_000 + "(", id="space"),
        pytest.param("a" + " ;a" * 30_000 + "(", id="parameters"),
        pytest.param('a;b="' + "\\a" * 50_000, id="quoted"),
        pytest.param("," * 100_000, id="empty elements"),
        pytest.param("permessage-deflate;x," * 5_000, id="offers"),
    ],
)
def test_a_long_header_is_read_once(header: str) -> None:
    assert accept_deflate(header) is None


@given(st.text() | st.text(alphabet='permessage-deflate;=",\\ \tserver_max_window_bits158'))
def test_no_header_raises(header: str) -> None:
    assert accept_deflate(header) in {None, PLAIN, WINDOW}


PARAMETERS = st.tuples(
    st.sampled_from(
        [
            "server_no_context_takeover",
            "client_no_context_takeover",
            "server_max_window_bits",
            "client_max_window_bits",
            "client_max_window_bits",
            "level",
        ]
    ),
    st.sampled_from(["", "", "", "=15", "=15", "= 12", ' ="15"', "=8", "=7", "=16", '="1\\5"', "=", '="', "=x", '="1,5"']),
).map("".join)
OFFERS = st.tuples(
    st.sampled_from(["permessage-deflate", "permessage-deflate", "permessage-deflate", "x-webkit-deflate-frame", ""]),
    st.lists(PARAMETERS, max_size=3),
).map(lambda offer: " ;".join((offer[0], *offer[1])))


@given(st.lists(OFFERS, min_size=1, max_size=4).map(", ".join))
@example("permessage-deflate; client_max_window_bits")
def test_the_same_offers_are_served_as_by_websockets(header: str) -> None:
    """But for smaller windows, which we decline: what we send has a full one."""
    try:
        offers = parse_extension(header)
    except InvalidHeader:
        accept_deflate(header)  # they refuse the whole request; we serve what came before, or nothing
        return
    factory = ServerPerMessageDeflateFactory(server_no_context_takeover=True, client_no_context_takeover=True)
    accepted = None
    for name, parameters in offers:
        try:
            answer, _ = factory.process_request_params(parameters, [])
        except NegotiationError:
            continue
        window = dict(answer).get("server_max_window_bits")
        if name == factory.name and window in {None, "15"}:
            accepted = WINDOW if window else PLAIN
            break
    assert accept_deflate(header) == accepted


@given(
    st.builds(
        ClientPerMessageDeflateFactory,
        server_no_context_takeover=st.booleans(),
        client_no_context_takeover=st.booleans(),
        server_max_window_bits=st.sampled_from([None, 9, 14, 15]),
        client_max_window_bits=st.sampled_from([None, True, 9, 15]),
    )
)
def test_websockets_as_a_client_takes_our_answer(factory: ClientPerMessageDeflateFactory) -> None:
    answer = accept_deflate(build_extension([(ExtensionName("permessage-deflate"), list(factory.get_request_params()))]))
    assert (answer is None) == (factory.server_max_window_bits in {9, 14})
    if answer is not None:
        [(_, parameters)] = parse_extension(answer)
        agreed = factory.process_response_params(parameters, [])
        assert agreed.local_no_context_takeover
        assert agreed.remote_no_context_takeover
        assert agreed.remote_max_window_bits == 15
