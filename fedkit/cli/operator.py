"""How commands ask the aggregator that runs in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fedkit.errors import RunFailed

SECONDS = 300.0


def ask(directory: Path, method: str, target: str) -> Any:
    """The answer of the aggregator that runs in `directory`, as JSON; None if none does.

    RunFailed: it says no. PermissionError: the token is another user's.
    """
    import httpx

    from fedkit.aggregator.backup import ADDRESS, TOKEN

    try:
        url = (directory / ADDRESS).read_text("ascii").strip()
        token = (directory / TOKEN).read_text("ascii").strip()
    except FileNotFoundError:
        return None
    try:
        told = {"Authorization": f"Bearer {token}"}
        got = httpx.request(method, url + target, headers=told, timeout=httpx.Timeout(SECONDS, connect=5.0))
        answer = got.json()
    except (httpx.TransportError, ValueError):
        return None  # nobody, or somebody else: the address is of a process that is gone
    if got.status_code == 401:
        return None
    if got.status_code != 200:
        raise RunFailed(f"the aggregator at {url} refuses: {answer.get('error', got.status_code)}")
    return answer
