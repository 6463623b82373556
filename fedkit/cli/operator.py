"""How commands ask the aggregator that runs in a folder."""

from __future__ import annotations

import json
from contextlib import closing
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fedkit.errors import RunFailed

SECONDS = 300.0


def ask(directory: Path, method: str, target: str) -> Any:
    """The answer of the aggregator that runs in `directory`, as JSON; None if none does.

    RunFailed: it says no. PermissionError: the token is another user's.
    """
    from fedkit.aggregator.backup import ADDRESS, TOKEN

    try:
        url = (directory / ADDRESS).read_text("ascii").strip()
        token = (directory / TOKEN).read_text("ascii").strip()
    except FileNotFoundError:
        return None
    try:
        place = urlsplit(url)
        with closing(HTTPConnection(place.hostname or "", place.port, timeout=SECONDS)) as connection:
            connection.request(method, target, headers={"Authorization": f"Bearer {token}"})
            got = connection.getresponse()
            answer = json.loads(got.read())
    except (OSError, HTTPException, ValueError):
        return None  # nobody, or somebody else: the address is of a process that is gone
    if got.status == 401:
        return None
    if got.status != 200:
        raise RunFailed(f"the aggregator at {url} refuses: {answer.get('error', got.status)}")
    return answer
