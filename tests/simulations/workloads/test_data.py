"""Data files: where they are looked for, and errors that name the file and the key."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from fedkit.errors import DataError
from fedkit_simulations.workloads import data


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv(data.ENVIRONMENT, raising=False)
    np.savez(tmp_path / "set.npz", x=np.zeros((4, 3)), y=np.arange(4), odd=np.zeros(5))
    return tmp_path


def test_a_file_or_its_folder_may_be_given(folder: Path) -> None:
    assert data.find("set.npz", str(folder)) == folder / "set.npz"
    assert data.find("other.npz", str(folder / "set.npz")) == folder / "set.npz"


def test_the_environment_names_a_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(data.ENVIRONMENT, str(folder))
    assert data.find("set.npz") == folder / "set.npz"


def test_an_explicit_place_is_never_replaced_by_the_environment(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(data.ENVIRONMENT, str(folder))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"set\.npz.*empty.*docs/data\.md"):
        data.find("set.npz", str(tmp_path / "empty"))


def test_nothing_given_says_what_to_set(folder: Path) -> None:
    with pytest.raises(
        DataError,
        match=r"cannot find set\.npz .*FEDKIT_DATA is not set.*workload_options\.data.*docs/data\.md",
    ):
        data.find("set.npz")


def test_a_missing_file_names_the_place(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(data.ENVIRONMENT, str(folder))
    with pytest.raises(DataError, match=rf"nothing\.npz.*{folder}"):
        data.find("nothing.npz")


def test_load_reads_what_is_expected_and_no_more(folder: Path) -> None:
    arrays = data.load("set.npz", str(folder), {"x": ("n", 3), "y": ("n",)})
    assert sorted(arrays) == ["x", "y"]
    assert sorted(data.load("set.npz", str(folder))) == ["odd", "x", "y"]


@pytest.mark.parametrize(
    ("expect", "message"),
    [
        ({"xx": ("n", 3)}, r"no array 'xx'.*did you mean|no array 'xx'; known"),
        ({"x": ("n",)}, r"'x' has shape \(4, 3\), expected \(n,\)"),
        ({"x": ("n", 4)}, r"'x' has shape \(4, 3\), expected \(n, 4\)"),
        ({"x": ("n", 3), "odd": ("n",)}, r"'odd' has shape \(5,\), expected \(n,\), n = 4 from 'x'"),
    ],
)
def test_a_wrong_file_is_told_by_key(folder: Path, expect: dict[str, data.Shape], message: str) -> None:
    with pytest.raises(DataError, match=message):
        data.load("set.npz", str(folder), expect)


def test_check_names_a_missing_key() -> None:
    with pytest.raises(DataError, match=r"a\.npz has no array 'y'; known: x"):
        data.check("a.npz", {"x": np.zeros(2)}, {"y": ("n",)})


def test_pickles_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "evil.npz", x=np.array([{}], dtype=object))
    with pytest.raises(DataError, match=r"evil\.npz: array 'x' cannot be read without pickle"):
        data.load("evil.npz", str(tmp_path))


def test_damaged_and_foreign_files_are_told(tmp_path: Path) -> None:
    (tmp_path / "noise.npz").write_bytes(b"PK\x03\x04 not an archive")
    np.save(tmp_path / "bare.npy", np.zeros(2))
    with pytest.raises(DataError, match=r"noise\.npz is not a readable"):
        data.load("noise.npz", str(tmp_path))
    with pytest.raises(DataError, match="one bare array"):
        data.load("bare.npy", str(tmp_path))


def test_checksum_is_sha256(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc")
    assert data.checksum(tmp_path / "f") == hashlib.sha256(b"abc").hexdigest()
