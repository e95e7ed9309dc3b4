"""Hidden states out of a model: texts -> documents -> hooks -> safetensors shards on disk.

    texts.load_texts          file, folder, JSONL, standard input, docstrings -> Corpus
    documents.build_documents Corpus -> tokens in documents, the kept ones chosen by a hash
    model.load_model          hub name, folder, GGUF, installed package -> LoadedModel
    sites.find_sites          embedding, block outputs, final norm, found by structure
    run.extract               forward passes; one shard a batch, resumable
    modules.extract_modules   the same for any torch.nn.Module and any batches
    store.Store               reads what was written, without torch

Only `model`, `sites`, `capture`, `run` and `modules` import torch, and nothing is imported here.
"""
