"""Scenarios: reading, overrides, and an error with its place for everything that can be wrong."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedkit.config import Population, SecAggSection
from fedkit.errors import ConfigError, PluginError
from fedkit.scenario import changes, read, shipped, to_dict, to_toml

TEXT = """\
workload = "own.py:make"
seed = 3

[workload_options]
size = 5

[population]
clients = 8
partition = "iid"

[rounds]
count = 5
cohort = 4

[strategy]
name = "fedprox"
mu = 1

[train]
lr = 0.5
"""
OWN = """
def make(*, population, seed, size: int = 3, data: str | None = None):
    raise AssertionError("reading a scenario must not build the workload")

def alone(size: float = 1.0):
    raise AssertionError

class Ready:
    def init(self, seed): ...
    def clients(self): ...
    def trainer(self, client): ...
    def evaluate(self, model): ...

ready = Ready()
number = 3
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "own.py").write_text(OWN)
    path = tmp_path / "my.toml"
    path.write_text(TEXT)
    return path


def test_a_file_becomes_a_scenario_with_the_defaults_of_its_plugins(file: Path) -> None:
    scenario = read(file)
    assert scenario.workload == f"{file.parent.resolve()}/own.py:make"
    assert (scenario.seed, scenario.rounds.count, scenario.rounds.cohort) == (3, 5, 4)
    assert scenario.population == Population(clients=8, partition="iid")
    assert scenario.strategy.options == {"mu": 1.0, "lr": 1.0}
    assert scenario.workload_options == {"size": 5}
    assert scenario.train == {"lr": 0.5}
    assert scenario.places["rounds.cohort"] == f"{file}:13"


def test_the_resolved_scenario_reads_back_equal(file: Path, tmp_path: Path) -> None:
    scenario = read(file, ["rounds.deadline=5", "links.up=1e6", "stop.metric=accuracy", "stop.target=.9"])
    again = tmp_path / "sub" / "resolved.toml"
    again.parent.mkdir()
    again.write_text(to_toml(scenario))
    assert read(again) == scenario
    assert to_toml(read(again)) == to_toml(scenario)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**63 - 1),
    cohort=st.one_of(st.none(), st.integers(1, 8), st.floats(0.01, 0.99)),
    drop=st.floats(0, 1),
    text=st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
)
def test_any_scenario_survives_being_written(
    file: Path, tmp_path: Path, seed: int, cohort: int | float | None, drop: float, text: str
) -> None:
    base = read(file)
    scenario = dataclasses.replace(
        base,
        seed=seed,
        description=text,
        rounds=dataclasses.replace(base.rounds, cohort=cohort),
        devices=dataclasses.replace(base.devices, drop=drop),
    )
    again = tmp_path / "again.toml"
    again.write_text(to_toml(scenario), encoding="utf-8")
    assert read(again) == scenario


@pytest.mark.parametrize("name", sorted(shipped()))
def test_every_shipped_scenario_reads_and_says_what_it_is(name: str) -> None:
    scenario = read(name)
    assert scenario.description == shipped()[name][0] != ""
    assert scenario.rounds.count > 0


def test_overrides_take_precedence_and_later_ones_win(file: Path) -> None:
    scenario = read(file, ["rounds.count=7", "rounds.count=9", "strategy.mu=.25", "train.batch=10", "seed=4"])
    assert (scenario.rounds.count, scenario.strategy.options["mu"], scenario.seed) == (9, 0.25, 4)
    assert scenario.train == {"lr": 0.5, "batch": 10}
    assert read(file, ["rounds.cohort=none"]).rounds.cohort is None


def test_another_strategy_drops_the_options_of_the_old_one(file: Path) -> None:
    scenario = read(file, ["strategy.lr=0.5", "strategy.name=fedavg"])
    assert (scenario.strategy.name, scenario.strategy.options) == ("fedavg", {"lr": 0.5})
    assert read(file, ["strategy.name=fedprox"]).strategy.options == {"mu": 1.0, "lr": 1.0}


def test_another_workload_drops_the_options_and_clients_of_the_old_one(file: Path) -> None:
    own = file.parent / "own.py"
    scenario = read(file, [f"workload={own}:ready"])
    assert (scenario.workload_options, scenario.population) == ({}, Population())
    assert read(file, [f"workload={own}:alone", "workload_options.size=2"]).workload_options == {"size": 2.0}
    with pytest.raises(
        ConfigError, match=r"override 'population.clients=3': \[population\] clients: .* its own clients"
    ):
        read(file, [f"workload={own}:ready", "population.clients=3"])


