"""`Tracker`: every layer of a model in training, on the same held-out tokens each time.

Each measured step is a run folder as `fastdim track` makes one for a checkpoint, so
`Track.load(output)`, `phases`, `profile_shape` and `fastdim report` read it, also while the
training runs. No weights and no activations are written.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Collection, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastdim.arrays import whole_number
from fastdim.errors import InputError, ModelError, StoreError, require
from fastdim.extract.facts import check_length, check_weights, evaluating, model_device, model_dtype
from fastdim.extract.hooks import Tap, hooked
from fastdim.extract.shards import storage_errors
from fastdim.extract.store import Site, TokenTable
from fastdim.extract.texts import Corpus, load_texts
from fastdim.integrations.schedule import LogSteps, check_steps
from fastdim.layer import METRICS
from fastdim.sweeps.definition import Definition, require_same
from fastdim.sweeps.folder import RunFolder, open_run, read_json, write_json
from fastdim.sweeps.jobs import analysis_options, check_machine
from fastdim.sweeps.progress import Progress
from fastdim.sweeps.record import RunRecord
from fastdim.sweeps.result import require_formats
from fastdim.sweeps.run import analyse
from fastdim.sweeps.source import Source
from fastdim.track_result import Track

if TYPE_CHECKING:
    import pandas

# Types of modules and parameters of which a process holds a part alone.
SPREAD = ("FullyShardedDataParallel", "DTensor")
LOGGED = ("id_twonn", "anisotropy", "mean_cosine")


class Tracker:
    """Measures a model in training at log-spaced steps.

    model: torch module that reads token ids (of transformers: with or without head; compiled or
        wrapped for DistributedDataParallel). It is looked up at every measurement, never copied.
    texts: held-out texts, as `fastdim.sweep` takes them. tokenizer: a transformers tokenizer.
    output: folder of the measurements, a run a step.
    steps: how many a decade (see `LogSteps`), or the steps themselves.
    max_tokens: rows kept of each layer, chosen by a hash of (document, position), the same at
        every step. Batches pass one by one, and nothing but these rows stays of them: memory is
        layers * max_tokens * width elements.
    layers, filters, context, pack, tokens_per_document, batch_size, queries, pairs, seed,
        outlier_factor, confidence, threads: as `fastdim.sweep`, with smaller defaults.
    logged: metrics that `step` and `measure` return; the folder has all.
    name: what the table calls the model; None: its class.
    resumed: None for a new training, whose folder must hold no measurement; the step a resumed one
        goes on from: later measurements, of what the training went back behind, are removed.
    formats: "csv", "parquet": tables that `close` writes; they need pandas.

    A measurement changes neither weights, nor modes, nor random numbers: the training goes on as
    if there were none. The rows have the number type of the parameters, outside of autocast.

    Raises InputError on bad options; ModelError where sites cannot be found; StoreError where the
    folder holds another training, other tokens or other options.
    """

    def __init__(
        self,
        model: Any,
        texts: str | Path | Sequence[str] | Corpus,
        output: str | Path,
        *,
        tokenizer: Any,
        steps: int | Collection[int] | LogSteps = 3,
        layers: str = "all",
        filters: Sequence[str] | None = ("all", "no_outliers"),
        context: int = 128,
        pack: bool = True,
        max_tokens: int = 2048,
        tokens_per_document: int | None = None,
        batch_size: int = 16,
        queries: int | None = None,
        pairs: int | None = 1 << 16,
        seed: int = 0,
        outlier_factor: float = 5.0,
        confidence: float = 0.95,
        threads: int | None = None,
        logged: Sequence[str] = LOGGED,
        name: str | None = None,
        resumed: int | None = None,
        formats: Sequence[str] = ("csv",),
    ) -> None:
        require("torch", "models")
        from fastdim.extract.documents import build_documents
        from fastdim.extract.sites import architecture_of, find_sites, select_sites

        require_formats(formats)
        unknown = next((metric for metric in logged if metric not in METRICS), None)
        if unknown is not None:
            raise InputError(f"unknown metric {unknown!r}; there are: {', '.join(METRICS)}")
        self.steps = check_steps(steps)
        self.output = Path(output)
        self.logged = tuple(logged)
        self.formats = tuple(formats)
        self.threads = check_machine(threads)
        corpus = texts if isinstance(texts, Corpus) else load_texts(texts)
        self._model = model
        inner = self._inner()
        _check_whole(inner)
        check_weights(inner)
        self._documents = documents = build_documents(
            corpus, tokenizer, context=context, pack=pack, max_tokens=max_tokens,
            tokens_per_document=tokens_per_document, seed=seed,
        )  # fmt: skip
        check_length(inner, documents.longest)
        with evaluating(inner):
            self._sites = select_sites(find_sites(inner), layers)
            architecture = architecture_of(inner)
        self.batch_size = whole_number("batch_size", batch_size, 1)
        self._definition = Definition(
            kind="sweep",
            model=name or type(inner).__name__,
            model_sha256="",
            layers=layers,
            corpus=corpus.name,
            corpus_sha256=corpus.sha256,
            context=context,
            pack=pack,
            max_tokens=max_tokens,
            tokens_per_document=tokens_per_document,
            batch_size=batch_size,
            device=str(model_device(inner)),
            **analysis_options(
                filters=filters, tokens=True, queries=queries, pairs=pairs, exact=False, seed=seed,
                confidence=confidence, outlier_factor=outlier_factor,
            ),
        )  # fmt: skip
        self._sample = {
            "model": self._definition.model,
            "n_rows": documents.n_rows,
            "sites": [asdict(site) for site in self._sites],
            "model_name": "",
            "architecture": architecture,
            "dtype": model_dtype(inner),
            "store_dtype": model_dtype(inner),
            "document_rule": documents.rule,
            "n_documents": len(documents),
            "tokens_sha256": documents.sha256,
        }
        self._tokens = _token_table(documents)
        self.measured = self._found(resumed)
        self.spent = 0.0  # seconds of all measurements of this process
        self._started = time.perf_counter()

    def due(self, step: int) -> bool:
        """Whether `step` is one of `steps` and was not measured yet."""
        step = whole_number("step", step, 0)
        return step in self.steps and step not in self.measured

    def step(self, step: int) -> dict[str, float] | None:
        """Call it after every optimizer step with its number, from 1: `measure` where it is due."""
        return self.measure(step) if self.due(step) else None

    def measure(self, step: int) -> dict[str, float]:
        """Measure now, as `step`, whatever is due; a step measured before is measured anew.

        Returns numbers to log by name, "fastdim/anisotropy/no_outliers/block_3" for example, with
        "fastdim/seconds" of this measurement and "fastdim/overhead", all measurements' time over
        that of the rest of the training. Failed metrics (NaN in the model) are left out and counted
        in "fastdim/failed"; the table has the reason.

        Raises StoreError where the folder cannot be written.
        """
        step = whole_number("step", step, 0)
        _wait(self._inner())
        start = time.perf_counter()
        revision = f"step{step}"
        folder = self.output / f"step{step:08d}"
        _remove(folder)
        definition = replace(self._definition, revision=revision)
        rows = self._rows()
        source = Source(self._sites, rows.__getitem__, lambda layer: self._tokens, self._token_text)
        with open_run(folder, definition) as run:
            write_json(folder / "sample.json", self._sample | {"revision": revision, "step": step})
            analyse(source, definition, run, threads=self.threads, progress=Progress())
        record = RunRecord.read(folder)
        self.measured = sorted({*self.measured, step})
        seconds = time.perf_counter() - start
        self.spent += seconds
        values = self._values(record)
        values["fastdim/seconds"] = seconds
        values["fastdim/overhead"] = self.overhead
        return values

    @property
    def overhead(self) -> float:
        """Seconds of measuring over seconds of everything else since the tracker was made."""
        rest = time.perf_counter() - self._started - self.spent
        return self.spent / rest if rest > 0 else math.inf

    @property
    def track(self) -> Track:
        """All measurements so far; InputError if there is none."""
        if not self.measured:
            raise InputError(f"nothing was measured yet; steps are {self.steps!r}")
        return Track.load(self.output)

    @property
    def table(self) -> pandas.DataFrame:
        """The tidy table of all measurements so far, as `fastdim track` makes it."""
        return self.track.table

    def close(self) -> str:
        """Write the tables of all measurements; returns one line about them and their time."""
        if self.measured and self.formats:
            self.track.write_results(self.output, self.formats)
        return (
            f"fastdim: {len(self.measured)} steps measured in {self.output}; {self.spent:.1f} s, "
            f"{100 * self.overhead:.1f} % of the rest of the training"
        )

    def _inner(self) -> Any:
        """The module that is run: without wrappers, and without the head where it has a base."""
        from torch.nn.parallel import DataParallel, DistributedDataParallel

        model = self._model
        while True:
            if isinstance(model, (DataParallel, DistributedDataParallel)):
                model = model.module
            elif hasattr(model, "_orig_mod"):  # torch.compile's wrapper
                model = model._orig_mod
            else:
                return getattr(model, "base_model", model)

    def _rows(self) -> dict[int, Any]:
        """The kept rows of each site, by layer."""
        import torch

        from fastdim.extract.sites import find_stacks, run_model

        model = self._inner()
        entries = {stack.name: f"{stack.blocks}.0" for stack in find_stacks(model)}
        taps = [
            Tap(site, entries[site.stack], reads=True)
            if site.site == "embedding"
            else Tap(site, site.module)
            for site in self._sites
        ]
        device = model_device(model)
        taken: dict[int, list[Any]] = {site.layer: [] for site in self._sites}
        wanted = torch.zeros((0, 0), dtype=torch.bool)

        def take(tap: Tap, module: Any, value: Any) -> None:
            taken[tap.site.layer].append(value[wanted].cpu())

        # No inference mode: what a module keeps of it (tables of angles) could not be trained with.
        with (
            torch.no_grad(),
            torch.autocast(device.type, enabled=False),
            evaluating(model),
            hooked(model, taps, take),
        ):
            for batch in self._documents.batches(self.batch_size):
                ids, real, keep = self._documents.padded(batch)
                wanted = torch.from_numpy(keep).to(device)
                mask = torch.from_numpy(real).long().to(device)
                run_model(model, torch.from_numpy(ids).to(device), mask)
        return {layer: torch.cat(parts) for layer, parts in taken.items()}

    def _token_text(self, token: int) -> str:
        return self._documents.token_text[token]

    def _values(self, record: RunRecord) -> dict[str, float]:
        values: dict[str, float] = {}
        failed = 0
        for row in record.rows():
            if row["status"] != "ok":
                failed += 1
            elif row["metric"] in self.logged:
                site = Site(row["layer"], row["site"], row["block"], row["module"], row["stack"])
                place = "/".join(("fastdim", row["metric"], row["filter"], _name(site)))
                values[place] = float(row["value"])
        values["fastdim/failed"] = float(failed)
        return values

    def _found(self, resumed: int | None) -> list[int]:
        """The steps that the folder holds, those after `resumed` removed."""
        folders = {
            int(read_json(path)["step"]): path.parent
            for path in sorted(self.output.glob("step*/sample.json"))
        }
        if resumed is None and folders:
            raise StoreError(
                f"{self.output} holds measurements of a training (steps {min(folders)} to "
                f"{max(folders)}): give another folder, or say from which step this training goes "
                "on with resumed="
            )
        # All are looked at before one is removed: they may be another training's.
        for step, folder in sorted(folders.items()):
            wanted = replace(self._definition, revision=f"step{step}")
            require_same(RunFolder(folder).run()["definition"], wanted, folder)
            sample = read_json(folder / "sample.json")
            for key in ("tokens_sha256", "sites"):
                if sample[key] != self._sample[key]:
                    raise StoreError(
                        f"{folder} was measured with other {key.split('_')[0]}: another model or "
                        "tokenizer; give another folder"
                    )
        kept = []
        for step, folder in sorted(folders.items()):
            if resumed is not None and step > resumed:
                _remove(folder)
            elif RunRecord.read(folder).complete:
                kept.append(step)
        return kept


def _name(site: Site) -> str:
    """A site in the name of a logged number: "block_3", "decoder_block_0", "final_norm"."""
    name = site.site if site.block is None else f"{site.site}_{site.block}"
    return f"{site.stack}_{name}" if site.stack else name


def _token_table(documents: Any) -> TokenTable:
    lengths = np.diff(documents.offsets)
    document = np.repeat(documents.numbers, lengths)
    position = np.arange(documents.n_tokens) - np.repeat(documents.offsets[:-1], lengths)
    keep = documents.keep
    return TokenTable(
        document[keep], position[keep], documents.input_ids[keep], documents.special[keep]
    )


def _remove(folder: Path) -> None:
    if folder.exists():
        with storage_errors(folder):
            shutil.rmtree(folder)


def _check_whole(model: Any) -> None:
    """Raise ModelError where the weights are spread over processes: one alone cannot run them."""
    spread = [type(module).__name__ for module in model.modules()]
    spread += [type(parameter).__name__ for parameter in model.parameters()]
    kind = next((name for name in spread if name in SPREAD), None)
    if kind is not None:
        raise ModelError(
            f"the weights of {type(model).__name__} are spread over processes ({kind}), so one "
            "process cannot run it: save checkpoints and measure them with `fastdim track`"
        )


def _wait(model: Any) -> None:
    """Let work that was queued on a GPU finish: it is the training's time."""
    device = model_device(model)
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)
