"""What secure aggregation demands of a run: proven before its first round, by an error with a way out."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Collection
from dataclasses import replace

from fedkit.codecs import Codec, CodecContext
from fedkit.codecs.none import Plain
from fedkit.codecs.ring import RingCodec
from fedkit.codecs.ring_rotq import RingRotQ
from fedkit.errors import ConfigError, nearest, shown
from fedkit.federation import Federation, RoundPolicy, server_trust
from fedkit.job import Job
from fedkit.planning import most_counted, most_invited
from fedkit.secagg.parameters import SMALLEST, Mode, Parameters, Policy, assess, choose
from fedkit.secagg.settings import SecAgg
from fedkit.securesum import encoding_of
from fedkit.trainer import Workload
from fedkit.usercode import odd_metrics

NOISE = 0.025
"""What `auto` lets the ring's noise be in a mean of the cohort, as a share of its square norm."""


def check_secagg(value: object) -> SecAgg | None:
    """The settings, those of a mode by its name, or None for "off"."""
    if isinstance(value, str):
        modes = [str(mode) for mode in Mode]
        if value == "off":
            return None
        if value not in modes:
            raise ConfigError(f"secagg = {shown(value)}: {nearest(value, ['off', *modes])}")
        return SecAgg(Policy(mode=Mode(value)))
    if not isinstance(value, SecAgg):
        raise ConfigError(f"secagg = {shown(value)}: give a SecAgg(...), or 'off' or the name of a mode")
    return value


def settled(secagg: SecAgg | None, policy: RoundPolicy, clients: int) -> SecAgg | None:
    """The settings with n_min chosen for such rounds, where it is left open. clients: all registered ones."""
    if secagg is None:
        return None
    wanted, invited = most_counted(policy, clients), most_invited(policy, clients)
    return replace(secagg, policy=secagg.policy.settled(invited, wanted))


def metric_names(workload: Workload) -> tuple[str, ...]:
    """The metrics of the workload's clients that secure sums have room for: its `metric_names`."""
    given: object = getattr(workload, "metric_names", ("loss", "accuracy"))
    if not isinstance(given, Collection) or isinstance(given, str | bytes):
        raise ConfigError(f"the workload's metric_names is {shown(given)}: give a list, as in ['loss']")
    names = tuple(given)
    try:
        why = odd_metrics(dict.fromkeys(names, 0.0))
    except TypeError:
        why = "they are not all strings"
    if why or len(set(names)) < len(names):
        raise ConfigError(f"the workload's metric_names: {why or 'a name comes twice'}")
    return names


