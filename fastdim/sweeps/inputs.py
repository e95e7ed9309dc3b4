"""What a run reads: a model with texts, or files of activations. Opened only when work is left."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from fastdim.backends.cpu import resolve_threads
from fastdim.errors import InputError, require
from fastdim.extract.facts import check_length, evaluating, multiplied_parameters
from fastdim.extract.files import Matrix, open_activations
from fastdim.extract.store import MANIFEST, Site, Store
from fastdim.extract.texts import Corpus
from fastdim.sweeps.definition import Definition
from fastdim.sweeps.folder import RunFolder, write_json
from fastdim.sweeps.plan import Plan, check_space, flops_per_second, make_plan
from fastdim.sweeps.progress import Progress
from fastdim.sweeps.source import Source


class Input(Protocol):
    """A source of rows. Both methods raise FastdimError where it cannot be had as defined."""

    def plan(self, definition: Definition, folder: Path | None) -> Plan:
        """What the run is going to do; writes nothing."""

    def open(
        self, definition: Definition, run: RunFolder, threads: int, progress: Progress
    ) -> Source:
        """Tell `progress` the plan, make the rows that are missing, write sample.json."""


@dataclass(frozen=True)
class Description:
    """Sites of a model, hash of the tokens it reads, names of parameters with NaN or infinities."""

    sites: list[Site]
    tokens_sha256: str
    bad_parameters: tuple[str, ...]


class ModelInput:
    """A model, by name or in memory (module and tokenizer), and the texts it reads."""

    def __init__(self, corpus: Corpus, module: Any = None, tokenizer: Any = None) -> None:
        self.corpus = corpus
        self.module = module
        self.tokenizer = tokenizer
        self._prepared: tuple[Any, Any, list[Site]] | None = None

    def plan(
        self,
        definition: Definition,
        folder: Path | None,
        *,
        ranks: int = 1,
        threads: int | None = None,
    ) -> Plan:
        """Loads the model: sites and sizes are its own. folder: where its rows go, if anywhere.

        ranks: processes that share the rows, each with so many `threads`; the folder is that of the
        first, whose share is taken for everybody's.
        """
        from fastdim.extract.sites import count_blocks
        from fastdim.extract.writer import finished_shards

        loaded, documents, sites = self.prepare(definition)
        parameters = list(loaded.model.parameters())
        done = set() if folder is None else finished_shards(folder)
        batches = list(documents.batches(_batch_size(definition)))
        own = batches[: len(batches) // ranks] if len(batches) >= ranks else batches[:1]
        left = [batch for number, batch in enumerate(own) if number not in done]
        share = documents.tokens_of(left) / documents.tokens_of(own)
        cores = resolve_threads(None)
        own_threads = cores if threads is None else threads
        return make_plan(
            model=definition.model,
            n_rows=documents.n_rows,
            n_documents=len(documents),
            columns=tuple(site.width for site in sites),
            filters=definition.filters,
            queries=definition.queries,
            store_dtype=definition.store_dtype or loaded.dtype,
            parameters=sum(item.numel() for item in parameters),
            parameter_bytes=sum(item.numel() * item.element_size() for item in parameters),
            batch_tokens=_batch_size(definition) * documents.context,
            forward_tokens=round(share * documents.n_tokens),
            extract=bool(left),
            multiplied=multiplied_parameters(loaded.model),
            blocks=count_blocks(loaded.model),
            context=documents.context,
            pairs=definition.pairs,
            threads=own_threads,
            speed=flops_per_second() * min(1.0, own_threads / cores),
            ranks=ranks,
        )

    def open(
        self, definition: Definition, run: RunFolder, threads: int, progress: Progress
    ) -> Source:
        """Load the model, extract what is missing, and hand out the store."""
        from fastdim.extract.naming import model_title
        from fastdim.extract.run import extract
        from fastdim.extract.sites import architecture_of

        with run.timed("load"), torch_threads(threads):
            plan = self.plan(definition, run.activations)
        progress.plan(plan)
        already = sum(item.stat().st_size for item in run.path.rglob("*") if item.is_file())
        check_space(plan, run.path, already)
        loaded, documents, sites = self.prepare(definition)
        size = _batch_size(definition)
        progress.start("forward", -(-len(documents) // size), "batches")
        with run.timed("forward"), torch_threads(threads), evaluating(loaded.model):
            store = extract(
                loaded,
                documents,
                run.activations,
                sites,
                batch_size=size,
                store_dtype=definition.store_dtype,
                progress=lambda done, total: progress.advance(),
            )
        progress.finish()
        store.threads = threads
        with evaluating(loaded.model):
            architecture = architecture_of(loaded.model)
        self.release()
        name = model_title(definition.model) if self.module is None else ""
        write_sample(
            run,
            definition,
            store.sites,
            store.n_rows,
            model_name=name,
            architecture=architecture,
            dtype=loaded.dtype,
            store_dtype=store.dtype,
            document_rule=documents.rule,
            n_documents=len(documents),
            tokens_sha256=documents.sha256,
        )
        return Source.of_store(store)

    def describe(self, definition: Definition) -> Description:
        """What the model and its documents are, before anything is run. Loads the model."""
        import torch

        loaded, documents, sites = self.prepare(definition)
        bad = [
            name
            for name, value in loaded.model.named_parameters()
            if value.is_floating_point() and not bool(torch.isfinite(value).all())
        ]
        return Description(sites, documents.sha256, tuple(bad))

    def release(self) -> None:
        """Let go of the model: it is not needed any more, its memory is."""
        self._prepared = None

    def prepare(self, definition: Definition) -> tuple[Any, Any, list[Site]]:
        """Model, documents and sites, made once."""
        if self._prepared is None:
            require("torch", "models")
            from fastdim.extract.documents import build_documents
            from fastdim.extract.model import load_model, model_in_memory
            from fastdim.extract.sites import find_sites, select_sites

            if self.module is None:
                loaded = load_model(
                    definition.model,
                    revision=definition.revision,
                    device=definition.device,
                    dtype=definition.dtype,
                    trust_remote_code=definition.trust_remote_code,
                )
            else:
                loaded = model_in_memory(self.module, self.tokenizer)
            with evaluating(loaded.model):
                sites = select_sites(find_sites(loaded.model), definition.layers)
            documents = build_documents(
                self.corpus,
                loaded.tokenizer,
                context=definition.context or 0,
                pack=bool(definition.pack),
                max_tokens=definition.max_tokens or 0,
                tokens_per_document=definition.tokens_per_document,
                seed=definition.seed,
            )
            check_length(loaded.model, documents.longest)
            self._prepared = loaded, documents, sites
        return self._prepared


@dataclass(frozen=True, eq=False)
class FileInput:
    """Matrices that were written elsewhere; each is one layer."""

    paths: tuple[Path, ...]

    def plan(self, definition: Definition, folder: Path | None) -> Plan:
        """From the files' headers."""
        source, dtype, n = self._found
        return make_plan(
            model=definition.model,
            n_rows=n,
            n_documents=0,
            columns=tuple(site.width for site in source.sites),
            filters=definition.filters,
            queries=definition.queries,
            store_dtype=dtype,
            parameters=0,
            parameter_bytes=0,
            batch_tokens=0,
            forward_tokens=0,
            extract=False,
            pairs=definition.pairs,
            threads=resolve_threads(None),
        )

    def open(
        self, definition: Definition, run: RunFolder, threads: int, progress: Progress
    ) -> Source:
        """Hand the matrices out one by one: a bad one fails alone, when its turn comes."""
        progress.plan(self.plan(definition, None))
        source, dtype, n = self._found
        if self._store is not None:
            self._store.threads = threads
        write_sample(
            run,
            definition,
            source.sites,
            n,
            dtype=dtype,
            store_dtype=dtype,
            model_name="",
            architecture="",
            document_rule="",
            n_documents=0,
        )
        return source

    @cached_property
    def _store(self) -> Store | None:
        """The store, where the path is that of one."""
        if not any((path / MANIFEST).is_file() for path in self.paths):
            return None
        if len(self.paths) > 1:
            raise InputError("give one folder of a sweep's activations at a time")
        return Store.open(self.paths[0])

    @cached_property
    def _found(self) -> tuple[Source, str, int]:
        """The matrices, the number type of the first, and the most rows any has."""
        store = self._store
        if store is not None:
            return Source.of_store(store), store.dtype, store.n_rows
        found: dict[str, Matrix] = {}
        for path in self.paths:
            for name, matrix in open_activations(path).items():
                found[name if name not in found else f"{path}:{name}"] = matrix
        matrices = list(found.values())
        sites = [
            Site(layer, "module", None, name, "", matrix.d)
            for layer, (name, matrix) in enumerate(found.items())
        ]
        source = Source(sites, lambda layer: matrices[layer].load())
        return source, matrices[0].dtype, max(matrix.n for matrix in matrices)


def _batch_size(definition: Definition) -> int:
    return definition.batch_size or 1


def write_sample(
    run: RunFolder, definition: Definition, sites: list[Site], n_rows: int, **made: Any
) -> None:
    """Write what the run measures: sample.json."""
    sample = {
        "model": definition.model,
        "revision": definition.revision or "",
        "n_rows": n_rows,
        "sites": [asdict(site) for site in sites],
        **made,
    }
    write_json(run.path / "sample.json", sample)


@contextlib.contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Torch on so many threads while the block runs."""
    torch = require("torch", "models")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
