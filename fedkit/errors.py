"""Every error that fedkit raises on purpose.

FedkitError
├── ConfigError          a scenario, an override, an argument: names file, line, key, nearest
│   ├── PluginError      a plugin is missing, doubled, or built for another API version
│   └── DataError        a data file is missing or is not what it should be
├── LayoutError          tensors do not have the names, shapes or dtypes agreed at join
├── UpdateRefused        the server refuses one client's update; the round goes on
├── ClientFailed         a client cannot do its task, for a reason that may be told
├── WireError            bytes that are not a message
├── CryptoError          a key, a share or a box that does not hold
├── ProtocolRefused      a client refuses what the server asks of it in a secure session
├── PeerRefused          the server refuses a client's message in a secure session; the session goes on
├── SecAggAborted        a secure session that cannot go on; its keys are gone
├── CheckpointError      a run folder that cannot be continued
├── RunFailed            the run stopped: too many failed rounds, or every client failed
└── ConformanceError     a plugin breaks a law of its kind
"""

from __future__ import annotations

from collections.abc import Iterable


class FedkitError(Exception):
    """Base of all errors that fedkit raises on purpose."""


class ConfigError(FedkitError):
    """A setting that cannot be used; the message says what, where and how to mend it."""


class PluginError(ConfigError):
    """A plugin that is missing, registered twice, or built for another API version."""


class DataError(ConfigError):
    """A data file that is missing or malformed; the message says where it was looked for."""


class LayoutError(FedkitError):
    """Tensors that do not fit the layout. `subject` is the tensor's name."""

    def __init__(self, subject: str, reason: str) -> None:
        super().__init__(f"tensor {subject!r}: {reason}")
        self.subject = subject
        self.reason = reason


class UpdateRefused(FedkitError):
    """The update of `client` is refused because of `subject` (a tensor, a metric, the weight)."""

    def __init__(self, client: str, subject: str, reason: str) -> None:
        super().__init__(f"update of client {client!r} refused: {subject!r} {reason}")
        self.client = client
        self.subject = subject
        self.reason = reason


class ClientFailed(FedkitError):
    """Raised inside a client: `code` and `subject` may leave the device, the text does not."""

    def __init__(self, code: str, subject: str, reason: str) -> None:
        super().__init__(f"{code}: {subject!r} {reason}")
        self.code = code
        self.subject = subject


class WireError(FedkitError):
    """Bytes that are not a well-formed message."""


class CryptoError(FedkitError):
    """A key, a share or a sealed box from elsewhere that does not hold."""


class ProtocolRefused(FedkitError):
    """The server asked a client for what would endanger it; `rule` is a short word for the rule broken."""

    def __init__(self, rule: str, reason: str) -> None:
        super().__init__(f"the client refuses ({rule}): {reason}")
        self.rule = rule


class PeerRefused(FedkitError):
    """A message of `client` breaks `rule` and is dropped; the session is as it was."""

    def __init__(self, client: str, rule: str, reason: str) -> None:
        super().__init__(f"message of client {client!r} refused ({rule}): {reason}")
        self.client = client
        self.rule = rule


class SecAggAborted(FedkitError):
    """A secure session without a result. retry: whether another session of the round is safe."""

    def __init__(self, reason: str, retry: bool) -> None:
        super().__init__(f"secure aggregation aborted: {reason}")
        self.reason = reason
        self.retry = retry


class CheckpointError(FedkitError):
    """A run folder whose checkpoint cannot be read or continued."""


class RunFailed(FedkitError):
    """The run stopped before its last round; the message gives the first cause."""


class ConformanceError(FedkitError):
    """A plugin breaks a law; `law` names it."""

    def __init__(self, law: str, reason: str) -> None:
        super().__init__(f"{law}: {reason}")
        self.law = law


def shown(value: object, width: int = 80) -> str:
    """`repr` of a value that came from outside, shortened for a message.

    >>> shown("a"), shown(10**5000), shown("ab" * 50, 12)
    ("'a'", 'an integer of 16610 bits', "'abab...bab'")
    """
    if isinstance(value, int) and value.bit_length() > 4 * width:
        return f"an integer of {value.bit_length()} bits"
    try:
        text = repr(value)
    except ValueError:  # a list that holds an integer of thousands of digits
        return f"a {type(value).__name__} of enormous numbers"
    head = (width - 2) // 2
    return text if len(text) <= width else f"{text[:head]}...{text[head + 3 - width :]}"


def many(count: int, noun: str) -> str:
    """A number with its noun.

    >>> many(1, "client"), many(0, "client"), many(12, "sum")
    ('1 client', '0 clients', '12 sums')
    """
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for an unknown name: `did you mean 'x'?` or the list of what is known.

    >>> nearest("fedavgg", ["fedavg", "fedprox"])
    "did you mean 'fedavg'?"
    >>> nearest("ECSQ", ["ecsq", "eden"])
    "did you mean 'ecsq'?"
    """
    from difflib import get_close_matches  # takes memory, and few programs make a mistake

    names = sorted(known)
    lowered = {known.lower(): known for known in reversed(names)}
    close = get_close_matches(name.lower(), lowered, n=1, cutoff=0.6)
    if close:
        return f"did you mean {lowered[close[0]]!r}?"
    return f"known: {', '.join(names)}" if names else "none is known"
