"""`FastdimCallback` in a real Trainer: logged through it, and the training left as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tiny_model import tiny_tokenizer
from tiny_training import OPTIONS, TEXTS, tiny_gpt, token_rows

from fastdim.errors import InputError, ModelError, StoreError
from fastdim.integrations.transformers import FastdimCallback
from fastdim.track_result import Track

pytestmark = pytest.mark.usefixtures("one_torch_thread")


class Rows(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Rows of tokens, each its own label."""

    def __len__(self) -> int:
        return 24

    def __getitem__(self, place: int) -> dict[str, torch.Tensor]:
        return {"input_ids": token_rows()[place], "labels": token_rows()[place]}


class Reporter(transformers.TrainerCallback):
    """What a tool behind `report_to` is given."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, dict[str, float]]] = []

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.seen.append((state.global_step, dict(kwargs["logs"])))


def trainer(folder: Path, steps: int, reporter: Reporter | None = None, **more: Any) -> Any:
    arguments = transformers.TrainingArguments(
        output_dir=str(folder), max_steps=steps, per_device_train_batch_size=4, use_cpu=True,
        report_to=[], disable_tqdm=True, logging_steps=1, dataloader_pin_memory=False,
        save_strategy=more.pop("save_strategy", "no"), save_steps=2, learning_rate=0.01,
        eval_strategy=more.pop("eval_strategy", "no"), eval_steps=2,
    )  # fmt: skip
    return transformers.Trainer(
        model=tiny_gpt(), args=arguments, train_dataset=Rows(), eval_dataset=Rows(),
        processing_class=more.pop("processing_class", tiny_tokenizer()),
        callbacks=[] if reporter is None else [reporter],
        data_collator=transformers.default_data_collator,
    )  # fmt: skip


def losses(logs: list[tuple[int, dict[str, float]]]) -> list[tuple[int, float]]:
    return [(step, line["loss"]) for step, line in logs if "loss" in line]


def test_numbers_go_through_the_trainer_and_the_training_is_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain, watched = Reporter(), Reporter()
    trainer(tmp_path / "a", 6, plain).train()
    made = trainer(tmp_path / "b", 6, watched)
    made.add_callback(FastdimCallback(made, TEXTS, tmp_path / "g", **OPTIONS))
    made.train()
    assert len(losses(plain.seen)) == 6
    assert losses(watched.seen) == losses(plain.seen)
    name = "fastdim/anisotropy/no_outliers/block_1"
    told = {step: line[name] for step, line in watched.seen if name in line}
    assert list(told) == [1, 2, 5, 6]  # log-spaced, and the end
    table = Track.load(tmp_path / "g").table.query(
        "metric == 'anisotropy' and filter == 'no_outliers' and block == 1"
    )
    assert dict(zip(table["step"], table["value"], strict=True)) == told
    assert set(table["model"]) == {"GPT2Model"}
    history = [line[name] for line in made.state.log_history if name in line]
    assert history == list(told.values())
    printed = capsys.readouterr().out
    assert "fastdim: 4 steps measured" in printed
    assert "% of the rest of the training" in printed
    assert (tmp_path / "g" / "results.csv").is_file()


def test_on_evaluate(tmp_path: Path) -> None:
    made = trainer(tmp_path / "t", 5, eval_strategy="steps")
    made.add_callback(FastdimCallback(made, TEXTS, tmp_path / "g", when="evaluate", **OPTIONS))
    made.train()
    # The Trainer evaluates once more at the end.
    assert [line["step"] for line in made.state.log_history if "eval_loss" in line] == [2, 4, 5]
    assert list(Track.load(tmp_path / "g").steps.values()) == [2, 4, 5]
    assert len([line for line in made.state.log_history if "fastdim/failed" in line]) == 3


def test_a_resumed_training_goes_on_in_its_folder(tmp_path: Path) -> None:
    def run(steps: int, resume: bool) -> Any:
        made = trainer(tmp_path / "t", steps, save_strategy="steps")
        options = OPTIONS | {"steps": [1, 2, 3, 4, 6]}
        made.add_callback(FastdimCallback(made, TEXTS, tmp_path / "g", **options))
        made.train(resume_from_checkpoint=str(tmp_path / "t/checkpoint-2") if resume else None)
        return Track.load(tmp_path / "g")

    assert list(run(4, resume=False).steps.values()) == [1, 2, 3, 4]
    early = (tmp_path / "g/step00000002/pieces/0001-all.json").stat().st_mtime_ns
    found = run(6, resume=True)
    assert list(found.steps.values()) == [1, 2, 3, 4, 6]
    assert (tmp_path / "g/step00000002/pieces/0001-all.json").stat().st_mtime_ns == early
    with pytest.raises(StoreError, match="holds measurements of a training"):
        run(4, resume=False)


def test_bad_requests(tmp_path: Path) -> None:
    made = trainer(tmp_path / "t", 1, processing_class=None)
    with pytest.raises(InputError, match="when must be one of steps, evaluate"):
        FastdimCallback(made, TEXTS, tmp_path / "g", when="often")
    with pytest.raises(InputError, match="resumed is the Trainer's to say"):
        FastdimCallback(made, TEXTS, tmp_path / "g", resumed=3)
    made.add_callback(FastdimCallback(made, TEXTS, tmp_path / "g", **OPTIONS))
    with pytest.raises(InputError, match="no tokenizer"):
        made.train()
    other = trainer(tmp_path / "t", 1)
    other.is_deepspeed_enabled = True
    callback = FastdimCallback(other, TEXTS, tmp_path / "g", **OPTIONS)
    with pytest.raises(ModelError, match="spread over processes"):
        callback.on_train_begin(other.args, other.state, other.control, model=other.model)
    other.state.is_world_process_zero = False
    callback.on_train_begin(other.args, other.state, other.control, model=other.model)
    assert callback.tracker is None  # the first process measures
