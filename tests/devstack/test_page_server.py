"""The page's server: its headers, its tokens, and the requests that it refuses."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from devstack.page_server import FOLDER, TYPES, PageState, make_page
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


FILES = sorted(file for file in FOLDER.rglob("*") if file.suffix in TYPES)


@pytest.mark.parametrize("path", ["/", *(f"/{file.relative_to(FOLDER).as_posix()}" for file in FILES)])
async def test_files_are_served_with_strict_headers(path: str) -> None:
    async with page() as (http, url), http.get(url + path) as response:
        assert response.status == 200
        policy = response.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self';" in policy
        assert "unsafe" not in policy
        assert response.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("file", [file for file in FILES if file.suffix == ".html"], ids=lambda file: file.name)
def test_pages_have_no_inline_script_or_style(file: Path) -> None:
    html = file.read_text(encoding="utf-8")
    assert html.count("<script") == html.count("</script>") == html.count('<script type="module" src="') == 1
    assert "style=" not in html
    assert "<style" not in html
    assert not re.search(r"<[^>]*\son[a-z]+=", html)
    assert "http://" not in html


@pytest.mark.parametrize("file", [file for file in FILES if file.suffix == ".js"], ids=lambda file: file.name)
def test_scripts_take_no_markup_from_anybody(file: Path) -> None:
    script = file.read_text(encoding="utf-8")
    for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function", "createContextual"):
        assert word not in script


async def test_nothing_else_is_served() -> None:
    async with page() as (http, url):
        for path in ("/../app.py", "/../../pyproject.toml", "/.git/config", "/sdk", "/sdk/", "/nothing"):
            async with http.get(url + path) as response:
                assert response.status == 404
                assert (await response.json(content_type=None))["code"] == "not_found"


async def test_the_pages_are_told_addresses_and_rooms() -> None:
    async with page() as (http, url), http.get(f"{url}/demo/config") as response:
        told = await response.json()
    assert (told["ingress"], told["rooms"]) == ("http://127.0.0.1:1", ["live-1"])
    assert told["autoscaler"] is None


async def test_a_name_gets_a_viewers_token() -> None:
    async with page() as (http, url), http.post(f"{url}/demo/token", json={"name": "  Ann\n B "}) as response:
        told = await response.json()
    user = verify_user(told["token"], KEY.encode())
    assert (user.id, user.name, user.role) == (told["user"], "Ann B", Role.VIEWER)
    assert user.id.startswith("guest-")


@pytest.mark.parametrize("role", [Role.STREAMER, Role.MODERATOR])
async def test_a_host_is_one_of_its_room_only(role: Role) -> None:
    asked = {"name": "Host", "role": role.value, "room": "live-1"}
    async with page() as (http, url), http.post(f"{url}/demo/token", json=asked) as response:
        told = await response.json()
    user = verify_user(told["token"], KEY.encode())
    assert (user.role, user.rooms, user.id) == (role, ("live-1",), told["user"])


async def test_an_operator_is_one_everywhere() -> None:
    asked = {"name": "Ops", "role": "operator"}
    async with page() as (http, url), http.post(f"{url}/demo/token", json=asked) as response:
        user = verify_user((await response.json())["token"], KEY.encode())
    assert (user.role, user.rooms) == (Role.OPERATOR, None)


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
        pytest.param(JSON, b'{"name":"a","role":"service"}', 422, "schema", id="a role that pages have no need of"),
        pytest.param(JSON, b'{"name":"a","role":"king"}', 422, "schema", id="no role"),
        pytest.param(JSON, b'{"name":"a","role":"streamer"}', 422, "schema", id="a host of no room"),
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