def test_files_are_relative_to_the_file_or_to_the_working_directory(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    (here / "s.py").write_text("from fedkit_strategies.fedavg import FedAvg\n")
    monkeypatch.chdir(here)
    scenario = read(file, ["strategy.name=s.py:FedAvg", "workload_options.data=d.npz"])
    assert scenario.strategy.name == f"{here.resolve()}/s.py:FedAvg"
    assert scenario.workload_options["data"] == str(here.resolve() / "d.npz")
    file.write_text(TEXT.replace("size = 5", 'data = "d.npz"'))
    assert read(file).workload_options["data"] == str(file.parent.resolve() / "d.npz")


@pytest.mark.parametrize(
    ("old", "new", "line", "text"),
    [
        ("cohort = 4", "cohrt = 4", 13, "[rounds] cohrt: unknown key; did you mean 'cohort'?"),
        ("[rounds]", "[round]", 11, "round: unknown section; did you mean 'rounds'?"),
        ("seed = 3", "sed = 3", 2, "sed: unknown key; did you mean 'seed'?"),
        ("seed = 3", "places = 3", 2, "places: unknown key"),
        ("mu = 1", "muu = 1", 17, "[strategy] muu: unknown key; did you mean 'mu'? (options of 'fedprox')"),
        ("mu = 1", "mu = true", 17, "[strategy] mu: must be a number, not True"),
        ("size = 5", "sise = 5", 5, "[workload_options] sise: unknown key; did you mean 'size'?"),
        ("size = 5", "population = 5", 5, "[workload_options] population: unknown key"),
        ('"fedprox"', '"fedprx"', 16, "[strategy] name: unknown strategy 'fedprx'; did you mean 'fedprox'?"),
        ('"iid"', '"idd"', 9, "[population] partition: unknown value 'idd'; did you mean 'iid'?"),
        ("count = 5", "count = 5.0", 12, "[rounds] count: must be an integer, not 5.0"),
        ("count = 5", "count = true", 12, "[rounds] count: must be an integer, not True"),
        ("count = 5", "count = -1", 12, "[rounds] count: must be at least 1, not -1"),
        ("count = 5", "count = 0", 12, "[rounds] count: must be at least 1, not 0"),
        ("seed = 3", "data = 'x'", 2, "data: unknown key; did you mean 'workload_options.data'?"),
        ("seed = 3", "mu = 0.1", 2, "mu: unknown key; did you mean 'strategy.mu'?"),
        ("seed = 3", "lr = 0.1", 2, "lr: unknown key; did you mean 'train.lr' or 'strategy.lr'?"),
        ("seed = 3", "alpha = 0.1", 2, "alpha: unknown key; did you mean 'population.alpha'?"),
        (
            '"iid"',
            '"iid"\nalpha = 0.1',
            10,
            "[population] alpha: has no effect with population.partition = 'iid'",
        ),
        (
            "count = 5",
            "carry_rounds = 2",
            12,
            "[rounds] carry_rounds: has no effect with rounds.late = 'drop'",
        ),
        (
            "cohort = 4",
            "cohort = 0",
            13,
            "[rounds] cohort: must be a count (1, 2 ...) or a fraction in (0, 1)",
        ),
        ("cohort = 4", "cohort = 9", 13, "[rounds] cohort: 9 is more than the 8 clients of [population]"),
        ("cohort = 4", "cohort = 4\nquorum = 5", 14, "[rounds] quorum: 5 is above the cohort of 4"),
        ("lr = 0.5", "lr = [1]", 20, "[train] lr: must be"),
        ("count = 5", "count 5", 12, "not valid TOML"),
        ('"own.py:make"', '"own.py:number"', 1, "workload: "),
        ('"own.py:make"', '"own.py:mak"', 1, "workload: "),
        (
            '"own.py:make"',
            '"own.py:ready"',
            5,
            "[workload_options] size: unknown key; the workload is an object",
        ),
        ("seed = 3", "links = 0.5", 2, "links: is a section, not a value; write links.profile = 0.5"),
        ("[train]", "[codec]\nup = 3\n[train]", 20, "[codec] up: must be a string, not 3"),
    ],
)
def test_an_error_names_file_line_key_and_the_nearest(
    file: Path, old: str, new: str, line: int, text: str
) -> None:
    file.write_text(TEXT.replace(old, new))
    with pytest.raises(ConfigError) as caught:
        read(file)
    assert str(caught.value).startswith(f"{file}:{line}: {text}")


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("rounds.cohrt=5", "[rounds] cohrt: unknown key; did you mean 'cohort'?"),
        ("rond.count=5", "rond: unknown section; did you mean 'rounds'?"),
        ("rounds=5", "rounds: is a section, not a value; write rounds.count = 5"),
        ("strategy=fedavg", "strategy: is a section, not a value; write strategy.name = 'fedavg'"),
        ("codec=none", "codec: is a section, not a value; write codec.up = 'none'"),
        ("codec.up=non", "[codec] up: unknown codec 'non'; did you mean 'none'?"),
        ("codec.up=ecqs", "[codec] up: unknown codec 'ecqs'; did you mean 'ecsq'?"),
        (
            "codec.up=ecsq:detla=4",
            "[codec] up: codec 'ecsq:detla=4': detla: unknown key; did you mean 'delta'?",
        ),
        (
            "codec.down=ecsq:mode=stoh",
            "[codec] down: codec 'ecsq:mode=stoh': mode: unknown value 'stoh'; did",
        ),
        ("codec.up=ecsq:delta=x", "[codec] up: codec 'ecsq:delta=x': delta: must be a number, not 'x'"),
        ("codec.up=ecsq:delta=99", "[codec] up: codec stage 'ecsq': delta = 99.0 must be in [0.01, 64]"),
        ("codec.up=rotate", "[codec] up: codec 'rotate' has no quantizer: end it with one, such as"),
        (
            "codec.up=int8|rotate",
            "[codec] up: codec 'int8|rotate': 'rotate' comes after 'int8': put it before",
        ),
        ("codec.up=rotate|int9", "[codec] up: unknown codec 'int9'; did you mean 'int"),
        ("codec.up=ecsq/7", "[codec] up: codec 'ecsq/7': 'ecsq' has version 1 here, not 7"),
        ("codec.feedback=of", "[codec] feedback: unknown value 'of'; did you mean 'off'?"),
        ("links.loss=1", "[links] loss: must be in [0, 1), not 1.0"),
        ("links.profile=custom", "[links] profile: 'custom' needs links.up and links.down"),
        ("devices.profile=custom", "[devices] profile: 'custom' needs devices.speed"),
        (
            "devices.available=0.5",
            "[devices] available: has no effect with devices.availability = 'always': leave it out, or set "
            "devices.availability = 'bernoulli'",
        ),
        (
            "devices.off_seconds=5",
            "[devices] off_seconds: has no effect with devices.availability = 'always'",
        ),
        ("population.shards=2", "[population] shards: has no effect with population.partition = 'iid'"),
        ("secagg=lying_server", "secagg: is a section, not a value; write secagg.mode = 'lying_server'"),
        ("secagg.mode=lying", "[secagg] mode: unknown value 'lying'; it must be 'off' or 'honest_server' or"),
        (
            "secagg.sigma=80",
            "[secagg] sigma: has no effect with secagg.mode = 'off': leave it out, or set secagg.mode = "
            "'honest_server' or secagg.mode = 'lying_server'",
        ),
        ("secagg.width=16", "[secagg] width: unknown value 16; it must be 32 or 64"),
        ("secagg.dropout=1", "[secagg] dropout: must be in [0, 1), not 1.0"),
        (
            "secagg.n_min=2",
            "[secagg] n_min: must be at least 3 (of two clients, each knows the other's update)",
        ),
        ("secagg.retries=101", "[secagg] retries: must be in [0, 100], not 101"),
        ("mu=0.1", "mu: unknown key; did you mean 'strategy.mu'?"),
        ("count=5", "count: unknown key; did you mean 'rounds.count'?"),
        ("daat=5", "daat: unknown key; did you mean 'workload_options.data'?"),
        ("devices.drop=1.5", "[devices] drop: must be in [0, 1], not 1.5"),
        ("rounds.deadline=inf", "[rounds] deadline: must be finite, not inf"),
        ("rounds.over_select=0.5", "[rounds] over_select: must be in [1, 1e6], not 0.5"),
        ("rounds.over_select=1e7", "[rounds] over_select: must be in [1, 1e6], not 10000000.0"),
        ("rounds.deadline=1e13", "[rounds] deadline: must be in [1e-6, 1e12] seconds, not 10000000000000.0"),
        ("rounds.carry_rounds=1001", "[rounds] carry_rounds: must be in [1, 1000], not 1001"),
        ("links.spread=11", "[links] spread: must be in [0, 10], not 11.0"),
        ("devices.spread=nan", "[devices] spread: must be finite, not nan"),
        ("train.lr=nan", "[train] lr: must be finite, not nan"),
        ("strategy.mu=inf", "[strategy] mu: must be finite, not inf"),
        ("train.batch=9223372036854775808", "[train] batch: must fit 64 bits, as TOML demands"),
        ("rounds.late=never", "[rounds] late: unknown value 'never'; it must be 'drop' or 'carry'"),
        ("stop.metric=accuracy", "[stop] metric: needs stop.target or stop.patience"),
        ("federation.kind=simulatoin", "[federation] kind: unknown federation 'simulatoin'"),
        ("federation.x=1", "[federation] x: unknown key"),
        ("seed=-1", "seed: must be in [0, 2^63), not -1"),
        ("nonsense", "must be key=value"),
        ("=3", "must be key=value"),
    ],
)
def test_an_override_is_named_in_its_error(file: Path, override: str, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(file, [override])
    assert str(caught.value).startswith(f"override {override!r}: {text}")


def test_a_bare_key_that_is_an_option_of_the_workload_means_that_option(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    scenario = read(file, ["data=d.npz", "size=9"])
    assert scenario.workload_options == {"size": 9, "data": str(tmp_path.resolve() / "d.npz")}
    assert read(file, ["workload=own.py:alone", "size=2"]).workload_options == {"size": 2.0}
    with pytest.raises(ConfigError, match=r"workload_options.size=x'.* size: must be an integer"):
        read(file, ["size=x"])
    with pytest.raises(ConfigError, match=r"override 'data=x': data: unknown key"):
        read(file, ["workload=own.py:alone", "data=x"])


def test_a_choice_that_is_replaced_takes_its_settings_along(file: Path) -> None:
    file.write_text(TEXT.replace('"iid"', '"dirichlet"\nalpha = 0.1'))
    assert read(file).population.alpha == 0.1
    replaced = read(file, ["population.partition=shards", "population.shards=3"])
    assert replaced.population == Population(clients=8, partition="shards", shards=3)
    with pytest.raises(ConfigError, match=r"override 'population.alpha=0.2'.* no effect"):
        read(file, ["population.partition=iid", "population.alpha=0.2"])


def test_another_workload_drops_the_description_of_the_old_one(file: Path) -> None:
    file.write_text('description = "mine"\n' + TEXT)
    other = f"workload={file.parent / 'own.py'}:alone"
    assert read(file).description == "mine"
    assert read(file, [other, "rounds.count=2"]).description == ""
    assert read(file, [other, "description=new"]).description == "new"


def test_overrides_that_need_each_other(file: Path) -> None:
    with pytest.raises(ConfigError, match=r"given twice, once as a value and once as a section"):
        read(file, ["rounds=5", "rounds.count=5"])
    with pytest.raises(ConfigError, match=r"'carry' cannot be combined"):
        read(file, ["rounds.late=carry", "rounds.evaluate_on=clients"])
    with pytest.raises(ConfigError, match=r"down_base: has no effect with codec.down = 'none'"):
        read(file, ["codec.down_base=first"])
    assert read(file, ["codec.down_base=first", "codec.down=int8"]).codec.down_base == "first"
    with pytest.raises(ConfigError, match=r"stop.patience=2.*\[stop\] patience: needs stop.metric"):
        read(file, ["stop.patience=2"])


def test_a_plugin_error_stays_a_plugin_error(file: Path) -> None:
    with pytest.raises(PluginError, match="unknown workload"):
        read(file, ["workload=digts"])


def test_neither_a_file_nor_a_shipped_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no scenario 'digts'.*did you mean 'digits'"):
        read("digts")
    with pytest.raises(ConfigError, match="cannot be read"):
        read(tmp_path / "none.toml")


def test_options_are_written_beside_the_name_they_belong_to(file: Path) -> None:
    tree = to_dict(read(file))
    assert tree["strategy"] == {"name": "fedprox", "mu": 1.0, "lr": 1.0}
    assert tree["workload_options"] == {"size": 5}
    assert "places" not in tree
    assert "target" not in tree["stop"]  # type: ignore[operator]


def test_changes_lists_the_keys_that_differ(file: Path) -> None:
    assert changes(read(file), read(file)) == []
    assert changes(
        read(file), read(file, ["rounds.count=6", "strategy.mu=2", "stop.target=1", "stop.metric=a"])
    ) == [
        "rounds.count",
        "stop.metric",
        "stop.target",
        "strategy.mu",
    ]


def test_files_of_codecs_are_found_from_where_they_are_named(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text(
        "from fedkit.codecs.int8 import Int8\n\n\nclass Mine(Int8):\n    pass\n"
    )
    file.write_text(file.read_text() + '\n[codec]\nup = "rotate | mine.py:Mine:block=64"\n')
    monkeypatch.chdir(tmp_path.parent)
    name = f"{tmp_path / 'mine.py'}:Mine"
    assert read(file).codec.up == f"rotate|{name}:block=64"
    override = f"codec.up={tmp_path.name}/mine.py:Mine"
    assert read(file, [override]).codec.up == name


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("seed = " + "9" * 5000, "my.toml:1: not valid TOML: an integer has thousands of digits"),
        ("seed = 0x" + "f" * 5000, "my.toml:1: seed: must fit 64 bits, as TOML demands, not an integer of"),
        ("[train]\nlr = " + "[" * 20000, "not valid TOML: arrays or tables are nested too deeply"),
        ('seed = 1\nworkload = "a\\u0000.py:X"', "my.toml:2: workload: 'a\\x00.py' cannot be used as a file"),
        ('[strategy]\nname = "\\u0000"', "my.toml:2: [strategy] name: unknown strategy '\\x00'"),
        ('[codec]\nup = "int8|\\u0000.py:X"', "my.toml:2: [codec] up: '\\x00.py' cannot be used as a file"),
        (
            '[workload_options]\npath = "' + "x" * 5000 + '"',
            "my.toml:2: [workload_options] path: 'xxxxxxxxxxxxxxxxxxxxxxx",
        ),
    ],
)
def test_toml_that_an_enemy_wrote_is_refused_in_a_line(tmp_path: Path, text: str, error: str) -> None:
    file = tmp_path / "my.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read(file)
    assert error in str(caught.value)
    assert len(str(caught.value)) < 500


def test_names_and_values_on_the_command_line_that_are_too_long(file: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be used as a file: File name too long") as caught:
        read("x" * 5000)
    assert len(str(caught.value)) < 200
    with pytest.raises(ConfigError, match="nested too deeply") as caught:
        read(file, ["train.lr=" + "[" * 20000])
    assert len(str(caught.value)) < 300
    with pytest.raises(ConfigError, match="must be a") as caught:
        read(file, ["rounds.count=" + "x" * 20000])
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        (["secagg.threshold=7"], "[secagg] threshold: goes with secagg.neighbours: give both, or leave both"),
        (["secagg.neighbours=7"], "[secagg] threshold: goes with secagg.neighbours"),
        (["rounds.late=carry"], "[rounds] late: 'carry' cannot be combined with secure aggregation; use"),
    ],
)
def test_what_does_not_go_with_secure_aggregation(file: Path, overrides: list[str], text: str) -> None:
    secure = ["secagg.mode=honest_server"]
    assert read(file, secure).secagg.mode == "honest_server"
    with pytest.raises(ConfigError) as caught:
        read(file, [*secure, *overrides])
    assert text in str(caught.value)