def fitting_codec(codec: Codec | str, clients: int) -> Codec | str:
    """`auto` as the narrowest ring-rotq that is good enough for sums of `clients`; other codecs as given."""
    if not isinstance(codec, str) or codec.strip() != "auto":
        return codec
    width = next(w for w in range(4, 17) if w == 16 or _noise(w, clients) <= NOISE)
    return RingRotQ(64 // (64 // width))  # as many bits as so many lanes leave each other


def _noise(width: int, clients: int) -> float:
    try:
        return RingRotQ(width).nmse(clients)
    except ConfigError:
        return math.inf


def demand_secure(job: Job, policy: RoundPolicy, clients: int) -> None:
    """ConfigError, naming the key, unless this job can be summed securely in such rounds.

    clients: how many are registered.
    """
    if job.secagg is None:
        return
    mode, strategy = job.secagg.policy.mode, type(job.strategy).__name__
    if job.strategy.needs_each_update:
        raise ConfigError(
            f"strategy.name: {strategy} needs each update by itself, and with secagg.mode = '{mode}' the "
            "server sees their sum alone: take another strategy, or secagg.mode = 'off'"
        )
    if not isinstance(job.codec_up, Plain | RingCodec):
        raise ConfigError(
            f"codec.up = {job.codec_up.id!r} cannot be added under secure aggregation: use 'ring-rotq' "
            "('auto' picks its width), 'ring-srht' or 'none'"
        )
    if job.feedback:
        raise ConfigError(
            "codec.feedback = 'on': what a codec leaves out cannot be carried over in secure rounds, and the "
            "codecs that add up there need no feedback: set it to 'off'"
        )
    if policy.late == "carry":
        raise ConfigError(
            "rounds.late = 'carry' cannot be combined with secure aggregation: an update is masked for the "
            "sum of its own round alone; use 'drop'"
        )
    _demand_room(job)
    _demand_cohort(job.secagg, policy, clients)


def demand_reach(secagg: SecAgg, federation: Federation) -> None:
    """ConfigError unless the federation has what the settings take: identities, and witnesses to verify."""
    kind = type(federation).__name__
    if secagg.policy.mode is Mode.LYING_SERVER and server_trust(federation) is None:
        raise ConfigError(
            f"secagg.mode = 'lying_server' takes clients with identities, and this {kind} has none, so a "
            "server could play all of them: give it identities (docs/threat-model.md), or trust the server "
            "to follow the protocol, secagg.mode = 'honest_server'"
        )
    if secagg.verify and not callable(getattr(federation, "witness", None)):
        raise ConfigError(
            f"secagg.verify = true compares with the plain sum, which nobody has in this {kind}: "
            "only a simulation can; set it to false"
        )


def _demand_room(job: Job) -> None:
    """The lanes hold the largest sum of a cohort, with a known scale and without."""
    for scale in (0.0, 1.0):
        encoding_of(job, "train", 0, scale)
        if isinstance(job.codec_up, RingCodec):
            job.codec_up.ruler(CodecContext(scale=scale, clients=job.cohort))
    encoding_of(job, "evaluate", 0, 0.0)


def _demand_cohort(secagg: SecAgg, policy: RoundPolicy, clients: int) -> None:
    """The rounds are large enough to hide a client, and keep enough clients to be finished."""
    want, invited = most_counted(policy, clients), most_invited(policy, clients)
    smallest = secagg.policy.least
    if want < SMALLEST:
        raise ConfigError(
            f"rounds.cohort: sums of {want} clients hide nobody: ask at least {SMALLEST} clients in a round"
        )
    if want < smallest:
        raise ConfigError(
            f"secagg.n_min = {smallest}: rounds end with {want} clients: set it to {want} or less, or ask "
            "more clients in a round (rounds.cohort)"
        )
    try:
        if not secagg.explicit:  # n_min alone would let fewer be lost than `dropout` says
            choose(invited, replace(secagg.policy, smallest=0))
        found, _ = (secagg.parameters(n) for n in (invited, max(secagg.policy.alive_of(invited), smallest)))
    except ConfigError as error:
        raise ConfigError(f"{_to_blame(secagg)}: {error}") from error
    if secagg.explicit and not found.meets(secagg.policy):
        raise ConfigError(
            f"secagg.threshold = {found.threshold}: some of {invited} clients would keep fewer of their "
            f"{found.neighbours} neighbours if secagg.dropout = {secagg.policy.dropout:g} are lost: set it "
            "lower, or leave it and secagg.neighbours at 0, and they are chosen"
        )
    _demand_company(secagg.policy, invited, want)
    if want < (needed := _staying(found, secagg.policy)):
        raise ConfigError(_too_few_stay(secagg, policy, (want, invited, needed)))


def _demand_company(policy: Policy, invited: int, want: int) -> None:
    """Two clients that are not corrupt are in the smallest sum, or nobody hides behind another one."""
    corrupt, least = policy.corrupt_of(invited), policy.least
    if not policy.smallest or least - corrupt >= 2:
        return
    ways = [f"set secagg.n_min to {corrupt + 2} or more"] if corrupt + 2 <= want else []
    raise ConfigError(
        f"secagg.corrupt = {policy.corrupt:g}: {corrupt} of {invited} clients may be corrupt, so a sum of "
        f"{least} (secagg.n_min) could have one honest client, whose update the others would see: "
        + ", or ".join([*ways, "expect fewer of them to be corrupt"])
    )


def _too_few_stay(secagg: SecAgg, policy: RoundPolicy, counts: tuple[int, int, int]) -> str:
    """What to say where rounds end with fewer clients than are needed. counts: wanted, invited, needed."""
    want, invited, needed = counts
    ends = f"a round ends with {want} of {invited} invited clients, and {needed} must stay for its sum to be"
    if secagg.explicit:
        k, t = secagg.explicit
        return (
            f"secagg.threshold = {t} with secagg.neighbours = {k}: {ends} unmasked: leave both at 0, and "
            f"they are chosen, or set rounds.over_select = {policy.over_select:g} lower"
        )
    way = _dropout_for(secagg, want, invited)
    return f"rounds.over_select = {policy.over_select:g}: {ends} unmasked: set it lower{way}"


def _to_blame(secagg: SecAgg) -> str:
    """The setting without which there would be parameters."""
    if secagg.explicit:
        return f"secagg.threshold = {secagg.explicit[1]}"
    key = "corrupt" if secagg.policy.corrupt > secagg.policy.dropout else "dropout"
    return f"secagg.{key} = {getattr(secagg.policy, key):g}"


def _staying(found: Parameters, policy: Policy) -> int:
    """How many of those invited must stay for the sum to be unmasked as surely as the policy asks."""
    n, k, t = found.clients, found.neighbours, found.threshold

    def enough(alive: int) -> bool:
        return assess(n, k, t, replace(policy, dropout=1 - alive / n)).meets(policy)

    return t if found.complete else bisect_left(range(n), True, lo=t, key=enough)


def _dropout_for(secagg: SecAgg, want: int, invited: int) -> str:
    """The other way out, where it is one: to allow as many losses as there will be."""
    share = math.ceil(100 * (1 - want / invited)) / 100
    policy = replace(secagg.policy, dropout=share)
    try:
        enough = _staying(replace(secagg, policy=policy).parameters(invited), policy) <= want
    except ConfigError:
        enough = False
    return f", or secagg.dropout to {share:g}" if enough else ""
