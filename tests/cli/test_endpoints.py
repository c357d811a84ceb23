"""The addresses of services that a person gives."""

from pathlib import Path

import pytest

from cli.endpoints import UsageError, find_endpoints


@pytest.fixture(autouse=True)
def _nothing_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIVEROOM_RUNTIME_DIR", str(tmp_path / "run"))


@pytest.mark.parametrize(
    "url", ["ftp://x", "http://[::1", "http://", "x:8080", "http://x:port", "http://x:0", "http://ok,ftp://x"]
)
def test_an_address_that_is_no_url_is_refused_at_once(url: str) -> None:
    for option in ("ingress", "scheduler", "autoscaler"):
        with pytest.raises(UsageError, match=rf"^--{option} \(LIVEROOM_{option.upper()}_URL\): it is no URL of a service"):
            find_endpoints(**{option: url})


@pytest.mark.parametrize("url", ["http://x", "https://[::1]:8080/base", "http://a:1,http://b:2"])
def test_an_address_that_can_be_called_is_taken(url: str) -> None:
    assert find_endpoints(scheduler=url).scheduler == url
