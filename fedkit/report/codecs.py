"""What a run decided about its codecs, in words."""

from __future__ import annotations

import re
from collections.abc import Mapping

_USUAL = r"^tensors/1:small=bfloat16,below=1024,exempt=\||[:,]small=bfloat16,below=1024,exempt=$"


def codec_facts(told: Mapping[str, object]) -> list[str]:
    """One text for each direction that has a codec, from the `codec` of summary.json.

    >>> codec_facts({"up": "none/1", "down": "none/1"})
    []
    >>> codec_facts({"up": "sign/1:block=4096", "down": "none/1", "feedback": True})
    ['up: sign:block=4096, with error feedback']
    """
    facts = []
    for way, note in (("up", _up(told)), ("down", _down(told))):
        spec = told.get(way)
        if isinstance(spec, str) and spec != "none/1":
            facts.append(f"{way}: {short(spec)}{note}")
    return facts


def short(spec: str) -> str:
    """A whole spec without versions and the usual rules for small tensors.

    >>> short("tensors/1:small=bfloat16,below=1024,exempt=|ecsq/1:delta=4,mode=stoch,block=4096")
    'ecsq:delta=4,mode=stoch,block=4096'
    >>> short("powersgd/1:rank=2,small=bfloat16,below=1024,exempt="), short("rotate/1|eden/1:bits=1")
    ('powersgd:rank=2', 'rotate|eden:bits=1')
    """
    return re.sub(r"(^|\|)([\w-]+)/\d+", r"\1\2", re.sub(_USUAL, "", spec))


def _up(told: Mapping[str, object]) -> str:
    rungs = told.get("rungs")
    if isinstance(rungs, Mapping) and rungs:
        return ", " + ", ".join(f"{count} × {rung}" for rung, count in rungs.items())
    return ", with error feedback" if told.get("feedback") is True else ""


def _down(told: Mapping[str, object]) -> str:
    base = told.get("down_base")
    return f", differences to the {base} version" if base in ("first", "last") else ""
