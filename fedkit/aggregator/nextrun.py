"""From one run to the next in the folder of an aggregator, whose devices stay the same."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from fedkit.aggregator.journal import Journal
from fedkit.errors import RunFailed
from fedkit.runfolder import sync

_RUN = "run"
_TABLES = ("replies", "uploads", "tasks", "releases", "tellings")
_ABOUT = ("job", "job_id", "most", "run", "over", "pause", "up", "down")


def retire(directory: Path) -> Path:
    """Make room for another run: where the folder of the one that was is kept.

    The journal forgets its tasks, results and models; devices, certificates and nonces stay. A device hears
    of it with its next poll (409 `run`). Killed on the way, it can be done again. ConfigError: an aggregator
    is running there; RunFailed: the disk refuses.
    """
    with closing(Journal(directory / "journal")) as journal, journal.transaction(durable=True) as db:
        for table in _TABLES:
            db.execute(f"DELETE FROM {table}")  # noqa: S608 - names of our own
        db.executemany("DELETE FROM meta WHERE name = ?", [(name,) for name in _ABOUT])
    kept = directory / f"{_RUN}-{1 + max(_numbers(directory), default=0)}"
    try:
        (directory / _RUN).rename(kept)
        sync(directory)
    except OSError as error:
        raise RunFailed(f"{directory / _RUN} cannot be renamed to {kept.name}: {error.strerror}") from error
    return kept


def _numbers(directory: Path) -> list[int]:
    tails = [path.name.removeprefix(f"{_RUN}-") for path in directory.glob(f"{_RUN}-*")]
    return [int(tail) for tail in tails if tail.isascii() and tail.isdigit()]
