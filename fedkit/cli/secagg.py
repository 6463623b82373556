"""`fedkit secagg`: what secure aggregation takes before anybody runs it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedkit.cli.output import Format, FormatOption, echo_json, echo_table
from fedkit.errors import ConfigError
from fedkit.secagg.parameters import CORRECTNESS_BITS, Mode, Policy

if TYPE_CHECKING:
    from fedkit.secagg.estimate import Cost, Cover
    from fedkit.secagg.parameters import Parameters

app = typer.Typer(no_args_is_help=True, help="Plan secure aggregation; check evidence.")

RARE = 0.01
"""Rounds that abort more often than this are worth a hint."""
HARDLY = 1.01
"""So many times as many aborted rounds are hardly more."""


@dataclass(frozen=True)
class _Plan:
    """What is shown. loss: the share of clients that is lost in the mean. by_hand: k and t were given."""

    policy: Policy
    chosen: Parameters
    cover: Cover
    price: Cost
    loss: float
    aborts: float
    by_hand: bool


@app.callback()
def _group() -> None:
    """Plan secure aggregation; check evidence."""


@app.command()
def plan(
    clients: Annotated[int, typer.Option(help="Clients that are invited to a round.")],
    dropout: Annotated[float, typer.Option(help="Share of them that may be lost in a round.")] = 0.1,
    corrupt: Annotated[float, typer.Option(help="Share of them that may work with the server.")] = 0.05,
    size: Annotated[int, typer.Option(help="Numbers in an update.")] = 1_000_000,
    width: Annotated[int, typer.Option(help="Bits of each number on the wire.")] = 32,
    mode: Annotated[Mode, typer.Option(help="Whom it protects against.")] = Mode.LYING_SERVER,
    sigma: Annotated[
        int, typer.Option(help="Secrecy fails with at most 2^-sigma; 0: 80 if the server may lie, else 40.")
    ] = Policy.sigma,
    n_min: Annotated[
        int,
        typer.Option(
            help="Fewest clients of a sum: those that might collude and those to hide among; 0: who stay."
        ),
    ] = 0,
    neighbours: Annotated[int, typer.Option(help="k by hand; 0: chosen. Takes --threshold too.")] = 0,
    threshold: Annotated[int, typer.Option(help="t by hand; 0: chosen. Takes --neighbours too.")] = 0,
    loss: Annotated[
        float | None,
        typer.Option(help="Share that is lost in the mean of many rounds; if not given, dropout."),
    ] = None,
    output: FormatOption = Format.text,
) -> None:
    """Show the graph, the threshold, how likely they fail, who hides whom, and what a round costs."""
    from fedkit.secagg.estimate import aborted, cost, cover
    from fedkit.secagg.settings import SecAgg

    policy = Policy(corrupt, dropout, sigma, mode, n_min).settled(clients, clients)
    mean = dropout if loss is None else _share(loss)
    explicit = _by_hand(neighbours, threshold)
    chosen = SecAgg(policy, explicit=explicit).parameters(clients)
    price, often = cost(chosen, size, width, mean), aborted(chosen, mean, policy.least)
    found = _Plan(policy, chosen, cover(clients, policy, explicit), price, mean, often, explicit is not None)
    notes = list(_notes(found))
    if output is Format.json:
        echo_json(_plain(found, notes))
        return
    rows = [*_graph_rows(found), *_failure_rows(found), *_cost_rows(price)]
    echo_table([{"what": what, "value": value, "meaning": meaning} for what, value, meaning in rows])
    for note in notes:
        typer.echo(f"\n{note}")


@app.command()
def evidence(
    file: Annotated[Path, typer.Argument(help="An evidence-*.json of a run folder.")],
    roster: Annotated[
        Path, typer.Option(help="The file with the keys of server and clients, or with the CA's.")
    ],
) -> None:
    """Check that a client said two different things in one session, trusting nothing but the roster."""
    from fedkit.secagg.evidence import read_evidence
    from fedkit.secagg.rosterfile import read_trust

    found = read_evidence(file)
    if not found.proves(read_trust(roster)):
        typer.echo(f"{file} proves nothing about {found.client!r} to one who believes {roster}", err=True)
        raise typer.Exit(1)
    typer.echo(f"{found.client} signed two different {found.purpose} statements in one session.")


def _by_hand(neighbours: int, threshold: int) -> tuple[int, int] | None:
    if (neighbours == 0) != (threshold == 0):
        raise ConfigError("--neighbours and --threshold go together: give both, or none and they are chosen")
    return (neighbours, threshold) if neighbours else None


def _share(loss: float) -> float:
    if not 0 <= loss < 1:
        raise ConfigError(f"loss is a share of all clients, 0 <= loss < 1: {loss}")
    return loss


def _graph_rows(found: _Plan) -> list[tuple[str, str, str]]:
    chosen, policy, cover = found.chosen, found.policy, found.cover
    k, t, n = chosen.neighbours, chosen.threshold, chosen.clients
    if chosen.complete:
        graph, may = "the complete graph", f"{n - max(t, policy.least)} of {n} clients may be lost"
    else:
        graph = f"{k // 2} random Hamiltonian cycles, no edge twice"
        may = f"{k - t} neighbours of each client may be lost"
    helpers = "1 helper" if cover.helpers == 1 else f"{cover.helpers} helpers"
    stand = f"of these, with {helpers} of the server; with more, nothing is promised"
    return [
        ("neighbours k", str(k), graph),
        ("threshold t", f"{t} of {chosen.holders}", f"shares that rebuild a secret; {may}"),
        (
            "corrupt neighbours c",
            str(chosen.colluding),
            "of each client, with which its secrecy stands, if all invited come",
        ),
        ("smallest sum", str(cover.smallest), f"of {n}, if the server leaves out whom it likes"),
        ("hidden among", str(cover.hidden), stand),
    ]


def _failure_rows(found: _Plan) -> list[tuple[str, str, str]]:
    chosen, policy, aborts = found.chosen, found.policy, found.aborts
    n, c, lost = chosen.clients, chosen.colluding, chosen.clients - policy.alive_of(chosen.clients)
    corrupt = f"up to {c}" if chosen.complete else str(policy.corrupt_of(n))
    given = f"with {corrupt} corrupt and {lost} lost of {n}"
    bound = "" if chosen.complete else "at most "
    return [
        ("P disconnected", _power(chosen.disconnected), f"parts of the sum show, {given}"),
        ("P privacy", _power(chosen.privacy), f"somebody's vector shows, {given}"),
        ("P correctness", _power(chosen.correctness), f"the round aborts, with {lost} lost"),
        (
            "aborted rounds",
            f"{bound}{_often(aborts)}",
            f"if each client is lost by itself with probability {found.loss:g}",
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
        ("client CPU", f"{price.client_seconds * 1e3:.1f} ms", "about, on one core of an AMD EPYC of 2023"),
        ("server CPU", _seconds(price.server_seconds), "about, on one core of an AMD EPYC of 2023"),
    ]


def _notes(found: _Plan) -> list[str]:
    """What the figures do not say by themselves."""
    notes = []
    if found.policy.mode is Mode.HONEST_SERVER:
        notes.append("honest_server: a server that tells clients different things can learn their vectors.")
    if found.cover.helpers == 0:
        notes.append(
            "A single client that helps the server can undo another's secrecy: raise --n-min or invite more."
        )
    corrupt, least = found.policy.corrupt_of(found.chosen.clients), found.cover.smallest
    if least - corrupt < 2:
        said = f"With {corrupt} corrupt clients fewer than two honest ones may be in a sum of {least}"
        notes.append(f"{said}: set --n-min to {corrupt + 2}.")
    if found.by_hand and not found.chosen.meets(found.policy):
        notes.append(_refused(found))
    elif found.aborts > RARE:
        notes.append(_fewer_aborts(found))
    return notes


def _refused(found: _Plan) -> str:
    """k and t by hand that lose more rounds than the policy allows."""
    share, odds = found.policy.dropout, _power(found.chosen.correctness)
    return (
        f"A run refuses these k and t: with a share of {share:g} lost somebody keeps fewer than "
        f"{found.chosen.threshold} neighbours with probability {odds}, where 2^-{CORRECTNESS_BITS} is "
        "allowed. Lower --threshold or --dropout, or take more neighbours."
    )


def _fewer_aborts(found: _Plan) -> str:
    """What would help: smaller sums while enough shares remain, then more clients."""
    from fedkit.secagg.estimate import aborted
    from fedkit.secagg.parameters import COMPLETE_UP_TO, SMALLEST, choose

    chosen, loss, most = found.chosen, found.loss, found.policy.least
    said = f"{_often(found.aborts)} of rounds would abort, as {max(chosen.threshold, most)} must stay."
    lowest = max(chosen.threshold if chosen.complete else SMALLEST, SMALLEST)
    # a small n_min hides less: none smaller than helps
    reach = max(RARE, HARDLY * aborted(chosen, loss, lowest))
    for least in range(most - 1, lowest - 1, -1):
        if (share := aborted(chosen, loss, least)) <= reach:
            said += f" With --n-min {least} it would be {_often(share)}, in smaller sums."
            break
    else:
        share = found.aborts
    more = share > RARE and not found.by_hand
    for n in range(chosen.clients + 1, COMPLETE_UP_TO + 1) if more else ():
        made = choose(n, replace(found.policy, smallest=0))
        if (share := aborted(made, loss, SMALLEST)) <= RARE:
            least = max(SMALLEST, made.threshold)
            return f"{said} With {n} invited and --n-min {least}: {_often(share)}."
    return said


def _often(share: float) -> str:
    """As a percentage, or as it is where that would be small."""
    return f"{share:.2g}" if share < RARE / 10 else f"{share:.1%}"


def _power(bits: float) -> str:
    """A probability that is kept as its log2."""
    return "0" if bits == float("-inf") else f"2^{bits:.1f}"


def _bytes(count: int) -> str:
    return f"{count / 1e6:.2f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"


def _seconds(count: float) -> str:
    return f"{count:.0f} s" if count >= 10 else f"{count:.2g} s"


def _plain(found: _Plan, notes: list[str]) -> dict[str, object]:
    chosen, cover = found.chosen, found.cover
    return {
        **asdict(found.policy),
        "loss": found.loss,
        "clients": chosen.clients,
        "graph": "complete" if chosen.complete else "random",
        "neighbours": chosen.neighbours,
        "threshold": chosen.threshold,
        "colluding": chosen.colluding,
        "smallest_sum": cover.smallest,
        "helpers": cover.helpers,
        "hidden_among": cover.hidden,
        "p_disconnected": 2.0**chosen.disconnected,
        "p_privacy": 2.0**chosen.privacy,
        "p_correctness": 2.0**chosen.correctness,
        "aborted": found.aborts,
        "aborted_is_exact": chosen.complete,
        **{
            f"{name}_bytes" if name in ("vector", "up", "down") else name: v
            for name, v in asdict(found.price).items()
        },
        "notes": notes,
    }
