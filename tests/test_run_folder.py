"""A run's folder: whose it may be, and how it is called."""

import json

import pytest
import torch

from cl.errors import CheckpointError
from cl.precision import has_bfloat16
from cl.run_folder import RunFolder


def test_a_folder_that_is_not_empty_is_refused_unless_resumed(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("")
    with pytest.raises(CheckpointError, match=r"run is not empty.*--resume") as error:
        RunFolder(tmp_path / "run", resume=False)
    assert error.value.code == 5 and [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.tex"]
    with pytest.raises(CheckpointError, match=r"There is no run to resume at .*run"):
        RunFolder(tmp_path / "run", resume=True)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(CheckpointError, match=f"{path}.*--out") as error:
            RunFolder(path, resume=False)
        assert error.value.code == 5

    def refuse(path, content):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("cl.run_folder.replace_file", refuse)
    with pytest.raises(CheckpointError, match="Permission denied"):
        RunFolder(tmp_path / "run", resume=False)


def test_the_environment_says_whether_the_machine_computes_in_bfloat16(tmp_path):
    RunFolder(tmp_path / "run", resume=False)
    said = json.loads((tmp_path / "run" / "environment.json").read_text())["bfloat16"]
    assert said is has_bfloat16(torch.device("cuda" if torch.cuda.is_available() else "cpu"))


def test_fresh_folders_are_numbered(tmp_path):
    assert RunFolder.fresh("simclr", tmp_path).name == "simclr-1"
    assert RunFolder.fresh("simclr", tmp_path).name == "simclr-2"
