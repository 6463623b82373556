"""The table of `fedkit codecs`: what each codec promises, and the stages that stand before one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import typer

from fedkit.cli.output import echo_table
from fedkit.codecs import AUTO, TensorRules, Transform
from fedkit.codecs.codec import word
from fedkit.options import signature
from fedkit.tensors import Layout

REFERENCE = Layout(("hidden", "output", "bias"), ((784, 256), (256, 10), (266,)), ("float32",) * 3)
"""The model whose updates are measured: a perceptron with 203,530 parameters."""

PARTNER = "int8"
"""What stands behind a transform in the table, since it sends nothing alone."""

EXAMPLES = {"sample": f"rotate|sample|{PARTNER}"}
"""Stages that make sense behind another one only."""

NOTE = f"""
bits: expected for one parameter of a model of {REFERENCE.size:,}, with default options.
unbiased: right in the mean over seeds. feedback: biased; error feedback makes up for it where all clients
take part. biased: wrong in the mean, and error feedback would not help. secure: encodings add up under
secure aggregation.
auto: the codec that suits the direction, whole: codec.up = {AUTO["up"]}, codec.down = {AUTO["down"]}."""


@dataclass(frozen=True)
class Row:
    """One codec with default options. kind: codec, stage (stands before a codec), or rules."""

    name: str
    kind: str
    example: str
    options: str
    bits: float
    unbiased: bool
    feedback: bool
    secure: bool
    fixed_size: bool
    description: str
    paper: str
    distribution: str

    @property
    def traits(self) -> str:
        """The traits that hold, in words."""
        held = {"unbiased": self.unbiased, "feedback": self.feedback, "secure": self.secure}
        return ", ".join(name for name, holds in held.items() if holds) or "biased"


def rows() -> list[dict[str, object]]:
    """Every registered codec as plain data; a broken one by name and reason."""
    from fedkit import plugins
    from fedkit.errors import FedkitError

    found: list[dict[str, object]] = []
    for name, (_, owner) in plugins.listing("fedkit.codecs")[0].items():
        try:
            found.append(asdict(_row(name, owner)))
        except FedkitError as error:  # one broken plugin must not hide the others
            text = f"cannot be used: {error}"
            found.append({"name": name, "kind": "broken", "description": text, "distribution": owner})
    return found


def _row(name: str, owner: str) -> Row:
    from fedkit import plugins

    thing = plugins.load("fedkit.codecs", name)
    kind = _kind(thing)
    example = name if kind == "codec" else EXAMPLES.get(name, f"{name}|{PARTNER}")
    codec = plugins.codec(example)
    return Row(
        name=name,
        kind=kind,
        example=example,
        options=_options(thing),
        bits=round(8 * codec.size_estimate(REFERENCE) / REFERENCE.size, 3),
        unbiased=codec.unbiased,
        feedback=codec.contractive and not codec.unbiased,
        secure=codec.ring,
        fixed_size=codec.fixed_size,
        description=plugins.describe(thing),
        paper=str(getattr(thing, "paper", "")),
        distribution=owner,
    )


def _kind(thing: object) -> str:
    if isinstance(thing, type) and issubclass(thing, TensorRules):
        return "rules"
    return "stage" if isinstance(thing, type) and issubclass(thing, Transform) else "codec"


def _options(thing: object) -> str:
    """The parameters and their defaults, as a spec string writes them."""
    known = signature(thing).parameters if callable(thing) else {}
    return ",".join(name if p.required else f"{name}={word(p.default)}" for name, p in known.items())


def show(found: Sequence[dict[str, object]]) -> None:
    """Codecs, then stages and rules, then those that are broken, then what the columns mean."""
    made = [Row(**row) for row in found if row["kind"] != "broken"]  # type: ignore[arg-type]
    whole = [_cells(row, row.name) for row in made if row.kind == "codec"]
    parts = [_cells(row, row.example) for row in made if row.kind != "codec"]
    echo_table(whole)
    if parts:
        typer.echo("\nBefore a codec, joined by |:")
        echo_table(parts)
    for row in found:
        if row["kind"] == "broken":
            typer.echo(f"\n{row['name']} ({row['distribution']}) {row['description']}")
    typer.echo(NOTE)


def _cells(row: Row, name: str) -> dict[str, str]:
    about = [row.description, f"Options: {row.options}." if row.options else "", row.paper]
    about += [] if row.distribution.startswith("fedkit ") else [f"({row.distribution})"]
    said = " ".join(part for part in about if part)
    return {"name": name, "bits": f"{row.bits:.2f}", "traits": row.traits, "description": said}
