"""`fedkit secagg`: what secure aggregation takes before anybody runs it."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from fedkit.cli.output import Format, FormatOption, echo_json, echo_table
from fedkit.secagg.parameters import Mode

if TYPE_CHECKING:
    from fedkit.secagg.estimate import Cost
    from fedkit.secagg.parameters import Parameters, Policy

app = typer.Typer(no_args_is_help=True, help="Plan secure aggregation.")

RARE = 0.01
"""Rounds that abort more often than this are worth a hint."""


@app.callback()
def _group() -> None:
    """Plan secure aggregation."""


@app.command()
def plan(
    clients: Annotated[int, typer.Option(help="Clients that take part in a round.")],
    dropout: Annotated[float, typer.Option(help="Share of them that may be lost in a round.")] = 0.1,
    corrupt: Annotated[float, typer.Option(help="Share of them that may work with the server.")] = 0.05,
    size: Annotated[int, typer.Option(help="Numbers in an update.")] = 1_000_000,
    width: Annotated[int, typer.Option(help="Bits of each number on the wire.")] = 32,
    mode: Annotated[Mode, typer.Option(help="Whom it protects against.")] = Mode.LYING_SERVER,
    sigma: Annotated[int, typer.Option(help="Secrecy fails with at most 2^-sigma.")] = 40,
    output: FormatOption = Format.text,
) -> None:
    """Show the graph, the threshold, how likely they fail, and what a round costs."""
    from fedkit.secagg.estimate import aborted, cost
    from fedkit.secagg.parameters import Policy, choose

    policy = Policy(corrupt, dropout, sigma, mode)
    chosen = choose(clients, policy)
    price = cost(chosen, size, width, dropout)
    aborts = aborted(chosen, dropout, policy.least)
    notes = list(_notes(chosen, policy, aborts))
    if output is Format.json:
        echo_json(_plain(chosen, policy, price, aborts, notes))
        return
    rows = [*_graph_rows(chosen, policy), *_failure_rows(chosen, policy, aborts), *_cost_rows(price)]
    echo_table([{"what": what, "value": value, "meaning": meaning} for what, value, meaning in rows])
    for note in notes:
        typer.echo(f"\n{note}")


def _graph_rows(chosen: Parameters, policy: Policy) -> list[tuple[str, str, str]]:
    k, t, n = chosen.neighbours, chosen.threshold, chosen.clients
    if chosen.complete:
        graph, may = "the complete graph", f"{n - max(t, policy.least)} of {n} clients may be lost"
    else:
        graph = f"{k // 2} random Hamiltonian cycles, no edge twice"
        may = f"{k - t} neighbours of each client may be lost"
    return [
        ("neighbours k", str(k), graph),
        ("threshold t", f"{t} of {chosen.holders}", f"shares that rebuild a secret; {may}"),
        ("colluders c", str(chosen.colluding), "corrupt neighbours that a client's secrecy stands"),
    ]


def _failure_rows(chosen: Parameters, policy: Policy, aborts: float) -> list[tuple[str, str, str]]:
    corrupt, lost = policy.corrupt_of(chosen.clients), chosen.clients - policy.alive_of(chosen.clients)
    given = f"with {corrupt} corrupt and {lost} lost of {chosen.clients}"
    bound = "" if chosen.complete else "at most "
    return [
        ("P disconnected", _power(chosen.disconnected), f"parts of the sum show, {given}"),
        ("P privacy", _power(chosen.privacy), f"somebody's vector shows, {given}"),
        ("P correctness", _power(chosen.correctness), f"the round aborts, with {lost} lost"),
        (
            "aborted rounds",
            f"{bound}{aborts:.2g}" if aborts < RARE else f"{bound}{aborts:.1%}",
            f"if each client is lost by itself with probability {policy.dropout:g}",
        ),
    ]


def _cost_rows(price: Cost) -> list[tuple[str, str, str]]:
    return [
        (
            "sent by a client",
            _bytes(price.up),
            f"{price.overhead:.3f} times the vector of {_bytes(price.vector)}",
        ),
        ("received by a client", _bytes(price.down), "beside the model"),
        ("client CPU", f"{price.client_seconds * 1e3:.1f} ms", "on one core with AES instructions"),
        ("server CPU", f"{price.server_seconds:.2g} s", "on one core with AES instructions"),
    ]


def _notes(chosen: Parameters, policy: Policy, aborts: float) -> list[str]:
    """What the figures do not say by themselves."""
    notes = []
    if policy.mode is Mode.HONEST_SERVER:
        notes.append("honest_server: a server that tells clients different things can learn their vectors.")
    if chosen.colluding == 0:
        notes.append("c = 0: a single client that works with the server can undo the secrecy of another.")
    if aborts > RARE:
        notes.append(_more_clients(chosen, policy, aborts))
    return notes


def _more_clients(chosen: Parameters, policy: Policy, aborts: float) -> str:
    from fedkit.secagg.estimate import aborted
    from fedkit.secagg.parameters import COMPLETE_UP_TO, choose

    said = f"{aborts:.1%} of rounds would abort: over-select."
    for n in range(chosen.clients + 1, COMPLETE_UP_TO + 1):
        share = aborted(choose(n, policy), policy.dropout, policy.least)
        if share <= RARE:
            return f"{said} With {n} clients it would be {share:.1%}."
    return f"{said} Clients that are lost less often, or fewer that may collude, would help."


def _power(bits: float) -> str:
    """A probability that is kept as its log2."""
    return "0" if bits == float("-inf") else f"2^{bits:.1f}"


def _bytes(count: int) -> str:
    return f"{count / 1e6:.2f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"


def _plain(
    chosen: Parameters, policy: Policy, price: Cost, aborts: float, notes: list[str]
) -> dict[str, object]:
    return {
        **asdict(policy),
        "clients": chosen.clients,
        "graph": "complete" if chosen.complete else "random",
        "neighbours": chosen.neighbours,
        "threshold": chosen.threshold,
        "colluding": chosen.colluding,
        "p_disconnected": 2.0**chosen.disconnected,
        "p_privacy": 2.0**chosen.privacy,
        "p_correctness": 2.0**chosen.correctness,
        "aborted": aborts,
        "aborted_is_exact": chosen.complete,
        **{
            f"{name}_bytes" if name in ("vector", "up", "down") else name: v
            for name, v in asdict(price).items()
        },
        "notes": notes,
    }
