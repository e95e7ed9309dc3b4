"""A callback of Lightning: what `Tracker` measures, logged through the module's loggers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastdim.errors import InputError, require
from fastdim.extract.texts import Corpus
from fastdim.integrations.tracker import Tracker

lightning = require("lightning", "lightning")


class FastdimCallback(lightning.Callback):  # type: ignore[name-defined, misc]
    """Measure a model while Lightning's Trainer fits it.

    texts, output, tokenizer, options: as `Tracker` takes them.
    module: path in the LightningModule of the module that reads token ids; "" for itself.

    Steps are optimizer steps (`trainer.global_step`). The numbers go to every logger of the
    Trainer. A fit that goes on from a checkpoint goes on in the same folder. On several processes
    the first one measures. At the end the tables are written, and a line with the measurements and
    their share of the time is printed.

    Raises InputError on bad options and where there is no such module; the rest as `Tracker`, when
    the fit starts.
    """

    def __init__(
        self,
        texts: str | Path | Sequence[str] | Corpus,
        output: str | Path,
        *,
        tokenizer: Any,
        module: str = "",
        **options: Any,
    ) -> None:
        if "resumed" in options:
            raise InputError("resumed is Lightning's to say (ckpt_path): leave it out")
        self.texts = texts
        self.output = output
        self.tokenizer = tokenizer
        self.module = module
        self.options = options
        self.tracker: Tracker | None = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Choose tokens and sites, and look at what the folder holds."""
        if not trainer.is_global_zero:
            return
        try:
            model = pl_module.get_submodule(self.module)
        except AttributeError as error:
            raise InputError(
                f"{type(pl_module).__name__} has no module {self.module!r} ({error}): give the "
                "path of the one that reads token ids"
            ) from error
        self.tracker = Tracker(
            model, self.texts, self.output, tokenizer=self.tokenizer,
            resumed=trainer.global_step or None, **self.options,
        )  # fmt: skip

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *rest: Any) -> None:
        """Measure where it is due: a batch need not end with an optimizer step."""
        if self.tracker is not None and self.tracker.due(trainer.global_step):
            self._measure(trainer)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Measure what the fit ends with, write the tables, print the overhead."""
        if self.tracker is None:
            return
        if trainer.global_step not in self.tracker.measured:
            self._measure(trainer)
        print(self.tracker.close())
        self.tracker = None

    def _measure(self, trainer: Any) -> None:
        assert self.tracker is not None
        step = int(trainer.global_step)
        values = self.tracker.measure(step)
        for logger in trainer.loggers:
            logger.log_metrics(values, step=step)
