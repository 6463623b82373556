"""Error feedback: nothing that was counted is lost, whatever becomes of the other updates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedkit import plugins
from fedkit.aggregate import Grid
from fedkit.clientstore import MemoryStore
from fedkit.codecs import Codec, CodecContext
from fedkit.dressing import codec_context, undress
from fedkit.federation import Verdict
from fedkit.feedback import CAP, ROOM, STALE, STREAM, compensated, remainder, within
from fedkit.job import Job
from fedkit.messages import EncodedUpdate, Failure, Key, Metrics, Pass, Task, Trained
from fedkit.participant import Answer, Participant
from fedkit.seeds import stream
from fedkit.tensors import Flat, Layout, Tensors, norm
from fedkit.trainer import Correct
from fedkit_strategies import FedAvg

LAYOUT = Layout(("w", "b"), ((60, 20), (20,)), ("float32", "float32"))
ZERO = LAYOUT.view(np.zeros(LAYOUT.size, np.float32))
BIASED = [
    "topk:share=0.05|int8",
    "sign",
    "stc:share=0.05",
    "ecsq:delta=2,mode=near",
    "eden:scale=min",
    "powersgd",
]


def delta_of(seed: int) -> Flat:
    """What a client wants to send in the round with this seed."""
    return LAYOUT.view((0.01 * stream(seed).normal(LAYOUT.size) ** 3).astype(np.float32))


@dataclass
class Noisy:
    """Its delta follows from the task's seed alone."""

    examples = 3

    def train(self, pass_: Pass, task: Task, correct: Correct | None) -> Trained:
        return Trained(delta_of(task.seed), 1, 3.0, {})

    def evaluate(self, model: Tensors) -> tuple[Metrics, int]:
        return {}, 3


class Work:
    def init(self, seed: int) -> Tensors:
        return ZERO

    def clients(self) -> Sequence[str]:
        return ["ann"]

    def trainer(self, client: str) -> Noisy:
        return Noisy()

    def evaluate(self, model: Tensors) -> Metrics:
        return {}


class Device:
    """One client with error feedback."""

    def __init__(self, spec: str, grid: Grid | None = None) -> None:
        codecs = plugins.codec(spec), plugins.codec("none")
        grid = grid if grid is not None else Grid()
        self.job = Job(FedAvg(), *codecs, LAYOUT, Layout((), (), ()), grid, {}, 0, True)
        self.store = MemoryStore()
        self.participant = Participant(self.job, Work(), self.store)

    def key(self, round: int) -> Key:
        return Key(self.job.id, round, "train", "", 0, "ann")

    def ask(self, round: int) -> Answer:
        task = Task(self.key(round), 1, ZERO, {}, {}, round, 1.0, 9.0, "", 9.0)
        (reply,) = self.participant.handle(task)
        return reply

    def sent(self, round: int) -> NDArray[np.float32]:
        """What the server decodes of the round's update."""
        reply = self.ask(round)
        assert isinstance(reply, EncodedUpdate), reply
        return LAYOUT.flatten(undress(self.job, reply, codec_context(self.job, round, round)).delta)

    @property
    def residual(self) -> NDArray[np.float32]:
        memory = self.store.get("ann", STREAM)
        return LAYOUT.flatten(memory["residual"]) if memory else ZERO.vector


@pytest.mark.parametrize("spec", BIASED)
@settings(max_examples=10, deadline=None)
@given(verdicts=st.lists(st.sampled_from(list(Verdict)), min_size=1, max_size=12))
def test_what_was_counted_and_the_residual_are_what_was_wanted(spec: str, verdicts: list[Verdict]) -> None:
    device = Device(spec)
    counted, wanted = np.zeros(LAYOUT.size), np.zeros(LAYOUT.size)
    for round, verdict in enumerate(verdicts):
        sent = device.sent(round)
        device.participant.settle(device.key(round), verdict)
        device.participant.settle(device.key(round), verdict)  # verdicts may be told twice
        if verdict is Verdict.counted:
            counted += sent
            wanted += delta_of(round).vector
    assert np.abs(counted + device.residual - wanted).max() <= 1e-5
    assert (norm(LAYOUT.view(device.residual)) > 0) == (Verdict.counted in verdicts)


def test_a_second_verdict_does_not_undo_the_first() -> None:
    device = Device("sign")
    device.sent(0)
    device.participant.settle(device.key(0), Verdict.counted)
    kept = device.residual.copy()
    device.participant.settle(device.key(0), Verdict.lost)
    assert device.residual.tobytes() == kept.tobytes()


def test_nothing_is_committed_before_the_verdict() -> None:
    device = Device("sign")
    first = device.sent(0)
    assert not device.residual.any()
    assert device.sent(0).tobytes() == first.tobytes()  # asked again, it has nothing to add
    device.participant.settle(device.key(0), Verdict.late)
    assert not device.residual.any()


def test_a_late_update_that_is_counted_after_all_commits_its_residual() -> None:
    device = Device("stc")
    sent = device.sent(0)
    device.participant.restore(dict(device.participant.pending()))  # the round closed without a verdict
    device.participant.settle(device.key(0), Verdict.counted)
    assert np.abs(sent + device.residual - delta_of(0).vector).max() <= 1e-6


