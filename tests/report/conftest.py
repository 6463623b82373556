"""A run folder made up for the tests: learning curves, dropouts of every kind, carried replies."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from fedkit.history import Carried, Fate, Outcome, RoundRecord

_WHYS = {
    Outcome.counted: "",
    Outcome.failed: "diverged: 'fc1.weight' is not finite",
    Outcome.refused: "weight is larger than 1024",
    Outcome.unwanted: "",
    Outcome.late: "training, 80 % done",
    Outcome.lost: "crashed before training",
}
_SHARES = (0.66, 0.03, 0.02, 0.07, 0.07, 0.15)  # in the order of _WHYS


class RunMaker:
    """Writes run folders below a directory."""

    def __init__(self, base: Path) -> None:
        self.base = base

    def __call__(
        self,
        name: str = "digits-0",
        *,
        rounds: int = 20,
        clients: int = 30,
        cohort: int = 10,
        seed: int = 0,
        classes: int = 10,
        target: float = 0.95,
        strategy: str = "fedavg",
        failed: tuple[int, ...] = (),
        status: str = "done",
        error: str = "",
        prefix: str = "client-",
        why: str = "",
        noise: float = 0.008,
        summary: bool = True,
        clock: str = "virtual",
        config: Mapping[str, str] | None = None,
    ) -> Path:
        folder = self.base / name
        folder.mkdir(parents=True)
        rng = np.random.default_rng([seed, rounds, clients, len(strategy)])
        names = [f"{prefix}{i:03d}" for i in range(clients)]
        records = _records(rng, rounds, names, cohort, target, failed, why, noise)
        (folder / "rounds.jsonl").write_text("".join(r.to_json() + "\n" for r in records))
        (folder / "scenario.toml").write_text(_scenario(rounds, seed, strategy, config or {}))
        environment = {"fedkit": "0.1.0", "python": "3.11.9", "platform": "Linux-6.1", "numpy": "2.1.0"}
        environment |= {"torch": "absent", "cores": "2", "command": f"fedkit run digits seed={seed}"}
        (folder / "environment.json").write_text(json.dumps(environment))
        counts = rng.multinomial(40, rng.dirichlet([0.3] * classes, size=clients)).tolist()
        labels = {
            "classes": [str(c) for c in range(classes)],
            "clients": dict(zip(names, counts, strict=True)),
        }
        (folder / "population.json").write_text(json.dumps(labels))
        if summary:
            said: dict[str, object] = {"status": status, "error": error, "stopped": "", "workload": "digits"}
            said |= {"strategy": strategy, "seed": seed, "model_sha256": "5e" * 32, "parameters": 650}
            said |= {"initial": {"accuracy": 0.1, "loss": 2.3}, "wall_seconds": 3.5, "rounds": rounds}
            said["clock"] = clock
            (folder / "summary.json").write_text(json.dumps(said))
        return folder


def _records(
    rng: np.random.Generator,
    rounds: int,
    names: list[str],
    cohort: int,
    target: float,
    failed: tuple[int, ...],
    why: str,
    noise: float,
) -> list[RoundRecord]:
    records: list[RoundRecord] = []
    clock, done = 0.0, 0
    for number in range(rounds):
        fates: dict[str, Fate] = {}
        for client in rng.choice(names, size=min(cohort, len(names)), replace=False) if names else []:
            outcome = rng.choice(np.array(list(_WHYS)), p=_SHARES)
            outcome = Outcome.lost if number in failed else Outcome(str(outcome))
            fates[str(client)] = Fate(outcome, why or _WHYS[outcome])
        late = [c for c, f in records[-1].fates.items() if f.outcome == Outcome.late] if records else []
        ok = number not in failed
        done += ok
        accuracy = target - (target - 0.1) * float(np.exp(-done / 6)) + float(rng.normal(0, noise))
        metrics = {"accuracy": accuracy, "loss": 2.3 * (1 - accuracy) + 0.05}
        counted = sum(fate.outcome == Outcome.counted for fate in fates.values())
        seconds = 60.0 if not ok else float(rng.uniform(8, 25))
        records.append(
            RoundRecord(
                round=number,
                ok=ok,
                reason="" if ok else "0 counted replies, the quorum is 2",
                fates=fates,
                carried={c: Carried(number - 1, Outcome.counted, "weight times 0.5") for c in late[:1]},
                weight=40.0 * counted,
                train={"loss": metrics["loss"] * 0.9} if counted else {},
                metrics=metrics,
                bytes_up=counted * 740,
                bytes_down=len(fates) * 2700,
                bytes_up_float32=counted * 2600,
                virtual_start=clock,
                virtual_end=clock + seconds,
                wall_seconds=0.05,
            )
        )
        clock += seconds
    return records


def _scenario(rounds: int, seed: int, strategy: str, config: Mapping[str, str]) -> str:
    top = f'workload = "digits"\ndescription = "handwritten digits, phones that drop out"\nseed = {seed}\n'
    sections = f'[rounds]\ncount = {rounds}\ncohort = 10\n\n[strategy]\nname = "{strategy}"\n'
    return top + "\n" + sections + "".join(f"{key} = {value}\n" for key, value in config.items())


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """Writes a run folder and returns it; see RunMaker."""
    return RunMaker(tmp_path)
