"""The laws of a strategy's client half: begin, correct, finish."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import TypeAlias

import numpy as np

from fedkit.conformance.laws import Broken, demand, demand_layout, demand_state, restored, same, snapshot
from fedkit.conformance.rehearsal import CLIENTS, Case
from fedkit.errors import UpdateRefused
from fedkit.messages import Pass, Update
from fedkit.tensors import Array, Memory

Law: TypeAlias = Callable[[Case], None]


def _client_pure(case: Case) -> None:
    game = case.rehearse(1)
    for client in CLIENTS:
        given = snapshot((game.model, game.state, game.memory))
        before = snapshot(case.strategy)
        first = snapshot(_plain(game.client(client, 1)))
        demand(
            same(first, _plain(game.client(client, 1))), "the same task gives another update the second time"
        )
        demand(
            same(given, (game.model, game.state, game.memory)), "begin or finish changed the task or memory"
        )
        demand(before == case.strategy, "begin or finish changed the strategy's own fields")


def _plain(made: tuple[Update, Memory]) -> tuple[object, ...]:
    update, memory = made
    return (*(getattr(update, one.name) for one in dataclasses.fields(update)), memory)


def _passes(case: Case) -> None:
    for rounds in (0, 1):
        game = case.rehearse(rounds)
        passes = case.strategy.begin(game.task("a", rounds), game.memory["a"])
        demand(len(passes) >= 1, "`begin` makes no pass")
        for one in passes:
            demand_layout(one.anchor, game.layout, "the anchor of a pass")
            start = {name: one.start[name] for name in game.layout.names if name in one.start}
            demand_layout(start, game.layout, "the start of a pass")
            for name, tensors in one.extra.items():
                demand_layout(tensors, game.layout, f"extra {name!r} of a pass")


def _accepted(case: Case) -> None:
    game = case.rehearse()
    for round in range(2):
        for client, update in game.updates(round):
            demand(0 < update.work <= 1, f"work is {update.work}, not in (0, 1]")
            try:
                game.zero().add(client, update)
            except UpdateRefused as error:
                raise Broken(f"round {round}: {error}") from error


def _memory(case: Case) -> None:
    game, twin = case.rehearse(2), case.rehearse(2)
    for client in CLIENTS:
        demand_state(game.memory[client], "memory")
        twin.memory[client] = restored(game.memory[client])
        demand(same(game.memory[client], twin.memory[client]), "memory is not the same after a checkpoint")
        first, second = game.client(client, 2), twin.client(client, 2)
        demand(same(_plain(first), _plain(second)), "memory read back from disk gives another update")


def _pass_of(case: Case) -> tuple[Pass, dict[str, np.ndarray]]:
    game = case.rehearse(2)
    one = case.strategy.begin(game.task("b", 2), game.memory["b"])[0]
    return one, {name: game.noise(array.shape, "grad", name) for name, array in one.anchor.items()}


def _corrected(case: Case, change: Callable[[Array], Array]) -> dict[str, Array]:
    """correct(...) for every tensor, its arguments changed alike by `change`."""
    one, grads = _pass_of(case)
    made = {}
    for name, grad in grads.items():
        extra = {e: change(np.array(tensors[name])) for e, tensors in one.extra.items()}
        weight = change(np.array(one.start[name]) + 0.25 * grad)
        made[name] = case.strategy.correct(change(grad), weight, change(np.array(one.anchor[name])), extra)
    return made


def _correct_keeps(case: Case) -> None:
    one, grads = _pass_of(case)
    for name, grad in grads.items():
        extra = {e: np.array(tensors[name]) for e, tensors in one.extra.items()}
        arguments = (grad, np.array(one.start[name] + 0.25 * grad), np.array(one.anchor[name]), extra)
        given = snapshot(arguments)
        made = case.strategy.correct(*arguments)
        same_kind = np.shape(made) == grad.shape and np.asarray(made).dtype == grad.dtype
        demand(
            same_kind, f"`correct` turns a {grad.dtype.name} gradient of shape {grad.shape} into another kind"
        )
        demand(same(given, arguments), "`correct` changed its arguments")


def _correct_elementwise(case: Case) -> None:
    plain = _corrected(case, lambda a: a)
    backwards = _corrected(case, lambda a: a.reshape(-1)[::-1].copy())
    stacked = _corrected(case, lambda a: np.stack([a, a + a.dtype.type(1), a]))
    for name, array in plain.items():
        demand(
            same(np.asarray(array).reshape(-1)[::-1].copy(), np.asarray(backwards[name])),
            f"`correct` is not elementwise: permuting the entries of {name!r} changes their values",
        )
        demand(
            same(np.asarray(array), np.asarray(stacked[name])[2]),
            f"`correct` is not elementwise: clients stacked along a first axis change {name!r}",
        )


def _correct_torch(case: Case) -> None:
    if find_spec("torch") is None:
        return
    import torch

    plain = _corrected(case, lambda a: a)
    tensors = _corrected(case, lambda a: torch.from_numpy(np.array(a)))
    for name, array in plain.items():
        demand(
            isinstance(tensors[name], torch.Tensor),
            "`correct` does not return a torch tensor for torch tensors",
        )
        demand(
            np.allclose(tensors[name].numpy(), array, rtol=1e-6, atol=1e-7),
            f"`correct` gives another value with torch than with numpy for {name!r}",
        )


CLIENT_LAWS: Mapping[str, Law] = {
    "passes start from the task's layout": _passes,
    "begin and finish are pure": _client_pure,
    "updates are accepted by the sum": _accepted,
    "memory survives a checkpoint": _memory,
    "correct keeps shape, dtype and arguments": _correct_keeps,
    "correct is elementwise": _correct_elementwise,
    "correct takes torch tensors too": _correct_torch,
}
