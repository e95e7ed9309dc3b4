"""Checkpoints of one training through a track: same tokens, resume, disk, several models."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tiny_model import TEXT, save_tiny
from track_cases import (
    OPTIONS,
    TEXTS,
    break_weights,
    make_checkpoints,
    remove_weights,
)

from fastdim.cli import main
from fastdim.diagnose import phases
from fastdim.errors import InputError, ModelError, StoreError
from fastdim.sweeps import Sweep
from fastdim.track import expand, find_checkpoints, track
from fastdim.track_result import Track


@pytest.fixture
def checkpoints(tmp_path: Path) -> Path:
    return make_checkpoints(tmp_path / "training")


def test_every_checkpoint_is_measured_on_the_same_tokens(checkpoints: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = OPTIONS | {"formats": ("parquet", "csv", "html", "png")}
    found = track(None, TEXTS, out, checkpoints=[checkpoints / "checkpoint-*"], **options)
    assert found.steps == {"checkpoint-1": 1, "checkpoint-10": 10, "checkpoint-100": 100}
    table = found.table
    assert set(table["status"]) == {"ok"}
    assert set(table["model"]) == {"training"}
    assert table["step"].drop_duplicates().tolist() == [1, 10, 100]
    assert len({run.sample["tokens_sha256"] for run in found.runs}) == 1
    values = table.query("metric == 'anisotropy' and site == 'block' and filter == 'all'")
    assert values["value"].nunique() == 6
    for name in ("results.csv", "results.parquet", "report.html", "profiles.png"):
        assert (out / name).stat().st_size > 0
    # Activations go, what a bootstrap needs stays, and it comes back from the disk.
    assert not list(out.glob("*/activations"))
    again = Track.load(out)
    pd.testing.assert_frame_equal(again.table, table)
    assert len(phases(again, "anisotropy", smallest=0.0).layers) == 4
    # Its steps are its own, whatever the names say.
    given = OPTIONS | {"checkpoints": [checkpoints / "*"], "steps": [7, 5, 3]}
    renamed = track(None, TEXTS, tmp_path / "other", **given)
    assert phases(renamed, "anisotropy").steps == (3, 5, 7)


def test_a_track_goes_on_without_running_what_is_finished(
    checkpoints: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    late = checkpoints / "checkpoint-100"
    shutil.move(late, tmp_path / "later")
    first = track("m", TEXTS, out, checkpoints=[checkpoints / "*"], **OPTIONS)
    shutil.move(tmp_path / "later", late)
    written = {path: path.stat().st_mtime_ns for path in out.glob("*/pieces/*.json")}
    found = track("m", TEXTS, out, checkpoints=[checkpoints / "*"], **OPTIONS)
    assert len(found.runs) == len(first.runs) + 1
    assert {path: path.stat().st_mtime_ns for path in written} == written
    with pytest.raises(StoreError, match="another run"):
        track("m", TEXTS[:20], out, checkpoints=[checkpoints / "*"], **OPTIONS)


@pytest.mark.parametrize("keep", ["none", "rows"])
def test_what_is_kept(checkpoints: Path, tmp_path: Path, keep: str) -> None:
    out = tmp_path / "out"
    found = track(None, TEXTS, out, checkpoints=[checkpoints / "*"], keep=keep, **OPTIONS)
    assert len(list(out.glob("*/activations"))) == (3 if keep == "rows" else 0)
    known = [piece["documents"] is not None for piece in Track.load(out).runs[0].pieces]
    assert set(known) == {keep == "rows"}
    # Finished all the same: nothing is run again.
    shutil.rmtree(checkpoints / "checkpoint-1")
    save_tiny(checkpoints / "checkpoint-1", 0)
    again = track(None, TEXTS, out, checkpoints=[checkpoints / "*"], keep=keep, **OPTIONS)
    pd.testing.assert_frame_equal(again.table, found.table)
    if keep == "none":
        with pytest.raises(StoreError, match="its activations are removed"):
            track(None, TEXTS, out, checkpoints=[checkpoints / "*"], keep="rows", **OPTIONS)


def test_the_report_of_a_track_with_a_killed_checkpoint(
    checkpoints: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    remove_weights(checkpoints / "checkpoint-10")
    found = track(None, TEXTS, out, checkpoints=[checkpoints / "*"], **OPTIONS)
    report = ["report", str(out), "--formats", "csv", "-q"]
    # What was measured, the step of each and the failed one: as the track itself wrote it.
    written = (out / "results.csv").read_bytes()
    assert main(report) == 1
    assert (out / "results.csv").read_bytes() == written
    capsys.readouterr()
    # Killed while it ran the model (no sample), and while it measured (no step).
    late = out / "checkpoint-100"
    sample = json.loads((late / "sample.json").read_bytes())
    del sample["step"]
    for left in (None, sample):
        (late / "sample.json").unlink(missing_ok=True)
        if left is not None:
            (late / "sample.json").write_text(json.dumps(left))
        assert main(report) == 1
        assert f"{late} is not finished, and left out" in capsys.readouterr().err
        table = pd.read_csv(out / "results.csv")
        assert table["step"].drop_duplicates().tolist() == [1, 10]
        assert set(table[table["step"] == 1]["status"]) == {"ok"}
        assert main(["ls", str(out)]) == 0
        assert ("none yet" in capsys.readouterr().out) == (left is None)
    assert len(found.steps) == 3
    # Beside a sweep, rows of both.
    from fastdim import sweep

    sweep(str(checkpoints / "checkpoint-1"), TEXTS, output=tmp_path / "s", **OPTIONS)
    both = ["report", str(out), str(tmp_path / "s"), "-o", str(tmp_path / "both")]
    assert main([*both, "--formats", "csv", "-q"]) == 1
    table = pd.read_csv(tmp_path / "both" / "results.csv")
    assert table["model"].nunique() == 2
    assert "step" not in table


def test_several_models_in_one_command(
    checkpoints: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = checkpoints.with_name("other")
    for seed, step in enumerate((5, 50, 500)):
        save_tiny(other / f"checkpoint-{step}", 10 + seed)
    break_weights(other / "checkpoint-50")
    texts = tmp_path / "texts"
    texts.mkdir()
    for number, text in enumerate(TEXTS):
        (texts / f"{number:02d}.txt").write_text(text)
    out = tmp_path / "out"
    command = ["track", "training", "other", "--texts", str(texts), "--output", str(out)]
    command += ["--checkpoints", str(tmp_path / "{model}" / "checkpoint-*"), "--context", "16"]
    command += ["--max-tokens", "300", "--filter", "all", "--threads", "1", "--formats", "csv"]
    assert main(command) == 1
    told = capsys.readouterr()
    assert "training: 3 checkpoints measured, steps 1, 10, 100" in told.out
    assert "other: 2 checkpoints measured, steps 5, 500" in told.out
    assert "checkpoint other checkpoint-50 failed: 1 parameters hold NaN" in told.err
    table = pd.read_csv(out / "results.csv")
    steps = table.groupby("model")["step"].unique().map(sorted).to_dict()
    assert steps == {"training": [1, 10, 100], "other": [5, 50, 500]}
    assert set(table[table["status"] == "failed"]["revision"]) == {"checkpoint-50"}
    # Each model by itself, and both, from the disk.
    found = Track.load(out / "other")
    assert found.steps == {"checkpoint-5": 5, "checkpoint-50": 50, "checkpoint-500": 500}
    assert [name for name, _ in found.failed] == ["checkpoint-50"]
    both = Track.load(out)
    assert len(both.table) == len(table)
    assert [name for name, _ in both.failed] == ["other checkpoint-50"]
    assert main(["ls", str(out)]) == 0
    assert capsys.readouterr().out.count("checkpoint-") >= 5
    before = (out / "results.csv").read_bytes()
    assert main(["report", str(out), "--formats", "csv", "-q"]) == 1
    assert pd.read_csv(out / "results.csv").equals(table)
    assert before == (out / "results.csv").read_bytes()


def test_steps_of_several_models_are_told_apart(checkpoints: Path, tmp_path: Path) -> None:
    """Checkpoints of one name, of other steps: as where one training started from another."""
    given = OPTIONS | {"checkpoints": [checkpoints / "*"]}
    for name, steps in (("early", [1, 10, 100]), ("late", [1001, 1010, 1100])):
        track(name, TEXTS, tmp_path / "out" / name, steps=steps, **given)
    found = Track.load(tmp_path / "out")
    assert found.steps == {
        "early checkpoint-1": 1, "early checkpoint-10": 10, "early checkpoint-100": 100,
        "late checkpoint-1": 1001, "late checkpoint-10": 1010, "late checkpoint-100": 1100,
    }  # fmt: skip
    assert phases(found, "anisotropy", model="early").steps == (1, 10, 100)
    assert phases(found, "anisotropy", model="late").steps == (1001, 1010, 1100)


def test_trainings_of_one_model_name_are_one_clear_error(
    checkpoints: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where a checkpoint of each has one name; else they are parts of one training."""
    for name, chosen in (("a", "-1*"), ("b", "-1"), ("c", "-10")):
        folders = [checkpoints / f"checkpoint{chosen}"]
        if name != "a":  # a track has at least two
            folders.append(save_tiny(checkpoints / f"{name}-step7", 7))
        track("m", TEXTS, tmp_path / name, checkpoints=folders, **OPTIONS)
    told = "2 trainings are called 'm' and have a checkpoint 'checkpoint-1'"
    with pytest.raises(InputError, match=told):
        Track.load(tmp_path / "a", tmp_path / "b")
    both = [str(tmp_path / "a"), str(tmp_path / "b"), "--output", str(tmp_path / "page")]
    assert main(["report", *both, "-q"]) == 2
    assert told in capsys.readouterr().err
    parts = Track.load(tmp_path / "b", tmp_path / "c")
    assert sorted(parts.steps.values()) == [1, 7, 7, 10]
    with pytest.raises(InputError, match="are both of step 7"):
        phases(parts, "anisotropy")


