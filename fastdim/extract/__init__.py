"""Hidden states out of a model: texts -> documents -> hooks -> safetensors shards on disk.

    texts.load_texts          file, folder, JSONL, standard input, docstrings -> Corpus
    documents.build_documents Corpus -> tokens in documents, the kept ones chosen by a hash
    model.load_model          hub name, folder, GGUF, installed package -> LoadedModel
    sites.find_sites          embedding, block outputs, final norm, found by structure
    run.extract               forward passes; one shard a batch, resumable
    modules.extract_modules   the same for named modules of any torch module and any batches
    files.open_activations    matrices that were written elsewhere
    store.Store               reads what was written, without torch

Nothing is imported here; torch only when a model is opened or run.
"""
