"""The callback in a real Lightning fit: logged, resumed, and the training left as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from tiny_model import tiny_tokenizer
from tiny_training import OPTIONS, TEXTS, tiny_gpt, token_rows

from fastdim.errors import InputError
from fastdim.integrations.lightning import FastdimCallback
from fastdim.track_result import Track

pytestmark = [
    pytest.mark.usefixtures("one_torch_thread"),
    # Of Lightning itself: advice on workers, and what its own imports use.
    pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*isinstance.*LeafSpec"),
]


class Wrapped(lightning.LightningModule):
    """A decoder inside a LightningModule."""

    def __init__(self) -> None:
        super().__init__()
        self.net = tiny_gpt()
        self.losses: list[float] = []

    def training_step(self, batch: torch.Tensor, number: int) -> torch.Tensor:
        loss: torch.Tensor = self.net(input_ids=batch, labels=batch).loss
        self.losses.append(float(loss.detach()))
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.5)


def fit(folder: Path, steps: int, callbacks: list[Any], **more: Any) -> tuple[Any, Any]:
    torch.manual_seed(3)
    module = Wrapped()
    trainer = lightning.Trainer(
        max_steps=steps, accelerator="cpu", devices=1, callbacks=callbacks,
        enable_progress_bar=False, enable_model_summary=False, log_every_n_steps=1,
        accumulate_grad_batches=more.pop("accumulate", 1), logger=more.pop("logger", False),
        enable_checkpointing=False, default_root_dir=folder,
    )  # fmt: skip
    loader = torch.utils.data.DataLoader(token_rows(), batch_size=4)  # type: ignore[arg-type, var-annotated]
    trainer.fit(module, loader, **more)
    return trainer, module


def callback(folder: Path, **options: Any) -> FastdimCallback:
    named = {"module": "net", "tokenizer": tiny_tokenizer()} | OPTIONS | options
    return FastdimCallback(TEXTS, folder, **named)


def test_a_fit_is_measured_and_stays_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, plain = fit(tmp_path, 6, [])
    logger = CSVLogger(tmp_path / "logs")
    _, watched = fit(tmp_path, 6, [callback(tmp_path / "g")], logger=logger)
    assert watched.losses == plain.losses
    assert len(plain.losses) == 6
    found = Track.load(tmp_path / "g")
    assert list(found.steps.values()) == [1, 2, 5, 6]
    name = "fastdim/anisotropy/all/block_0"
    logged = {line["step"]: line[name] for line in logger.experiment.metrics if name in line}
    logger.save()
    text = (Path(logger.log_dir) / "metrics.csv").read_text()
    assert name in text.splitlines()[0]
    table = found.table.query("metric == 'anisotropy' and filter == 'all' and block == 0")
    assert list(table["step"]) == [1, 2, 5, 6]
    for line in logged:
        assert logged[line] == table.set_index("step")["value"][line]
    assert "fastdim: 4 steps measured" in capsys.readouterr().out


def test_steps_are_those_of_the_optimizer(tmp_path: Path) -> None:
    fit(tmp_path, 3, [callback(tmp_path / "g", steps=[1, 2])], accumulate=2)
    assert list(Track.load(tmp_path / "g").steps.values()) == [1, 2, 3]


def test_a_fit_goes_on_in_its_folder(tmp_path: Path) -> None:
    trainer, _ = fit(tmp_path, 6, [callback(tmp_path / "g")])  # an epoch
    trainer.save_checkpoint(tmp_path / "saved.ckpt")
    fit(tmp_path, 12, [callback(tmp_path / "g")], ckpt_path=tmp_path / "saved.ckpt")
    assert list(Track.load(tmp_path / "g").steps.values()) == [1, 2, 5, 6, 10, 12]


def test_bad_requests(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="resumed is Lightning's to say"):
        callback(tmp_path, resumed=2)
    with pytest.raises(InputError, match="Wrapped has no module 'network'"):
        fit(tmp_path, 1, [callback(tmp_path / "g", module="network")])
