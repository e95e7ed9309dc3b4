"""A callback of transformers' Trainer: what `Tracker` measures, logged through the Trainer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from fastdim.arrays import one_of
from fastdim.errors import InputError, ModelError
from fastdim.extract.texts import Corpus
from fastdim.integrations.tracker import Tracker

WHEN = ("steps", "evaluate")


class FastdimCallback(TrainerCallback):
    """Measure the model of a Trainer on held-out texts while it trains.

    trainer: the Trainer it is added to: `trainer.add_callback(FastdimCallback(trainer, ...))`. The
        numbers go through its `log`, so `report_to` and `log_history` have them.
    texts, output, options: as `Tracker` takes them. tokenizer: None takes the Trainer's own
        (`processing_class`).
    when: "steps": at `steps` (log-spaced) and at the end of training; "evaluate": after every
        evaluation.

    A training that goes on from a checkpoint goes on in the same folder. On several processes the
    first one measures and the others wait for it at the next step. At the end the tables are
    written, and a line with the measurements and their share of the time is printed.

    Raises InputError on bad options or without a tokenizer; ModelError where the weights are spread
    over processes (FSDP, DeepSpeed); the rest as `Tracker`, when training begins.
    """

    def __init__(
        self,
        trainer: Any,
        texts: str | Path | Sequence[str] | Corpus,
        output: str | Path,
        *,
        tokenizer: Any = None,
        when: str = "steps",
        **options: Any,
    ) -> None:
        one_of("when", when, WHEN)
        if "resumed" in options:
            raise InputError(
                "resumed is the Trainer's to say (resume_from_checkpoint): leave it out"
            )
        self.trainer = trainer
        self.texts = texts
        self.output = output
        self.tokenizer = tokenizer
        self.when = when
        self.options = options
        self.tracker: Tracker | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Choose tokens and sites, and look at what the folder holds."""
        if not state.is_world_process_zero:
            return
        if getattr(self.trainer, "is_fsdp_enabled", False) or getattr(
            self.trainer, "is_deepspeed_enabled", False
        ):
            raise ModelError(
                "the weights are spread over processes (FSDP, DeepSpeed), so one process cannot "
                "run the model: save checkpoints and measure them with `fastdim track`"
            )
        tokenizer = self.tokenizer or kwargs.get("processing_class")
        if tokenizer is None:
            raise InputError(
                "the Trainer has no tokenizer to read the texts with: give the callback "
                "tokenizer=, or the Trainer processing_class="
            )
        self.tracker = Tracker(
            kwargs["model"], self.texts, self.output, tokenizer=tokenizer,
            resumed=state.global_step or None, **self.options,
        )  # fmt: skip

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure where it is due."""
        tracker = self.tracker
        if tracker is not None and self.when == "steps" and tracker.due(state.global_step):
            self._measure(tracker, state, control)

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure after an evaluation: once a step, though each of several sets is one."""
        tracker = self.tracker
        if tracker is None or self.when != "evaluate" or state.global_step in tracker.measured:
            return
        self._measure(tracker, state, control)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure what training ends with, write the tables, print the overhead."""
        tracker = self.tracker
        if tracker is None:
            return
        if self.when == "steps" and state.global_step not in tracker.measured:
            self._measure(tracker, state, control)
        print(tracker.close())
        self.tracker = None

    def _measure(self, tracker: Tracker, state: Any, control: Any) -> None:
        asked = control.should_log
        self.trainer.log(tracker.measure(state.global_step))
        # `log` takes back the request for the Trainer's own line of this step.
        control.should_log = asked
