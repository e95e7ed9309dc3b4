"""The folder of a run: whole files, one writer, no other run's data, clear storage errors."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_sweep_definition import definition

from fastdim.errors import StoreError
from fastdim.sweeps import folder as folders
from fastdim.sweeps.folder import RunFolder, check_output, open_run, read_json, write_json


def test_floats_survive_to_the_last_bit(tmp_path):
    values = [0.1, 1 / 3, 5e-324, 1.7976931348623157e308, -0.0]
    write_json(tmp_path / "x.json", values)
    assert [v.hex() for v in read_json(tmp_path / "x.json")] == [v.hex() for v in values]
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "x.json", [float("nan")])


def test_a_failed_write_leaves_the_old_file_and_no_rubbish(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    write_json(path, {"old": 1})

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(folders.os, "fsync", full)
    with pytest.raises(
        StoreError, match=r"No space left on device; what was finished is kept, free some space"
    ):
        write_json(path, {"new": 2})
    assert read_json(path) == {"old": 1}
    assert os.listdir(tmp_path) == ["x.json"]


def test_damaged_json_is_named(tmp_path):
    path = tmp_path / "0000-all.json"
    path.write_text('{"a": 1')
    with pytest.raises(StoreError, match=r"0000-all\.json is damaged.*Delete it"):
        read_json(path)


def test_a_new_run_writes_its_definition_and_can_be_opened_again(tmp_path):
    with open_run(tmp_path / "out", definition()) as run:
        assert run.definition() == definition()
        assert json.loads((run.path / "run.json").read_text())["sha256"] == definition().sha256
    with open_run(tmp_path / "out", definition()):
        pass
    with (
        pytest.raises(StoreError, match=r"holds another run.*\n.*--seed: 0 there, 9 now"),
        open_run(tmp_path / "out", definition(seed=9)),
    ):
        pass


def test_left_over_temporary_files_go(tmp_path):
    with open_run(tmp_path, definition()) as run:
        (run.pieces / ".0000-all.json.77.tmp").write_text("half")
    with open_run(tmp_path, definition()) as run:
        assert list(run.pieces.iterdir()) == []


def test_temporary_files_of_others_stay(tmp_path):
    (tmp_path / "mail.tmp").write_text("another program's")
    with pytest.raises(StoreError, match=r"is not empty and holds no fastdim run \(mail\.tmp\)"):
        check_output(tmp_path)
    out = tmp_path / "out"
    with open_run(out, definition()):
        (out / "mail.tmp").write_text("another program's")
        (out / "results.csv.tmp").write_text("half a table")
    with open_run(out, definition()):
        left = sorted(path.name for path in out.iterdir())
    assert left == ["lock", "mail.tmp", "pieces", "run.json"]


def test_folders_that_are_not_ours_are_refused(tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"x")
    with pytest.raises(StoreError, match=r"holds no fastdim run \(photo\.jpg\)"):
        check_output(tmp_path)
    with pytest.raises(StoreError, match="is a file"):
        check_output(tmp_path / "photo.jpg")
    check_output(tmp_path / "new" / "deeper")
    assert not (tmp_path / "new").exists()


def test_a_lock_of_a_living_process_is_respected_and_ends_with_it(tmp_path):
    code = (
        "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX);"
        "f.write('pid 7'); f.flush(); print('locked', flush=True); sys.stdin.read()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with child:
        assert child.stdout.readline() == "locked\n"
        with (
            pytest.raises(StoreError, match=r"another process \(pid 7\) is writing"),
            open_run(tmp_path, definition()),
        ):
            pass
        child.kill()
    with open_run(tmp_path, definition()):
        pass


def test_a_lock_file_removed_by_a_run_that_was_taken_back_is_no_lock(tmp_path, monkeypatch):
    path, opened = tmp_path / "out", []
    real = folders.fcntl.flock

    def flock(descriptor, how):
        opened.append(os.fstat(descriptor).st_ino)
        if len(opened) == 1:  # another process is refused between opening and locking
            (path / "lock").unlink()
        real(descriptor, how)

    monkeypatch.setattr(folders.fcntl, "flock", flock)
    with (
        open_run(path, definition()),
        pytest.raises(StoreError, match=f"pid {os.getpid()}"),
        open_run(path, definition()),
    ):
        pass
    assert len(opened) == 3
    assert opened[1] == opened[2] == (path / "lock").stat().st_ino


def test_reading_a_folder_without_a_run():
    with pytest.raises(StoreError, match=r"no run\.json"):
        RunFolder(Path("/nowhere")).definition()


def test_a_piece_of_another_definition_is_refused(tmp_path):
    with open_run(tmp_path, definition()) as run:
        write_json(run.piece_path(3, "all"), {"definition": "other"})
        assert run.piece(2, "all", definition().sha256) is None
        with pytest.raises(StoreError, match=r"0003-all\.json belongs to another run"):
            run.piece(3, "all", definition().sha256)
