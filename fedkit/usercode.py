"""Code that users bring: what it raises and what it returns become errors that name it.

Everything that a workload, a strategy or an observer returns to the server passes through here, so
that nonsense is told of where it was made and not where it does harm.
"""

from __future__ import annotations

import logging
import math
import re
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from fedkit.errors import CheckpointError, ConfigError, FedkitError, RunFailed, shown
from fedkit.messages import MOST_ID_BYTES, Settings
from fedkit.tensors import State, sealed

NUMBERS = frozenset(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64))
DTYPES = NUMBERS | {"bool", "float16", "float32", "float64"}
"""Dtypes that a run folder can hold."""
NAMES, NAME_LENGTH = 256, 128
"""Most metrics of one report, and most characters of a metric's name."""
_NOT_THEIRS = re.compile(r"[/\\](site-packages|fedkit_(clients|simulations|strategies))[/\\]|^<")
_NOT_THEIRS_EITHER = (str(Path(__file__).parent), str(Path(logging.__file__).parents[1]))
log = logging.getLogger("fedkit")


@contextmanager
def called(
    what: str, error: type[FedkitError] = RunFailed, passing: tuple[type[FedkitError], ...] = ()
) -> Iterator[None]:
    """Around a call of a user's code: what it raises becomes `error`, which says what, why and where.

    Errors that a user's code raises on purpose (ConfigError, RunFailed, CheckpointError, those of `passing`)
    pass, and so does a closed pipe: whoever read the output has seen enough. The cause is chained, and its
    traceback is in the log of whoever keeps one.
    """
    try:
        yield
    except (ConfigError, RunFailed, CheckpointError, BrokenPipeError):
        raise
    except passing:
        raise
    except (Exception, SystemExit, GeneratorExit) as cause:
        if log.hasHandlers():  # else Python's last resort would show what the chain shows again
            log.error("%s raised", what, exc_info=cause)
        raise error(f"{what} raised {described(cause)}") from cause


def described(cause: BaseException) -> str:
    """`ValueError: text (FILE:LINE)`: the user's line, as `where` finds it."""
    text = "".join(traceback.format_exception_only(cause)).strip()
    return text + where([(f.filename, f.lineno or 0) for f in traceback.extract_tb(cause.__traceback__)])


def where(frames: Sequence[tuple[str, int]]) -> str:
    """` (FILE:LINE)` of the innermost frame that is neither fedkit's, a library's nor Python's own."""
    theirs = [
        (file, line)
        for file, line in frames
        if not _NOT_THEIRS.search(file) and not file.startswith(_NOT_THEIRS_EITHER)
    ]
    return f" ({theirs[-1][0]}:{theirs[-1][1]})" if theirs else ""


def returned_model(value: object, what: str) -> dict[str, Any]:
    """A copy of a whole model that nobody can change; ConfigError, naming the tensor, if it is none."""
    if not isinstance(value, Mapping):
        raise ConfigError(f"{what} returned {_kind(value)}, not a mapping from names to numpy arrays")
    for name, array in value.items():
        why = _odd_name(name) or _odd_array(array, DTYPES)
        if not why and array.dtype.kind == "f" and not np.isfinite(array).all():
            why = "holds values that are not finite"
        if why:
            raise ConfigError(f"{what} returned a model whose tensor {shown(name)} {why}")
    return dict(sealed({name: np.array(array) for name, array in value.items()}))


def returned_state(value: object, what: str, error: type[FedkitError] = RunFailed) -> State:
    """The same state, read-only; `error`, naming the group and tensor, unless a checkpoint can hold it."""
    why = odd_state(value)
    if why:
        raise error(f"{what} returned a state that cannot be kept: {why}")
    assert isinstance(value, Mapping)
    return {group: sealed(tensors) for group, tensors in value.items()}


def odd_state(value: object, dtypes: frozenset[str] = DTYPES) -> str:
    """What is wrong with it, if it is no mapping of mappings of numpy arrays; else an empty string."""
    if not isinstance(value, Mapping):
        return f"it is {_kind(value)}, not a mapping from names to mappings of arrays"
    for group, tensors in value.items():
        if why := _odd_name(group):
            return f"group {shown(group)} {why}"
        if not isinstance(tensors, Mapping):
            return f"group {group!r} is {_kind(tensors)}, not a mapping from names to arrays"
        for name, array in tensors.items():
            if why := _odd_name(name) or _odd_array(array, dtypes):
                return f"tensor {shown(name)} of group {group!r} {why}"
    return ""


def returned_metrics(value: object, what: str) -> dict[str, float]:
    """Metrics as plain floats, which need not be finite; RunFailed names the one that is none."""
    if not isinstance(value, Mapping):
        raise RunFailed(f"{what} returned {_kind(value)}, not a mapping from names to numbers")
    if why := odd_metrics(value):
        raise RunFailed(f"{what} returned metrics that cannot be kept: {why}")
    return {name: float(number) for name, number in value.items()}


def odd_metrics(value: Mapping[Any, Any]) -> str:
    """What is wrong with their number, a name or a value; else an empty string."""
    if len(value) > NAMES:
        return f"{len(value)} metrics, at most {NAMES} can be told"
    for name, number in value.items():
        if why := _odd_name(name, NAME_LENGTH):
            return f"the name of metric {shown(name)} {why}"
        try:
            float(number)
        except (TypeError, ValueError, OverflowError):
            return f"metric {name!r} is {shown(number)}, not a number"
    return ""


def returned_settings(value: object, what: str, error: type[FedkitError] = RunFailed) -> Settings:
    """Settings as plain scalars (numpy's are converted); `error` names the one that cannot travel."""
    if not isinstance(value, Mapping):
        raise error(f"{what} is {_kind(value)}, not a mapping from names to numbers or strings")
    made: dict[str, float | int | str | bool] = {}
    for name, given in value.items():
        plain = given.item() if isinstance(given, np.generic) else given
        if _odd_name(name) or not _travels(plain):
            raise error(
                f"{what}: setting {shown(name)} is {shown(given)}: only finite numbers, integers up to "
                "2^53, strings, true and false can travel, under names that are strings"
            )
        made[name] = plain
    return made


def _travels(value: object) -> bool:
    if isinstance(value, str):
        return not _unwritable(value)
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and abs(value) <= 2**53


def _odd_name(name: object, limit: int = 4096) -> str:
    if type(name) is not str:
        return f"is {_kind(name)}, not a plain string"
    if len(name) > limit:
        return f"has {len(name)} characters, at most {limit} are allowed"
    return "holds a lone surrogate, which is no text" if _unwritable(name) else ""


def _unwritable(text: str) -> bool:
    return not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text)


def _odd_array(array: object, dtypes: frozenset[str]) -> str:
    if not isinstance(array, np.ndarray | np.generic):
        return f"is {_kind(array)}, not a numpy array"
    if array.dtype.name not in dtypes:
        return f"has dtype {array.dtype.name}: floats, integers and booleans of up to 64 bits can be kept"
    return ""


def odd_client(client: object) -> str:
    """What is wrong with a client's id; else an empty string."""
    if why := _odd_name(client, MOST_ID_BYTES):
        return why
    assert isinstance(client, str)
    size = len(client.encode())
    return "" if 1 <= size <= MOST_ID_BYTES else f"has {size} bytes, 1 to {MOST_ID_BYTES} are allowed"


def _kind(value: object) -> str:
    """`a list`, `an int`, `None`."""
    name = type(value).__name__
    return "None" if value is None else f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