def test_without_feedback_nothing_is_kept() -> None:
    device = Device("sign")
    device.participant = Participant(replace(device.job, feedback=False), Work(), device.store)
    device.sent(0)
    device.participant.settle(device.key(0), Verdict.counted)
    assert device.store.get("ann", STREAM) == {}


def test_a_stale_residual_is_dropped() -> None:
    memory = remainder(delta_of(1), ZERO, delta_of(1), 4)
    assert norm(compensated(ZERO, memory, 4 + STALE)) == norm(delta_of(1))
    assert compensated(ZERO, memory, 5 + STALE) is ZERO
    assert compensated(ZERO, {}, 0) is ZERO


@given(st.floats(1e-3, 1e6))
def test_the_residual_is_at_most_so_many_deltas_long(size: float) -> None:
    wanted = LAYOUT.view((delta_of(1).vector * np.float32(size)).astype(np.float32))
    left = remainder(wanted, ZERO, delta_of(1), 0)["residual"]
    most = CAP * norm(delta_of(1))
    assert norm(left) <= most * (1 + 1e-6)
    if norm(wanted) <= most:
        assert LAYOUT.flatten(left).tobytes() == wanted.vector.tobytes()


def test_a_client_that_had_nothing_to_add_keeps_its_residual() -> None:
    before = remainder(delta_of(1), ZERO, delta_of(1), 0)
    wanted = compensated(ZERO, before, 1)
    after = remainder(wanted, ZERO, ZERO, 1)["residual"]
    assert LAYOUT.flatten(after).tobytes() == delta_of(1).vector.tobytes()


def test_a_round_that_was_counted_is_not_done_again() -> None:
    """A task that comes twice, the second time after the verdict, would move the residual on again."""
    device = Device("sign")
    for round in (3, 5):
        device.sent(round)
        device.participant.settle(device.key(round), Verdict.counted)
    kept = device.residual.tobytes()
    for round in (5, 4, 3):
        reply = device.ask(round)
        assert isinstance(reply, Failure)
        assert (reply.code, reply.subject) == ("round", "residual")
        device.participant.settle(device.key(round), Verdict.counted)
    assert device.residual.tobytes() == kept
    assert device.sent(6).any()


def test_the_residual_of_an_older_round_does_not_replace_a_newer_one() -> None:
    device = Device("sign")
    device.sent(1)
    device.sent(2)
    device.participant.settle(device.key(2), Verdict.counted)
    kept = device.residual.tobytes()
    device.participant.settle(device.key(1), Verdict.counted)
    assert device.residual.tobytes() == kept


def test_what_was_left_out_takes_no_update_beyond_the_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of equal entries most wait: with what they waited for they are too much, and would be for ever."""
    ones = LAYOUT.view(np.ones(LAYOUT.size, np.float32))
    monkeypatch.setattr(Noisy, "train", lambda self, pass_, task, correct: Trained(ones, 1, 3.0, {}))
    device, counted = Device("topk:share=0.05|bfloat16", Grid(max_delta=2.0)), np.zeros(LAYOUT.size)
    largest = 0.0
    for round in range(10):
        sent = device.sent(round)
        largest = max(largest, float(np.abs(sent).max()))
        counted += sent
        device.participant.settle(device.key(round), Verdict.counted)
        assert np.abs(counted + device.residual - (round + 1)).max() <= 1e-4  # nothing is lost
    assert 1.7 < largest <= 2.0


@given(st.integers(0, 99), st.floats(0.1, 300.0), st.sampled_from([0.5, 1.0, 7.0, 256.0]))
def test_what_is_sent_is_within_the_limit_and_as_much_as_fits(seed: int, times: float, limit: float) -> None:
    delta = LAYOUT.view(np.clip(delta_of(seed).vector, -limit, limit).astype(np.float32))
    wanted = LAYOUT.view((delta.vector + np.float32(times) * delta_of(seed + 1).vector).astype(np.float32))
    sent = LAYOUT.flatten(within(delta, wanted, limit))
    most = max(ROOM * limit, float(np.abs(delta.vector).max()))
    assert float(np.abs(sent).max()) <= limit
    fits = np.abs(wanted.vector) <= most
    assert (sent[fits] == wanted.vector[fits]).all()
    assert np.abs(sent[~fits]) == pytest.approx(most)


@dataclass(frozen=True)
class Doubling(Codec):
    """What comes out is twice what went in."""

    id: ClassVar[str] = "doubling"
    unbiased: ClassVar[bool] = False

    def encode(self, delta: Tensors, layout: Layout, ctx: CodecContext) -> bytes:
        return layout.flatten(delta).tobytes()

    def decode(self, payload: bytes, layout: Layout, ctx: CodecContext) -> Tensors:
        return layout.view(2 * np.frombuffer(payload, np.float32))

    def max_len(self, layout: Layout) -> int:
        return layout.nbytes


def test_a_codec_that_overshoots_the_grid_is_named_by_the_client() -> None:
    device = Device("sign", Grid(max_delta=float(np.abs(delta_of(0).vector).max())))
    device.job = replace(device.job, codec_up=Doubling())
    for fed_back in (True, False):
        device.participant = Participant(replace(device.job, feedback=fed_back), Work(), MemoryStore())
        reply = device.ask(0)
        assert isinstance(reply, Failure)
        assert reply.code == "diverged"
        assert "as codec 'doubling' decodes it: raise aggregate.max_delta" in reply.detail