def test_one_folder_holds_one_track(checkpoints: Path, tmp_path: Path) -> None:
    shutil.copytree(checkpoints, checkpoints.with_name("other"))
    one: dict[str, Any] = OPTIONS | {"checkpoints": [checkpoints / "*"]}
    both = OPTIONS | {"checkpoints": [f"{tmp_path}/{{model}}/checkpoint-*"]}
    models = ["training", "other"]
    alone, several = tmp_path / "alone", tmp_path / "several"
    track(None, TEXTS, alone, **one)
    track(models, TEXTS, several, **both)
    before = [(folder / "results.csv").read_bytes() for folder in (alone, several)]
    with pytest.raises(StoreError, match=r"of one model, and this is a track of several"):
        track(models, TEXTS, alone, **both)
    with pytest.raises(StoreError, match=r"of several models, and this is a track of one"):
        track(None, TEXTS, several, **one)
    assert before == [(folder / "results.csv").read_bytes() for folder in (alone, several)]
    # Put together by hand, all is read.
    shutil.move(several / "other", alone / "other")
    assert set(Track.load(alone).table["model"]) == set(models)


def test_neighbours_by_faiss(checkpoints: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(TEXT)
    command = ["track", "--checkpoints", str(checkpoints / "*"), "--texts"]
    command += [str(tmp_path / "text.txt"), "--context", "16", "--max-tokens", "300", "-q"]
    command += ["--threads", "1", "--formats", "csv", "--layers", "2", "--filter", "all"]
    asked = ["--backend", "faiss", "--index", "ivf", "--target-recall", "0.99"]
    assert main([*command, "--output", str(tmp_path / "exact")]) == 0
    assert main([*command, "--output", str(tmp_path / "faiss"), *asked]) == 0
    exact, found = (
        pd.read_csv(tmp_path / name / "results.csv").query("metric == 'id_twonn'")
        for name in ("exact", "faiss")
    )
    assert found["step"].tolist() == [1, 10, 100]
    assert found["reason"].str.contains(r"approximate neighbours \(ivf, nprobe").all()
    assert set(found["backend"]) == {"faiss"}
    assert not exact["reason"].astype(str).str.contains("approximate").any()
    assert found["value"].tolist() == pytest.approx(exact["value"].tolist(), rel=0.05)
    # Refused at once, not by every checkpoint.
    with pytest.raises(InputError, match="index belong to an approximate search"):
        track(None, TEXTS, tmp_path / "x", checkpoints=[checkpoints / "*"], index="ivf", **OPTIONS)
    assert not (tmp_path / "x").exists()


def test_names_that_are_patterns(checkpoints: Path, tmp_path: Path) -> None:
    odd = tmp_path / "run[1]"
    odd.mkdir()
    for name in ("step[1]", "step[10]", "step-1"):
        save_tiny(odd / name, 0)
    named = find_checkpoints(None, None, [odd / "step[1]", odd / "step[10]"], [1, 10])
    assert [item.name for item in named] == ["step[1]", "step[10]"]
    assert [item.source for item in named] == [str(odd / "step[1]"), str(odd / "step[10]")]
    # A part that is no name is a pattern, below a part that is one.
    assert expand(odd / "step-?") == [str(odd / "step-1")]
    assert expand(odd / "s*[[]1]") == [str(odd / "step[1]")]
    assert expand(str(odd / "nothing-*")) == expand("") == []
    assert expand(checkpoints / "checkpoint-1*") == [
        str(checkpoints / f"checkpoint-{step}") for step in (1, 10, 100)
    ]
    (odd / "step(1]").mkdir()
    with pytest.raises(InputError, match=r"'step\[1\]' and 'step\(1\]' would share the folder"):
        find_checkpoints(None, None, [odd / "step[1]", odd / "step(1]"], [1, 2])


def test_the_command_line(
    checkpoints: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = tmp_path / "texts"
    texts.mkdir()
    for number, text in enumerate(TEXTS):
        (texts / f"{number:02d}.txt").write_text(text)
    command = ["track", "--checkpoints", str(checkpoints / "*"), "--texts", str(texts)]
    command += ["--output", str(tmp_path / "out"), "--context", "16", "--max-tokens", "300"]
    command += ["--filter", "all", "--threads", "1", "--formats", "csv"]
    assert main(command) == 0
    told = capsys.readouterr().out
    assert "3 checkpoints measured, steps 1, 10, 100" in told
    assert "id_twonn (all) over 3 checkpoints" in told
    assert "first 10 steps" in told
    break_weights(checkpoints / "checkpoint-100")
    other = [*command[:6], str(tmp_path / "other"), *command[7:]]
    assert other[5] == "--output"
    assert main(other) == 1
    told = capsys.readouterr()
    assert "checkpoint checkpoint-100 failed" in told.err
    assert "phases need at least 3" in told.out


def test_a_track_without_phases_says_why_and_is_finished(
    checkpoints: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.txt").write_text(TEXT)
    command = ["track", "--checkpoints", str(checkpoints / "*"), "--texts"]
    command += [str(tmp_path / "text.txt"), "--context", "16", "--max-tokens", "300"]
    command += ["--threads", "1", "--formats", "csv"]
    assert main([*command, "--output", str(tmp_path / "a"), "--keep", "none"]) == 0
    assert "no phases of id_twonn" in capsys.readouterr().out
    other = ["--output", str(tmp_path / "b"), "--filter", "no_outliers"]
    assert main([*command, *other]) == 0
    assert "id_twonn (no_outliers) over 3 checkpoints" in capsys.readouterr().out


def test_bad_requests(checkpoints: Path, tmp_path: Path) -> None:
    one = [checkpoints / "checkpoint-1"]
    with pytest.raises(InputError, match="at least 2 checkpoints, got 1"):
        find_checkpoints(None, None, one)
    with pytest.raises(InputError, match="say which checkpoints"):
        find_checkpoints("m", None, None)
    with pytest.raises(InputError, match="say which checkpoints"):
        find_checkpoints("m", ["step1", "step2"], one)
    with pytest.raises(InputError, match="name it"):
        find_checkpoints(None, ["step1", "step2"], None)
    with pytest.raises(ModelError, match="no checkpoint at"):
        find_checkpoints(None, None, [checkpoints / "nothing-*"])
    with pytest.raises(InputError, match="'main' has no step number"):
        find_checkpoints("m", ["step1", "main"], None)
    with pytest.raises(InputError, match="both of step 1"):
        find_checkpoints("m", ["step1", "checkpoint-1"], None)
    with pytest.raises(InputError, match="two checkpoints are called"):
        find_checkpoints("m", ["step1", "step1"], None)
    with pytest.raises(InputError, match="1 steps for 2"):
        find_checkpoints("m", ["a", "b"], None, [1])
    for call, message in (
        (("m", "step1", None), "revisions must be a list, got 'step1'"),
        ((None, None, str(checkpoints)), "checkpoints must be a list"),
        (("m", ["a", "b"], None, 5), "steps must be a list, got 5"),
        (("m", ["a", "b"], None, [1.5, 2]), "steps must be a whole number >= 0, got 1.5"),
        (("m", ["a", "b"], None, ["1", 2]), "steps must be a whole number"),
    ):
        with pytest.raises(InputError, match=message):
            find_checkpoints(*call)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="model must be a name, or a list of names, got 5"):
        track(5, TEXTS, tmp_path, revisions=["step1", "step2"])  # type: ignore[arg-type]
    given = find_checkpoints("m", ["main", "early"], None, [200, 100])
    assert [(item.name, item.step) for item in given] == [("early", 100), ("main", 200)]
    with pytest.raises(InputError, match="keep must be"):
        track(None, TEXTS, tmp_path, checkpoints=[checkpoints / "*"], keep="all", **OPTIONS)
    for folder in checkpoints.iterdir():
        remove_weights(folder)
    with pytest.raises(ModelError, match="cannot open"):
        track(None, TEXTS, tmp_path / "o", checkpoints=[checkpoints / "*"], **OPTIONS)


def test_a_sweep_is_no_track(checkpoints: Path, tmp_path: Path) -> None:
    from fastdim import sweep

    sweep(str(checkpoints / "checkpoint-1"), TEXTS, output=tmp_path / "s", **OPTIONS)
    assert isinstance(Sweep.load(tmp_path / "s"), Sweep)
    with pytest.raises(StoreError, match="not of `fastdim track`"):
        Track.load(tmp_path / "s")