def test_the_width_of_lanes_is_a_ring_codecs_own(file: Path) -> None:
    """Who asks for 64 bits, to have the plain sum, must not get the 8 of a codec in silence."""
    secure = ["secagg.mode=honest_server", "codec.up=ring-rotq:width=8"]
    for codec in ("ring-rotq:width=8", "ring-srht:keep=0.1,width=6", "auto"):
        with pytest.raises(
            ConfigError, match=r"secagg.width=\d+.* width: has no effect with codec.up = .* of their own"
        ):
            read(file, [secure[0], f"codec.up={codec}", "secagg.width=64"])
    with pytest.raises(ConfigError, match=r"has no effect with codec\.up"):
        read(file, [*secure, "secagg.width=32"])
    assert read(file, [secure[0], "secagg.width=64"]).secagg.width == 64
    file.write_text(TEXT + '[secagg]\nmode = "honest_server"\nwidth = 64\n')
    assert read(file).secagg.width == 64
    assert read(file, ["codec.up=auto"]).secagg.width == 32  # the file spoke of another codec
    run = to_toml(read(file, secure[1:]))
    file.write_text(run)
    assert to_toml(read(file)) == run  # the defaults of a run's own file contradict nothing


def test_turning_secure_aggregation_off_drops_what_the_file_says_of_it(file: Path) -> None:
    file.write_text(f'{TEXT}\n[secagg]\nmode = "honest_server"\nsigma = 80\n')
    assert (read(file).secagg.sigma, read(file, ["secagg.mode=off"]).secagg) == (80, SecAggSection())
