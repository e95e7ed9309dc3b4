"""`fastdim.sweep`: every layer of a model under every token filter, as one call."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastdim.errors import InputError
from fastdim.extract.texts import load_texts
from fastdim.sweeps.jobs import Job, prepare_model, run_job
from fastdim.sweeps.options import FORMATS, Defaults
from fastdim.sweeps.progress import Progress
from fastdim.sweeps.result import Sweep, require_formats


def sweep(
    model: str | tuple[Any, Any],
    texts: str | Path | Sequence[str],
    *,
    output: str | Path | None = None,
    revision: str | None = None,
    layers: str = Defaults.layers,
    filters: Sequence[str] | None = None,
    context: int = Defaults.context,
    pack: bool = Defaults.pack,
    max_tokens: int = Defaults.max_tokens,
    tokens_per_document: int | None = None,
    batch_size: int = Defaults.batch_size,
    device: str = Defaults.device,
    dtype: str | None = None,
    store_dtype: str | None = None,
    seed: int = 0,
    queries: int | str | None = Defaults.queries,
    pairs: int | None = Defaults.pairs,
    exact: bool = False,
    outlier_factor: float = Defaults.outlier_factor,
    confidence: float = 0.95,
    backend: str | None = None,
    index: str | None = None,
    target_recall: float | None = None,
    threads: int | None = None,
    keep_activations: bool = True,
    trust_remote_code: bool = False,
    formats: Sequence[str] = FORMATS,
    progress: Progress | None = None,
    group: Any = None,
) -> Sweep:
    """Measure every chosen layer of a model, under each token filter.

    model: hub name, local folder, .gguf file, "package:NAME", or (torch.nn.Module, tokenizer).
    texts: file, folder, .jsonl, "docstrings", or a list of texts.
    output: folder of the run, started again it goes on; None works in a scratch folder.
    layers, filters: as `--layers` and `--filter` of the command line.
    context, pack: tokens a document, and whether documents are cut from one stream of all texts.
    queries: rows sampled as queries of the neighbour search, against all rows (None: all;
        "1%": as many as keep that relative error of TwoNN, (1.6 / 0.01)^2 = 25,600);
    pairs: pairs sampled for the distribution of the cosine (None: all); exact: all of both.
    backend: "faiss" or "faiss-gpu" for approximate neighbours, audited; index, target_recall: as in
        `knn`. What the audit says stands in the column `reason` of `id_twonn`.

    group: a torch.distributed process group (`torch.distributed.group.WORLD` for all) whose ranks
        make this call together, each with its share of the documents: docs/distributed.md. They
        search neighbours exactly, so backend is left out.

    Returns a `Sweep`. Raises FastdimError: ModelError, InputError, StoreError, DependencyError;
    with a group RankError, and what one rank raises on all of them.
    A layer that fails gives rows with status "failed" and a reason; the others go on.
    """

    def prepare() -> Job:
        if group is not None and output is None:
            raise InputError(
                "a sweep of several ranks needs output=, where what is finished is kept"
            )
        require_formats(() if output is None else formats, [model])
        return prepare_model(
            model,
            load_texts(texts),
            revision=revision,
            layers=layers,
            filters=filters,
            context=context,
            pack=pack,
            max_tokens=max_tokens,
            tokens_per_document=tokens_per_document,
            batch_size=batch_size,
            device=device,
            dtype=dtype,
            store_dtype=store_dtype,
            seed=seed,
            queries=queries,
            pairs=pairs,
            exact=exact,
            outlier_factor=outlier_factor,
            confidence=confidence,
            backend=backend,
            index=index,
            target_recall=target_recall,
            threads=threads,
            trust_remote_code=trust_remote_code,
            keep_activations=keep_activations,
        )

    folder = None if output is None else Path(output)
    if group is None:
        job = prepare()
        job.check(folder)
        return Sweep([run_job(job, folder, formats, progress or Progress())])
    from fastdim.distributed.ranks import Ranks
    from fastdim.sweeps.together import run_together

    ranks = Ranks(group)
    # What one rank cannot use is known to all before any waits for another's sweep.
    job = ranks.each(prepare)
    assert folder is not None
    return Sweep([run_together(job, folder, formats, progress or Progress(), ranks)])
