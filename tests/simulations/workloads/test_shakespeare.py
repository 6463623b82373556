from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fedkit.errors import ConfigError, DataError
from fedkit_simulations.workloads.shakespeare import shakespeare, windows

LINE = b"to be or not to be "


@pytest.fixture
def made(tmp_path: Path) -> str:
    """Four roles of 300, 150, 60 and 8 characters in two plays; the last fifth of each is held out."""
    lengths = np.array([300, 150, 60, 8])
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    text = np.frombuffer((LINE * 40)[: offsets[-1]], np.uint8)
    np.savez(
        tmp_path / "shakespeare_roles.npz",
        text=text,
        offsets=offsets,
        test_start=(offsets[:-1] + lengths * 4 // 5).astype(np.int32),
        client_names=np.array(["a/ONE", "a/TWO", "b/THREE", "b/FOUR"]),
        play=np.array([0, 0, 1, 1], np.uint8),
    )
    return str(tmp_path)


def test_windows_fit_in_their_span() -> None:
    first, span = windows(np.array([0, 100, 200]), np.array([31, 110, 211]), 10, 10)
    np.testing.assert_array_equal(first, [0, 10, 20, 200])
    np.testing.assert_array_equal(span, [0, 0, 0, 2])


def test_overlapping_windows() -> None:
    first, _ = windows(np.array([5]), np.array([20]), 10, 2)
    np.testing.assert_array_equal(first, [5, 7, 9])


def test_roles_with_enough_text_are_the_clients(made: str) -> None:
    pytest.importorskip("torch")
    workload = shakespeare(data=made, sequence=20, stride=20, min_chars=50)
    assert workload.clients() == ["a/ONE", "a/TWO", "b/THREE"]
    assert [workload.trainer(c).examples for c in workload.clients()] == [11, 5, 2]
    longer = shakespeare(data=made, sequence=20, stride=20, min_chars=100)
    assert longer.clients() == ["a/ONE", "a/TWO"]


def test_targets_are_the_next_characters(made: str) -> None:
    torch = pytest.importorskip("torch")
    from fedkit_simulations.workloads.shakespeare import next_character, sequence_loss

    scores = next_character(7, 4, 1)(torch.zeros(2, 5, dtype=torch.uint8))
    assert scores.shape == (2, 5, 7)
    certain = torch.nn.functional.one_hot(torch.tensor([[1, 3], [2, 0]]), 7) * 100.0
    assert sequence_loss(certain, torch.tensor([[1, 3], [2, 0]], dtype=torch.uint8)) < 1e-6


def test_the_model_starts_ignorant_and_the_seed_decides(made: str) -> None:
    pytest.importorskip("torch")
    one, two = (shakespeare(data=made, hidden=8, sequence=20, min_chars=50) for _ in range(2))
    metrics = one.evaluate(one.init(0))
    characters = len(set(LINE))
    assert metrics["loss"] == pytest.approx(np.log(characters), rel=0.2)
    assert metrics == two.evaluate(two.init(0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sequence": 0}, "sequence = 0"),
        ({"stride": -1}, "stride = -1"),
        ({"test_windows": -1}, "test_windows = -1"),
        ({"min_chars": 10_000}, "no role has min_chars = 10000"),
    ],
)
def test_bad_options(made: str, options: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        shakespeare(data=made, **options)  # type: ignore[arg-type]


def test_missing_file_and_key(made: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FEDKIT_DATA", raising=False)
    with pytest.raises(DataError, match=r"cannot find shakespeare_roles\.npz.*docs/data\.md"):
        shakespeare()
    np.savez(Path(made) / "shakespeare_roles.npz", text=np.zeros(3, np.uint8))
    with pytest.raises(DataError, match=r"shakespeare_roles\.npz has no array 'offsets'"):
        shakespeare(data=made)


@pytest.mark.data
def test_real_roles(real: Callable[[str], str]) -> None:
    pytest.importorskip("torch")
    workload = shakespeare(data=real("shakespeare_roles.npz"))
    assert len(workload.clients()) == 639
    assert "hamlet/HAMLET" in workload.clients()
    assert sum(a.size for a in workload.init(0).values()) == 213_164
    assert workload.trainer("hamlet/HAMLET").examples > 400
