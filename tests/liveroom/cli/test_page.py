"""The page's server: its headers, its tokens, and whom it refuses."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest

from liveroom.cli.page import FILES, FOLDER, PageState, make_page
from liveroom.closecodes import TABLE
from liveroom.kinds import Role
from liveroom.web import serve
from tests.tokens import verify_user

KEY = "k" * 64
JSON = {"Content-Type": "application/json"}


@asynccontextmanager
async def page(*, ready: bool = True) -> AsyncIterator[tuple[aiohttp.ClientSession, str]]:
    state = PageState(KEY if ready else "", ["live-1"])
    if ready:
        state.ingress, state.scheduler = "http://127.0.0.1:1", "http://127.0.0.1:2"
    async with serve(make_page(state), "127.0.0.1", 0) as (_, port), aiohttp.ClientSession() as http:
        yield http, f"http://127.0.0.1:{port}"


@pytest.mark.parametrize("path", list(FILES))
async def test_files_are_served_with_strict_headers(path: str) -> None:
    async with page() as (http, url), http.get(url + path) as response:
        assert response.status == 200
        policy = response.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self';" in policy
        assert "unsafe" not in policy
        assert response.headers["X-Content-Type-Options"] == "nosniff"


def test_the_page_has_no_inline_script_or_style_and_takes_no_markup_from_others() -> None:
    html = (FOLDER / "index.html").read_text(encoding="utf-8")
    assert html.count("<script") == html.count("</script>") == html.count('<script type="module" src="app.js">')
    assert "style=" not in html
    assert "<style" not in html
    assert " on" not in "".join(part.split(">")[0] for part in html.split("<"))
    script = (FOLDER / "app.js").read_text(encoding="utf-8")
    for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
        assert word not in script


async def test_nothing_else_is_served() -> None:
    async with page() as (http, url):
        for path in ("/../app.py", "/index.html", "/.git/config", "/nothing"):
            async with http.get(url + path) as response:
                assert response.status == 404
                assert (await response.json(content_type=None))["code"] == "not_found"


async def test_the_page_is_told_addresses_rooms_and_close_codes() -> None:
    async with page() as (http, url), http.get(f"{url}/demo/config") as response:
        told = await response.json()
    assert (told["ingress"], told["rooms"]) == ("http://127.0.0.1:1", ["live-1"])
    assert set(told["closes"]) == {str(code) for code in TABLE}


async def test_a_name_gets_a_viewers_token() -> None:
    async with page() as (http, url), http.post(f"{url}/demo/token", json={"name": "  Ann\n B "}) as response:
        told = await response.json()
    user = verify_user(told["token"], KEY.encode())
    assert (user.id, user.name, user.role) == (told["user"], "Ann B", Role.VIEWER)
    assert user.id.startswith("guest-")


async def test_a_user_is_kept_but_only_a_guest() -> None:
    async with page() as (http, url):
        for asked, kept in (("guest-1a", True), ("ub82a51a3", False), ("guest-" + "x" * 80, False)):
            async with http.post(f"{url}/demo/token", json={"name": "Ann", "user": asked}) as response:
                assert ((await response.json())["user"] == asked) is kept


@pytest.mark.parametrize(
    ("headers", "body", "status", "code"),
    [
        pytest.param({"Content-Type": "text/plain"}, b'{"name":"a"}', 415, "unsupported_media_type", id="not JSON"),
        pytest.param(JSON, b"{", 400, "bad_json", id="broken"),
        pytest.param(JSON, b'{"name":1}', 422, "schema", id="no text"),
        pytest.param(JSON, b'{"name":" "}', 422, "schema", id="no name"),
        pytest.param(JSON, b'{"name":"a","role":"operator"}', 422, "schema", id="asks for a role"),
        pytest.param(JSON, b'{"name":"' + b"a" * 5000 + b'"}', 413, "too_large", id="too large"),
        pytest.param(JSON | {"Origin": "http://evil.example"}, b'{"name":"a"}', 403, "origin", id="a foreign page"),
        pytest.param(JSON | {"Host": "evil.example"}, b'{"name":"a"}', 403, "origin", id="a rebound name"),
    ],
)
async def test_a_token_is_refused(headers: dict[str, str], body: bytes, status: int, code: str) -> None:
    async with page() as (http, url), http.post(f"{url}/demo/token", data=body, headers=headers) as response:
        assert response.status == status
        assert (await response.json(content_type=None))["code"] == code


async def test_before_the_services_are_ready_there_is_no_token_and_no_address() -> None:
    async with page(ready=False) as (http, url):
        async with http.get(f"{url}/demo/config") as response:
            assert (response.status, response.headers["Retry-After"]) == (503, "1")
        async with http.post(f"{url}/demo/token", json={"name": "Ann"}) as response:
            assert response.status == 503
