"""The Kubernetes API: the connection to it, its answers, and why a call failed. No retries."""

import asyncio
import json
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, Final, TypeVar

import aiohttp
import msgspec
from kubernetes.aio import client, config
from kubernetes.aio.client.exceptions import ApiException

from autoscaler.pool import Failure

FAILURES: Final = (ApiException, aiohttp.ClientError, OSError, TimeoutError, msgspec.MsgspecError, config.ConfigException)
_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
T = TypeVar("T")


async def connect() -> client.ApiClient:
    """Return a client with the pod's own account; outside a cluster, with `kubectl`'s.

    It makes no retries of its own.
    """
    return await asyncio.to_thread(_connect)


def _connect() -> client.ApiClient:
    made = client.Configuration()
    if _ACCOUNT.is_file():
        config.load_incluster_config(made)  # type: ignore[no-untyped-call]
    else:
        asyncio.run(config.load_kube_config(client_configuration=made))  # type: ignore[no-untyped-call]
    made.retries = None
    return client.ApiClient(made)


async def read(answer: Awaitable[Any], kind: type[T]) -> T:
    """Return the API's answer as `kind`; raise ApiException for an error.

    The client's own models take milliseconds for a list of pods; ours have only what is needed.
    """
    response = await answer
    data = await response.read()
    if response.status >= 400:  # noqa: PLR2004 - as HTTP has it
        raise ApiException(status=response.status, reason=response.reason, body=data.decode(errors="replace"))
    return msgspec.json.decode(data, type=kind)


def failure_of(error: BaseException) -> Failure:
    """Return the kind of an error."""
    if isinstance(error, TimeoutError | aiohttp.ClientError | OSError):
        return Failure.SILENT
    status = error.status if isinstance(error, ApiException) else None
    match status:
        case 401 | 403:
            return Failure.REFUSED
        case 409 | 410:
            return Failure.CONFLICT
        case 429:
            return Failure.THROTTLED
        case int() if status >= 500:  # noqa: PLR2004 - as HTTP has it
            return Failure.SERVER
        case _:
            return Failure.OTHER


def in_words(error: BaseException) -> str:
    """Return an error in one line, with the API's message."""
    if not isinstance(error, ApiException):
        return repr(error)
    try:
        said = json.loads(error.body or "").get("message", "")
    except (ValueError, AttributeError):
        said = ""
    return f"{error.status} {said or error.reason}"
