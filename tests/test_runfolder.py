"""The run folder: atomic files, one process at a time, and errors that name the file."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from fedkit.errors import CheckpointError, ConfigError, RunFailed
from fedkit.history import Carried, Fate, Outcome, RoundRecord
from fedkit.runfolder import RunFolder, load_tensors, replace_file, save_tensors
from fedkit.tensors import Tensors


def record(number: int) -> RoundRecord:
    fates = {"ann": Fate(Outcome.counted), "bob/ü": Fate(Outcome.refused, 'says "no"\n')}
    carried = {"cay": Carried(1, Outcome.lost, "its task has expired")}
    return RoundRecord(
        number, True, "", fates, carried, 0.1 + 0.2, {}, {"loss": 1 / 3}, 1, 2, 3, 0.5, 1.5, 0.1
    )


def test_a_new_folder_is_made_with_its_parents(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "a" / "b", resume=False)
    assert folder.path.is_dir()
    folder.close()


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(
        ConfigError,
        match=r"is not empty: give another folder, or resume it \(--resume, resume=True",
    ):
        RunFolder(tmp_path, resume=False)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_there_must_be_a_run_to_resume(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere: there is no run to resume"):
        RunFolder(tmp_path / "nowhere", resume=True)


def test_two_runs_cannot_have_one_folder(tmp_path: Path) -> None:
    first = RunFolder(tmp_path / "run", resume=False)
    with pytest.raises(ConfigError, match="run is in use by another process"):
        RunFolder(tmp_path / "run", resume=True)
    first.close()
    RunFolder(tmp_path / "run", resume=True).close()


_OTHER = """
import sys
from fedkit.errors import ConfigError
from fedkit.runfolder import RunFolder
try:
    RunFolder(sys.argv[1], resume=True)
except ConfigError as error:
    sys.exit(str(error))
"""


def test_nor_can_two_processes(tmp_path: Path) -> None:
    first = RunFolder(tmp_path / "run", resume=False)
    command = [sys.executable, "-c", _OTHER, str(first.path)]
    refused = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert refused.returncode == 1
    assert "is in use by another process" in refused.stderr
    first.close()
    assert subprocess.run(command, timeout=600).returncode == 0


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    replace_file(path, b"old")

    def fails(handle: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(RunFailed, match=r"file cannot be written \(no space left\): mend that, then resume"):
        replace_file(path, b"new and longer")
    assert path.read_bytes() == b"old"
    monkeypatch.undo()
    replace_file(path, b"new and longer")
    assert path.read_bytes() == b"new and longer"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_rounds_are_appended_and_read_back(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, resume=False)
    for number in range(3):
        folder.append_round(record(number))
    assert folder.read_rounds(3) == [record(0), record(1), record(2)]
    folder.close()


def test_rounds_beyond_the_checkpoint_are_cut_off(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, resume=False)
    for number in range(3):
        folder.append_round(record(number))
    with (tmp_path / "rounds.jsonl").open("a") as file:
        file.write('{"round": 3, "o')  # the process died here
    assert folder.read_rounds(2) == [record(0), record(1)]
    folder.append_round(record(2))
    assert folder.read_rounds(3) == [record(0), record(1), record(2)]
    assert len((tmp_path / "rounds.jsonl").read_text().splitlines()) == 3
    folder.close()


def test_a_line_that_was_never_finished_is_overwritten(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, resume=False)
    folder.append_round(record(0))
    with (tmp_path / "rounds.jsonl").open("a") as file:
        file.write("{")
    folder.read_rounds(1)
    folder.append_round(record(1))
    assert folder.read_rounds(2) == [record(0), record(1)]
    folder.close()


def test_fewer_rounds_than_the_checkpoint_counts_are_an_error(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, resume=False)
    assert folder.read_rounds(0) == []
    with pytest.raises(CheckpointError, match=r"rounds\.jsonl has 0 rounds, the checkpoint counts 1"):
        folder.read_rounds(1)
    folder.close()


@pytest.mark.parametrize("line", [b"{}", b"not json", b"[]", b"\xff\xfe", b"", b'{"round": 0, "fates": 3}'])
def test_a_damaged_round_is_an_error_that_names_the_file(tmp_path: Path, line: bytes) -> None:
    folder = RunFolder(tmp_path, resume=False)
    folder.append_round(record(0))
    before = (tmp_path / "rounds.jsonl").read_bytes()
    (tmp_path / "rounds.jsonl").write_bytes(before + line + b"\n")
    with pytest.raises(CheckpointError, match=r"rounds\.jsonl is damaged"):
        folder.read_rounds(2)
    folder.close()


def test_json_files(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, resume=False)
    assert folder.read_json("x.json") is None
    folder.write_json("x.json", {"a": [1, 0.1]})
    assert folder.read_json("x.json") == {"a": [1, 0.1]}
    (tmp_path / "x.json").write_text('{"a": ')
    with pytest.raises(CheckpointError, match=r"x\.json is damaged"):
        folder.read_json("x.json")
    folder.close()


def test_models_keep_names_shapes_and_dtypes(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, resume=False)
    model: Tensors = {
        "a/b:": np.arange(6, dtype=np.float32).reshape(2, 3).T,
        "": np.array(3, np.int64),
        "e": np.zeros((0, 2)),
    }
    folder.write_model("m.safetensors", model)
    back = load_file(tmp_path / "m.safetensors")
    assert back.keys() == model.keys()
    for name, array in model.items():
        assert (back[name].shape, back[name].dtype) == (array.shape, array.dtype)
        assert (back[name] == array).all()
    folder.close()


def test_tensors_with_text_and_without_dimensions(tmp_path: Path) -> None:
    save_tensors(tmp_path / "t", {"0": np.array(1.5), "1": np.arange(6)[::2]}, {"about": "ü"})
    arrays, about = load_tensors(tmp_path / "t")
    assert (arrays["0"].shape, float(arrays["0"]), arrays["1"].tolist()) == ((), 1.5, [0, 2, 4])
    assert about == {"about": "ü"}


def test_a_directory_is_no_tensor_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_tensors(tmp_path)
