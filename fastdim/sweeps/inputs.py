"""What a run reads: a model with texts, or files of activations. Opened only when work is left."""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from fastdim.arrays import Rows
from fastdim.errors import InputError, require
from fastdim.extract.files import Loader, open_activations
from fastdim.extract.store import MANIFEST, Site, Store
from fastdim.extract.texts import Corpus
from fastdim.sweeps.definition import Definition
from fastdim.sweeps.folder import RunFolder, write_json
from fastdim.sweeps.plan import check_space, make_plan
from fastdim.sweeps.progress import Progress
from fastdim.sweeps.source import Source


class Input(Protocol):
    """A source of rows that is opened with the definition it was prepared for."""

    def open(
        self, definition: Definition, run: RunFolder | None, threads: int, progress: Progress
    ) -> Source | None:
        """Give the plan to `progress`, make the rows, write sample.json; None without a folder."""


@dataclass(frozen=True, eq=False)
class ModelInput:
    """A model, by name or in memory (module and tokenizer), and the texts it reads."""

    corpus: Corpus
    module: Any = None
    tokenizer: Any = None

    def open(
        self, definition: Definition, run: RunFolder | None, threads: int, progress: Progress
    ) -> Source | None:
        """Load the model, extract what is missing, and hand out the store."""
        if run is None:
            with tempfile.TemporaryDirectory(prefix="fastdim-") as scratch:
                return self._open(definition, RunFolder(Path(scratch)), threads, progress, dry=True)
        return self._open(definition, run, threads, progress, dry=False)

    def _open(
        self,
        definition: Definition,
        run: RunFolder,
        threads: int,
        progress: Progress,
        *,
        dry: bool,
    ) -> Source | None:
        torch = require("torch", "models")
        from fastdim.extract.documents import build_documents
        from fastdim.extract.model import LoadedModel, load_model, model_dtype
        from fastdim.extract.run import extract
        from fastdim.extract.sites import find_sites, select_sites

        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            if self.module is None:
                loaded = load_model(
                    definition.model,
                    revision=definition.revision,
                    device=definition.device,
                    dtype=definition.dtype,
                    trust_remote_code=definition.trust_remote_code,
                )
            else:
                base = getattr(self.module, "base_model", self.module)
                loaded = LoadedModel(
                    base, self.tokenizer, definition.model, None, model_dtype(base), "memory"
                )
            documents = build_documents(
                self.corpus,
                loaded.tokenizer,
                context=definition.context or 0,
                pack=bool(definition.pack),
                max_tokens=definition.max_tokens or 0,
                tokens_per_document=definition.tokens_per_document,
                seed=definition.seed,
            )
            sites = select_sites(find_sites(loaded.model), definition.layers)
            parameters = list(loaded.model.parameters())
            batch_size = definition.batch_size or 1
            plan = make_plan(
                model=definition.model,
                n_rows=documents.n_rows,
                n_documents=len(documents),
                columns=tuple(site.width for site in sites),
                filters=definition.filters,
                queries=definition.queries,
                store_dtype=definition.store_dtype or loaded.dtype,
                parameters=sum(item.numel() for item in parameters),
                parameter_bytes=sum(item.numel() * item.element_size() for item in parameters),
                batch_tokens=batch_size * documents.context,
                forward_tokens=documents.n_tokens,
                extract=not (run.activations / MANIFEST).is_file(),
            )
            progress.plan(plan)
            if dry:
                return None
            already = sum(item.stat().st_size for item in run.path.rglob("*") if item.is_file())
            check_space(plan, run.path, already)
            batches = (len(documents) + batch_size - 1) // batch_size
            progress.start("forward", batches, "batches")
            training = loaded.model.training
            loaded.model.eval()
            try:
                with run.timed("forward"):
                    store = extract(
                        loaded,
                        documents,
                        run.activations,
                        layers=definition.layers,
                        batch_size=batch_size,
                        store_dtype=definition.store_dtype,
                        progress=lambda done, total: progress.advance(),
                    )
            finally:
                loaded.model.train(training)
            progress.finish()
        finally:
            torch.set_num_threads(before)
        sample = {
            "model": definition.model,
            "revision": definition.revision or "",
            "dtype": loaded.dtype,
            "store_dtype": store.dtype,
            "document_rule": documents.rule,
            "n_documents": len(documents),
            "n_rows": store.n_rows,
            "sites": [asdict(site) for site in store.sites],
        }
        write_json(run.path / "sample.json", sample)
        return Source(store.sites, store.rows, store.tokens(), store.token_text)


@dataclass(frozen=True, eq=False)
class FileInput:
    """Matrices that were written elsewhere; each is one layer."""

    paths: tuple[Path, ...]

    def open(
        self, definition: Definition, run: RunFolder | None, threads: int, progress: Progress
    ) -> Source | None:
        """Look at every matrix, then hand them out one by one."""
        source, dtype = self._stores() or self._matrices()
        first = source.rows(source.sites[0].layer)
        plan = make_plan(
            model=definition.model,
            n_rows=first.n,
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
        )
        progress.plan(plan)
        if run is not None:
            sample = {
                "model": definition.model,
                "revision": "",
                "dtype": dtype,
                "store_dtype": dtype,
                "document_rule": "",
                "n_documents": 0,
                "n_rows": first.n,
                "sites": [asdict(site) for site in source.sites],
            }
            write_json(run.path / "sample.json", sample)
        return source

    def _stores(self) -> tuple[Source, str] | None:
        if not any((path / MANIFEST).is_file() for path in self.paths):
            return None
        if len(self.paths) > 1:
            raise InputError("give one folder of a sweep's activations at a time")
        store = Store.open(self.paths[0])
        return Source(store.sites, store.rows, store.tokens(), store.token_text), store.dtype

    def _matrices(self) -> tuple[Source, str]:
        loaders: dict[str, Loader] = {}
        for path in self.paths:
            for name, loader in open_activations(path).items():
                loaders[name if name not in loaders else f"{path.stem}/{name}"] = loader
        sites, dtypes = [], set()
        for layer, (name, loader) in enumerate(loaders.items()):
            rows = loader()
            sites.append(Site(layer, "module", None, name, "", rows.d))
            dtypes.add(rows.dtype)
        ordered = list(loaders.values())

        def rows_of(layer: int) -> Rows:
            return ordered[layer]()

        return Source(sites, rows_of), max(dtypes)
