"""A device's name need not be one of its workload's clients."""

from __future__ import annotations

import numpy as np
import pytest

from fedkit.errors import ConfigError
from fedkit.workloads import is_workload
from fedkit_clients import NumpyWorkload, Softmax
from fedkit_clients.edge.shard import of_device


def make(*names: str) -> NumpyWorkload:
    """Client number i has i + 1 examples."""
    data = {
        name: (np.zeros((i + 1, 4), np.float32), np.zeros(i + 1, np.int64)) for i, name in enumerate(names)
    }
    return NumpyWorkload(Softmax(4, 2), data)


def test_a_name_of_the_workload_is_taken_as_it_is() -> None:
    workload = make("c000", "c001")
    assert of_device(workload, "c001") is workload


def test_data_are_chosen_by_their_name_or_are_the_only_ones() -> None:
    many, one = make("c000", "c001"), make("me")
    for workload, shard, wanted in ((many, "c001", "c001"), (one, "", "me"), (one, "me", "me")):
        made = of_device(workload, "pi-7", shard)
        assert is_workload(made)
        assert made.clients() == ("pi-7",)
        assert np.array_equal(made.init(3)["weight"], workload.init(3)["weight"])
        trained, plain = made.trainer("pi-7").evaluate(made.init(3)), workload.trainer(wanted)
        assert trained == plain.evaluate(workload.init(3))
        with pytest.raises(KeyError):
            made.trainer(wanted)
    assert of_device(many, "c000", "c001").clients() == ("c000",), "it may even be another's"


@pytest.mark.parametrize(("client", "shard"), [("c002", ""), ("c000", "c002")])
def test_data_that_are_not_there_are_told_with_what_is(client: str, shard: str) -> None:
    with pytest.raises(ConfigError, match=r"no data of client 'c002'; did you mean 'c000'.*--shard"):
        of_device(make("c000", "c001x"), client, shard)
