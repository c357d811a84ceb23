"""The SDK as an npm package: packed, installed, type-checked, bundled and run in a browser, each by
the real tool.
"""

import asyncio
import json
import tarfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest
from aiohttp import web
from playwright.async_api import Error, expect

from devstack.builds import ROOT
from liveroom import __version__
from liveroom.ports import HOST
from liveroom.web import serve
from tests.browser.chromium import chromium
from tests.hostile import hostile, texts
from tests.sdk.tools import SDK, STRICT, run

DEADLINE_S: Final = 60.0  # nothing here takes so long, on whatever machine
PLAIN: Final = "<!doctype html><title>{}</title><ol></ol>"


def test_the_package_has_the_module_its_types_and_its_licence_at_this_version(tarball: Path) -> None:
    with tarfile.open(tarball) as packed:
        names = {name.removeprefix("package/") for name in packed.getnames()}
        file = packed.extractfile("package/package.json")
        assert file is not None
        about = json.loads(file.read())
    modules = {path.name for pattern in ("*.js", "*.d.ts") for path in SDK.glob(pattern)}
    assert names == modules | {"package.json", "README.md", "LICENSE"}
    assert about["version"] == __version__
    assert about["license"] == "MIT"
    assert (SDK / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    assert "dependencies" not in about


@pytest.mark.parametrize(("resolution", "module"), [("bundler", "esnext"), ("nodenext", "nodenext")])
def test_typescript_tells_what_kinds_hold_and_finds_what_is_misspelt(app: Path, resolution: str, module: str) -> None:
    run(app, "tsc", *STRICT, "--module", module, "--moduleResolution", resolution, "types.ts", "page.ts")


def test_a_bundle_holds_only_what_the_application_uses(app: Path) -> None:
    small = run(app, "esbuild", "small.ts", "--bundle", "--minify", "--format=esm")
    assert "WebSocket" not in small
    assert len(small) < 2000


@asynccontextmanager
async def serving(folder: Path, **headers: str) -> AsyncIterator[str]:
    """Serve a folder at an origin of its own."""

    async def show(request: web.Request) -> web.FileResponse:
        return web.FileResponse(folder / request.match_info["name"], headers=headers)

    server = web.Application()
    server.router.add_get("/{name:.+}", show)
    async with serve(server, HOST, 0, shutdown_timeout_s=0.2) as (_, port):
        yield f"http://{HOST}:{port}"


def build(app: Path, cdn: str) -> list[str]:
    """Make the page in three ways; return their paths."""
    run(app, "vite", "build", "--base", "./", "--logLevel", "error")
    run(app, "esbuild", "page.ts", "--bundle", "--format=esm", "--outfile=esbuild.js")
    run(app, "esbuild", "page.ts", "--format=esm", "--outfile=by-url.js")
    by_url = (app / "by-url.js").read_text("utf-8")
    assert '"liveroom"' in by_url
    (app / "by-url.js").write_text(by_url.replace('"liveroom"', f'"{cdn}/liveroom.js"'), "utf-8")
    for name in ("esbuild", "by-url"):
        script = f'<script type="module" src="{name}.js"></script>'
        (app / f"{name}.html").write_text(PLAIN.format(name) + script, "utf-8")
    return ["dist/index.html", "esbuild.html", "by-url.html"]


async def test_a_page_of_another_origin_runs_bundled_or_with_the_module_by_its_url(app: Path) -> None:
    installed = app / "node_modules" / "liveroom"
    cors = {"Access-Control-Allow-Origin": "*"}
    errors: list[str] = []

    def note(error: Error) -> None:
        errors.append(str(error))

    async with (
        hostile(texts()) as services,
        serving(installed, **cors) as cdn,
        serving(app) as origin,
        chromium() as browser,
        asyncio.timeout(3 * DEADLINE_S),
    ):
        for path in await asyncio.to_thread(build, app, cdn):
            page = await browser.new_page()
            page.on("pageerror", note)
            await page.goto(f"{origin}/{path}?services={services.url}")
            await expect(page.locator("li")).to_have_count(len(services.lines) + 1)
            await expect(page.locator("li", has_text="sent true")).to_have_count(1)
            assert (await services.sent.get())["text"] == await page.title()
            assert errors == []
            await page.close()
