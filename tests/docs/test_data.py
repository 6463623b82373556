"""docs/data.md: its recipes run on files of the sources' format, its checksums are those of the data."""

import gzip
import hashlib
import html
import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

PAGE = Path(__file__).parents[2] / "docs" / "data.md"
FILES = (
    "adult.npz",
    "fedprox_synthetic_test.npz",
    "heart_disease.npz",
    "mnist.npz",
    "shakespeare_roles.npz",
    "wisdm_har.npz",
)
Arrays = Mapping[str, Any]


@pytest.fixture(scope="module")
def recipes() -> dict[str, Any]:
    """What the page's code blocks define, run in their order."""
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
        exec(compile(block, str(PAGE), "exec"), names)
    return names


def real(name: str) -> Path:
    path = Path(os.environ.get("FEDKIT_DATA", "")) / name
    if not os.environ.get("FEDKIT_DATA") or not path.is_file():
        pytest.skip(f"needs {name} in the directory FEDKIT_DATA (docs/data.md)")
    return path


def arrays_of(name: str) -> Arrays:
    with np.load(real(name), allow_pickle=False) as archive:
        return dict(archive)


@pytest.mark.data
@pytest.mark.parametrize("name", FILES)
def test_checksums(name: str, recipes: dict[str, Any]) -> None:
    path = real(name)
    of_file, of_content = re.findall(rf"^    ([0-9a-f]{{64}})  {re.escape(name)}$", PAGE.read_text(), re.M)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == of_file
    assert recipes["content"](arrays_of(name)) == of_content


def write_idx(path: Path, array: np.ndarray[Any, Any], code: int) -> None:
    head = bytes([0, 0, code, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    path.write_bytes(gzip.compress(head + array.astype({8: ">u1", 12: ">i4"}[code]).tobytes(), 1))


def write_mnist(folder: Path, a: Arrays) -> None:
    for part, prefix in (("train", "train"), ("test", "t10k")):
        write_idx(folder / f"{prefix}-images-idx3-ubyte.gz", a[f"x_{part}"], 8)
        write_idx(folder / f"{prefix}-labels-idx1-ubyte.gz", a[f"y_{part}"], 8)
        columns = [a[f"{key}_{part}"].astype(np.int32) for key in ("y", "hsf", "writer")]
        labels = np.column_stack([*columns, *np.zeros((5, len(columns[0])), np.int32)])
        beyond = labels[:7] if part == "test" else labels[:0]
        write_idx(folder / f"qmnist-{part}-labels-idx2-int.gz", np.concatenate([labels, beyond]), 12)


def write_heart(folder: Path, a: Arrays) -> None:
    for k, name in enumerate(a["center_names"]):
        rows = a["raw"][a["raw_center"] == k]
        lines = [",".join("?" if np.isnan(v) else str(v) for v in row) for row in rows]
        (folder / f"processed.{name}.data").write_text("\n".join(lines) + "\n")


def write_wisdm(folder: Path, a: Arrays) -> None:
    names = ["UNIQUE_ID", "user", *a["feature_names"], "class"]
    head = [f'@attribute "{name}" numeric' for name in names]
    rows = []
    for i, (user, row, label) in enumerate(zip(a["user"], a["x"], a["y"], strict=True)):
        values = ["?" if np.isnan(v) else str(v) for v in row]
        rows.append(",".join([str(i), str(user), *values, a["class_names"][label]]))
    text = "\n".join(["@relation act", *head, "@data", *rows])
    (folder / "WISDM_ar_v1.1_transformed.arff").write_text(text + "\n")


def write_adult(folder: Path, a: Arrays, order: list[str]) -> None:
    columns = [
        a[f"num_{n}"].astype(str) if f"num_{n}" in a else a[f"levels_{n}"][a[f"cat_{n}"]] for n in order
    ]
    label = np.where(a["y"] == 1, ">50K", "<=50K")
    rows = [", ".join(row) for row in zip(*columns, label, strict=True)]
    train = [row for row, split in zip(rows, a["split"], strict=True) if split == 0]
    test = [row + "." for row, split in zip(rows, a["split"], strict=True) if split == 1]
    (folder / "adult.data").write_text("\n".join([*train, ""]))
    (folder / "adult.test").write_text("\n".join(["|1x3 Cross validator", *test, ""]))


def write_shakespeare(folder: Path, a: Arrays) -> None:
    text, ends = a["text"].tobytes().decode(), a["offsets"]
    for number, play in enumerate(a["play_names"]):
        page = ["<H3>ACT I</h3>\n<h3>SCENE I.</h3>\n<i>Enter all</i>\n"]
        for k in np.flatnonzero(a["play"] == number):
            said = html.escape(text[ends[k] : ends[k + 1]]).splitlines()
            role = html.escape(a["client_names"][k].split("/", 1)[1])
            page.append(f"<A NAME=speech{k}><b>{role}</b></a>\n<blockquote>\n")
            page += [f"<A NAME=1.1.{i}>{line}</A><br>\n" for i, line in enumerate(said)]
            page.append("<p><i>Exit</i></p>\n</blockquote>\n")
        (folder / f"{play}.html").write_text("".join(page))


def write_fedprox(folder: Path, a: Arrays) -> None:
    for name in ("iid", "0_0", "0.5_0.5", "1_1"):
        key = name.replace(".", "p")
        x, y, owner = (a[f"{part}_{key}"] for part in ("x", "y", "client"))
        users = [f"f_{k:05d}" for k in range(owner.max() + 1)]
        data = {
            user: {"x": x[owner == k].astype(float).tolist(), "y": y[owner == k].astype(float).tolist()}
            for k, user in enumerate(users)
        }
        path = folder / f"synthetic_{name}" / "data" / "test" / "mytest.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"users": users, "user_data": data}))


WRITERS: dict[str, tuple[str, Callable[..., None]]] = {
    "mnist": ("mnist.npz", write_mnist),
    "heart": ("heart_disease.npz", write_heart),
    "wisdm": ("wisdm_har.npz", write_wisdm),
    "adult": ("adult.npz", write_adult),
    "shakespeare": ("shakespeare_roles.npz", write_shakespeare),
    "fedprox_synthetic": ("fedprox_synthetic_test.npz", write_fedprox),
}


@pytest.mark.data
@pytest.mark.parametrize("recipe", WRITERS)
def test_recipes(recipe: str, recipes: dict[str, Any], tmp_path: Path) -> None:
    if recipe == "heart":
        pytest.importorskip("sklearn")
    name, write = WRITERS[recipe]
    expected = arrays_of(name)
    write(tmp_path, expected, *([recipes["ADULT"]] if recipe == "adult" else []))
    made = recipes[recipe](tmp_path)
    assert sorted(made) == sorted(expected)
    for key, array in expected.items():
        np.testing.assert_array_equal(made[key], array, err_msg=key)
    assert recipes["content"](made) == recipes["content"](expected)
