"""Reading a user's files: what is taken, and errors that name the line and the column."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedkit.errors import ConfigError, DataError
from fedkit_simulations.workloads.table import read_table

CSV = "age,town,y,client\n1.5,oslo,yes,a\n2,rome,no,b\n\n-3e1,oslo,yes,a\n"


def write(folder: Path, text: str) -> str:
    (folder / "d.csv").write_text(text, encoding="utf-8")
    return str(folder / "d.csv")


def test_csv_columns_become_numbers_and_one_hot_codes(tmp_path: Path) -> None:
    table = read_table(write(tmp_path, "\ufeff" + CSV), "x", "y", "")
    assert table.x.tolist() == [[1.5, 1, 0], [2, 0, 1], [-30, 1, 0]]
    assert table.y.tolist() == ["yes", "no", "yes"]
    assert table.client is not None
    assert table.client.tolist() == ["a", "b", "a"]


def test_csv_columns_may_be_chosen_by_name(tmp_path: Path) -> None:
    table = read_table(write(tmp_path, CSV), "age", "town", "y")
    assert table.x.tolist() == [[1.5], [2], [-30]]
    assert table.y.tolist() == ["oslo", "rome", "oslo"]
    assert table.client is not None
    assert table.client.tolist() == ["yes", "no", "yes"]
    assert read_table(write(tmp_path, "x,z,y\n1,2,0\n"), "x", "y", "").x.tolist() == [[1]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,y\n1,0\n?,1\n", r"d\.csv, line 3, column 'a': missing value \('\?'\)"),
        ("a,y\n1,0\n\n2,\n", r"line 4, column 'y': missing value"),
        ("a,y,client\n1,0,\n", r"line 2, column 'client': missing value"),
        ("a,y\n1,0\ninf,1\n", r"line 3, column 'a': not a finite number"),
        ("a,b,y\n1,0,0\n1,1e300,1\n", r"line 3, column 'b': is 1e\+300, beyond float32"),
        ("a,y\n1,0\n1,2,3\n", r"line 3: 3 values, the header has 2"),
        ("a,a,y\n1,2,3\n", r"column 'a' is in the header twice"),
        ("a,label\n1,2\n", r"no column 'y' \(y = 'y'\)"),
        ("a,y\n", r"at least one row"),
        ("", r"needs a header"),
        ("a;y\n1;2\n", r"header of comma-separated names"),
        ("y,client\n1,2\n", r"no feature columns"),
        ('a,y\n"1,2\n', r"not comma-separated"),
        ("a,y\n" + "".join(f"id{i},0\n" for i in range(101)), r"column 'a' holds 101 different texts"),
    ],
)
def test_a_bad_csv_is_told_by_line_and_column(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_table(write(tmp_path, text), "x", "y", "")


def test_a_wrong_name_of_a_column_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no column 'agee' \(x = 'agee'\); did you mean 'age'"):
        read_table(write(tmp_path, CSV), "agee", "y", "")
    with pytest.raises(DataError, match=r"no column 'clint' \(client = 'clint'\); did you mean 'client'"):
        read_table(write(tmp_path, CSV), "x", "y", "clint")


def test_a_csv_must_be_utf8(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_bytes(b"a,y\n\xff,1\n")
    with pytest.raises(DataError, match="UTF-8"):
        read_table(str(tmp_path / "d.csv"), "x", "y", "")


def test_npz_inputs_of_any_shape_become_rows(tmp_path: Path) -> None:
    arrays = {"x": np.arange(24).reshape(4, 2, 3), "y": np.arange(4), "client": np.array([1, 1, 2, 2])}
    np.savez(tmp_path / "d.npz", **arrays, x_test=np.zeros((1, 6)), y_test=np.array([3]))  # type: ignore[arg-type]
    table = read_table(str(tmp_path / "d.npz"), "x", "y", "")
    assert table.x.shape == (4, 6)
    assert table.client is not None
    assert table.test is not None
    assert table.test[0].shape == (1, 6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": np.zeros(4)}, r"'x' is float64 \(4,\); it must be numbers"),
        ({"x": np.array([["a"]] * 4)}, r"'x' is <U1"),
        ({"x": np.array([[0.0], [1.0], [np.nan], [2.0]])}, r"'x' row 2, column 0 is missing"),
        ({"x": np.array([[0.0], [-1e300], [1.0], [2.0]])}, r"'x' row 1, column 0 is -1e\+300, beyond"),
        ({"y": np.zeros(3)}, r"'y' has shape \(3,\), expected \(4,\)"),
        ({"client": np.zeros(3)}, r"'client' has shape \(3,\)"),
        ({"x_test": np.zeros((2, 2))}, r"has 'x_test' but no 'y_test'"),
        ({"x_test": np.zeros((2, 2)), "y_test": np.zeros(2)}, r"'x_test' has 2 features, 'x' has 3"),
    ],
)
def test_a_bad_npz_is_told_by_array(tmp_path: Path, change: dict[str, object], message: str) -> None:
    arrays: dict[str, object] = {"x": np.zeros((4, 3)), "y": np.arange(4), **change}
    np.savez(tmp_path / "d.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=message):
        read_table(str(tmp_path / "d.npz"), "x", "y", "")


def test_a_wrong_name_of_an_array_is_told(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=np.zeros((4, 3)), labels=np.arange(4))
    with pytest.raises(DataError, match=r"no array 'label' \(y = 'label'\); did you mean 'labels'"):
        read_table(str(tmp_path / "d.npz"), "x", "label", "")


def test_a_file_that_is_not_there_or_not_known_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"path = 'gone\.npz': no such file"):
        read_table("gone.npz", "x", "y", "")
    (tmp_path / "d.txt").write_text("1")
    with pytest.raises(DataError, match=r"must end in \.npz or \.csv"):
        read_table(str(tmp_path / "d.txt"), "x", "y", "")


@pytest.mark.parametrize("path", ["x" * 300 + ".npz", "a\0.csv", "~nobody-of-that-name/a.csv"])
def test_a_name_that_no_file_can_have_is_told(path: str) -> None:
    with pytest.raises(ConfigError, match="cannot be used as a file"):
        read_table(path, "x", "y", "")
