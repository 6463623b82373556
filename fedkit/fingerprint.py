"""What must be as it was for a run to be continued; kept in its checkpoint."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence

from fedkit.errors import ConfigError, shown
from fedkit.federation import RoundPolicy
from fedkit.job import Job, identity
from fedkit.messages import ClientId
from fedkit.tensors import Tensors, digest
from fedkit.trainer import Workload
from fedkit.usercode import called

_MAY_CHANGE = ("max_failures",)


def fingerprint(
    job: Job, policy: RoundPolicy, workload: Workload, base: Tensors, clients: Sequence[ClientId]
) -> dict[str, str]:
    """Name -> value, or its digest. base: the whole initial model. clients: all that are registered; where
    they come one by one, the workload's attribute `enrolled_by` stands for their names.

    max_failures may change, and so may the number of rounds and what is evaluated when.
    """
    kind, fields = identity(job.strategy)
    ids, told = "\n".join(sorted(clients)).encode(), getattr(workload, "enrolled_by", "")
    rounds = {f"rounds.{k}": str(v) for k, v in vars(policy).items() if k not in _MAY_CHANGE}
    return {
        "strategy": f"{kind} {json.dumps(fields)}",
        "codec.up": job.codec_up.spec,
        "codec.down": job.codec_down.spec,
        "codec.feedback": str(job.feedback),
        "codec.down_base": job.down_base,
        "train": json.dumps(dict(sorted(job.settings.items()))),
        "seed": str(job.model_seed),
        "grid": str(dataclasses.astuple(job.grid)),
        "secagg": str(job.secagg),
        "the tensors that travel": job.layout.digest[:16],
        "the strategy's extras": job.extras.digest[:16],
        "the initial model": digest(base)[:16],
        "clients": f"{len(clients)} clients {told or hashlib.sha256(ids).hexdigest()[:16]}",
        **rounds,
        **_data(workload),
        "job": job.id,
    }


def differences(was: Mapping[str, str], now: Mapping[str, str]) -> str:
    """`seed was '0' and is '1'`, ..., in the order of `now`; empty if they are equal.

    The job's id follows from other parts, so it is named only where nothing else differs.
    """
    names = [name for name in {**now, **was} if was.get(name) != now.get(name)]
    told = [name for name in names if name != "job"] or names
    return ", ".join(
        f"{name} was {shown(was.get(name, 'unknown'))} and is {shown(now.get(name, 'unknown'))}"
        for name in told
    )


def _data(workload: Workload) -> dict[str, str]:
    """What the workload says of its data, if it does."""
    tell = getattr(workload, "fingerprint", None)
    if tell is None:
        return {}
    with called(f"workload {type(workload).__name__}.fingerprint", ConfigError):
        return {"the workload's fingerprint": str(tell())}
