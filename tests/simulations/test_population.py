"""Laws of partitioning: exact cover, sizes, determinism; errors name the key."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedkit.config import Population
from fedkit.errors import ConfigError
from fedkit.seeds import stream
from fedkit_simulations.dirichlet import dirichlet, log_gamma
from fedkit_simulations.population import MADE, client_names, partition


def labels_of(examples: int, kinds: int, seed: int = 0) -> NDArray[np.int64]:
    return stream(seed, "labels").integers(0, kinds, examples)


populations = st.builds(
    Population,
    clients=st.integers(1, 12),
    partition=st.sampled_from(MADE),
    alpha=st.sampled_from([1e-4, 0.1, 1.0, 100.0]),
    shards=st.integers(1, 4),
)


@settings(deadline=None, max_examples=120)
@given(populations, st.integers(60, 200), st.integers(1, 7), st.integers(0, 5))
def test_every_example_is_used_exactly_once(
    population: Population, examples: int, kinds: int, seed: int
) -> None:
    parts = partition(labels_of(examples, kinds, seed), population, seed)
    assert list(parts) == client_names(population.clients or 0)
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(examples))
    assert all(part.dtype == np.int64 and (np.diff(part) > 0).all() for part in parts.values())
    assert min(len(part) for part in parts.values()) >= population.min_examples


@settings(deadline=None, max_examples=40)
@given(populations, st.integers(0, 100))
def test_the_seed_fixes_the_partition(population: Population, seed: int) -> None:
    labels = labels_of(80, 4)
    first, again = (partition(labels, population, seed) for _ in range(2))
    assert all((first[name] == again[name]).all() for name in first)


@pytest.mark.parametrize("way", MADE)
def test_another_seed_makes_another_partition(way: str) -> None:
    population = Population(clients=5, partition=way)  # type: ignore[arg-type]
    first, other = (partition(labels_of(100, 4), population, seed) for seed in (0, 1))
    assert any(first[name].tolist() != other[name].tolist() for name in first)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 10), st.integers(0, 10), st.integers(0, 9))
def test_quantity_raises_small_clients_to_the_minimum(clients: int, least: int, seed: int) -> None:
    population = Population(clients=clients, partition="quantity", alpha=0.05, min_examples=least)
    parts = partition(labels_of(100, 3), population, seed)
    assert min(len(part) for part in parts.values()) >= least
    assert sum(len(part) for part in parts.values()) == 100


@pytest.mark.parametrize("way", ["iid", "dirichlet"])
def test_sizes_differ_by_at_most_one(way: str) -> None:
    population = Population(clients=7, partition=way)  # type: ignore[arg-type]
    sizes = [len(part) for part in partition(labels_of(100, 4), population, 3).values()]
    assert max(sizes) - min(sizes) == 1


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 4), st.sampled_from([5, 10]), st.integers(0, 9))
def test_a_client_has_at_most_as_many_labels_as_shards(pieces: int, clients: int, seed: int) -> None:
    labels = stream(seed, "order").permutation(6 * clients * pieces) % 5
    population = Population(clients=clients, partition="shards", shards=pieces)
    for part in partition(labels, population, seed).values():
        assert len(part) == 6 * pieces
        assert len(np.unique(labels[part])) <= pieces


def test_alpha_says_how_alike_clients_are() -> None:
    labels = labels_of(4000, 10)

    def distance(alpha: float) -> float:
        parts = partition(labels, Population(clients=20, partition="dirichlet", alpha=alpha), 0)
        shares = np.array([np.bincount(labels[part], minlength=10) / len(part) for part in parts.values()])
        return float(np.abs(shares - np.bincount(labels) / len(labels)).sum(axis=1).mean() / 2)

    near, middle, far = distance(100.0), distance(0.5), distance(0.01)
    assert near < 0.1 < 0.3 < middle < 0.6 < 0.7 < far


def test_dirichlet_does_not_leave_the_odd_labels_to_the_last_clients() -> None:
    labels = np.repeat(np.arange(4), [700, 100, 100, 100])
    parts = list(partition(labels, Population(clients=50, partition="dirichlet", alpha=0.2), 1).values())
    share = np.array([(labels[part] == 0).mean() for part in parts])
    assert abs(share[:25].mean() - share[25:].mean()) < 0.25


def test_natural_clients_keep_their_ids() -> None:
    owner = np.array(["b", "a", "b", "c", "a", "b"])
    parts = partition(np.zeros(6), Population(), 0, owner)
    assert {name: part.tolist() for name, part in parts.items()} == {"a": [1, 4], "b": [0, 2, 5], "c": [3]}
    few = partition(np.zeros(6), Population(min_examples=2), 0, owner)
    assert list(few) == ["a", "b"]


def test_some_natural_clients_are_drawn_by_the_seed() -> None:
    owner = np.repeat(np.arange(30), 4)
    whole = partition(np.zeros(120), Population(), 0, owner)
    some = [partition(np.zeros(120), Population(clients=10), seed, owner) for seed in (0, 0, 1)]
    assert list(some[0]) == sorted(some[0]) == list(some[1]) != list(some[2])
    assert all((whole[name] == part).all() and len(some[0]) == 10 for name, part in some[0].items())


def test_made_partitions_take_the_number_of_natural_clients() -> None:
    parts = partition(np.zeros(12), Population(partition="iid"), 0, np.repeat(np.arange(4), 3))
    assert list(parts) == client_names(4)


@pytest.mark.parametrize(
    ("population", "message"),
    [
        (Population(), "names no clients.*'dirichlet'"),
        (Population(partition="iid"), "population.clients is not set"),
        (Population(clients=0, partition="iid"), "population.clients = 0"),
        (Population(clients=11, partition="iid"), "population.clients = 11: 10 examples"),
        (Population(clients=4, partition="iid", min_examples=3), "population.min_examples = 3"),
        (Population(clients=3, partition="shards", shards=4), "population.shards = 4"),
        (Population(clients=3, partition="shards", shards=0), "population.shards = 0"),
        (Population(clients=3, partition="dirichlet", alpha=0.0), "population.alpha = 0"),
        (Population(clients=3, partition="quantity", alpha=float("nan")), "population.alpha = nan"),
        (Population(clients=3, partition="iid", min_examples=-1), "population.min_examples = -1"),
        (Population(clients=3, partition="dirichlt"), "did you mean 'dirichlet'"),  # type: ignore[arg-type]
    ],
)
def test_an_impossible_population_names_the_key(population: Population, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        partition(labels_of(10, 3), population, 0)


def test_shards_too_uneven_for_the_minimum_are_an_error() -> None:
    population = Population(clients=3, partition="shards", shards=2, min_examples=3)
    with pytest.raises(ConfigError, match=r"min_examples = 3.*a client only 2"):
        partition(labels_of(10, 3), population, 7)


def test_too_many_natural_clients_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"population\.clients = 3: the data has 2 clients"):
        partition(np.zeros(4), Population(clients=3), 0, np.array([0, 0, 1, 1]))
    with pytest.raises(ConfigError, match=r"0 clients with at least population\.min_examples = 5"):
        partition(np.zeros(4), Population(min_examples=5), 0, np.array([0, 0, 1, 1]))
    with pytest.raises(ConfigError, match="3 client ids for 4 examples"):
        partition(np.zeros(4), Population(), 0, np.array([0, 0, 1]))
    with pytest.raises(ConfigError, match=r"not of shape \(4, 2\)"):
        partition(np.zeros((4, 2)), Population(), 0)


@pytest.mark.parametrize("shape", [0.1, 1.0, 5.0])
def test_gamma_draws_have_mean_and_variance_of_the_shape(shape: float) -> None:
    draws = np.exp(log_gamma(stream(0, "gamma"), np.full(100_000, shape)))
    error = 5 * np.sqrt((3 * shape**2 + 6 * shape) / 100_000)
    assert abs(draws.mean() - shape) < 5 * np.sqrt(shape / 100_000)
    assert abs(draws.var() - shape) < error


def test_dirichlet_draws_have_the_mean_of_the_concentration_even_when_tiny() -> None:
    rows = dirichlet(stream(0, "d"), np.array([1e-4, 3e-4]), 20_000)
    assert np.isfinite(rows).all()
    np.testing.assert_allclose(rows.sum(axis=1), 1.0)
    np.testing.assert_allclose(rows.mean(axis=0), [0.25, 0.75], atol=0.02)
