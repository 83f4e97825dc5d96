"""A run's folder: whose it may be, and how it is called."""

import pytest

from cl.errors import CheckpointError
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


def test_fresh_folders_are_numbered(tmp_path):
    assert RunFolder.fresh("simclr", tmp_path).name == "simclr-1"
    assert RunFolder.fresh("simclr", tmp_path).name == "simclr-2"
