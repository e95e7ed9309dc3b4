"""Memory of an extraction: one batch, however many tokens go through the model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

# The model is nothing but wide rows: 4 sites of 2,048 float32 are 32 KiB a token. A batch of 4
# documents of 32 tokens is 4 MiB of rows. 1,024 tokens give 32 MiB, 8,192 tokens 256 MiB: rows
# that were kept would raise the peak by 224 MiB. Seen: 0.4 to 8 MiB, which is the allocator's.
PROGRAM = """
import resource, sys
from pathlib import Path
import torch
from torch import nn
sys.path.insert(0, {tests!r})
from test_extract_sites import Letters, VOCABULARY
from fastdim.extract.documents import build_documents
from fastdim.extract.model import LoadedModel
from fastdim.extract.modules import extract_modules
from fastdim.extract.run import extract
from fastdim.extract.sites import find_sites
from fastdim.extract.texts import make_corpus

WIDTH = 2048

class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(WIDTH))

    def forward(self, x):
        return x * self.weight

class Wide(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.blocks = nn.ModuleList(Scale() for _ in range(3))

    def forward(self, input_ids, attention_mask):
        x = self.embed(input_ids)
        for block in self.blocks:
            x = block(x)
        return x

torch.set_num_threads(1)
model = LoadedModel(Wide().eval(), Letters(), "wide", None, "float32", "memory")
corpus = make_corpus(["all work and no play makes jack a dull boy "] * 400, "jack")
sites = find_sites(model.model)

def by_texts(tokens, folder):
    documents = build_documents(corpus, model.tokenizer, context=32, max_tokens=tokens)
    return extract(model, documents, folder, sites, batch_size=4)

def by_modules(tokens, folder):
    ids = torch.arange(tokens).reshape(-1, 4, 32) % VOCABULARY
    batches = ((batch, torch.ones_like(batch)) for batch in ids)
    return extract_modules(model.model, batches, [s.module for s in sites], folder)

def peak(tokens):
    store = {function}(tokens, Path({folder!r}) / str(tokens))
    assert store.n_rows == tokens
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, store.nbytes

few, few_bytes = peak(1024)
many, many_bytes = peak(8192)
print(many - few, many_bytes - few_bytes)
"""
ALLOWED = 16 << 10  # KiB, as ru_maxrss counts on Linux: four batches


@pytest.mark.parametrize("function", ["by_texts", "by_modules"])
def test_eight_times_the_tokens_take_no_more_memory(function: str, tmp_path: Path) -> None:
    tests = str(Path(__file__).parent)
    program = PROGRAM.format(tests=tests, folder=str(tmp_path), function=function)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    grown, written = (int(number) for number in done.stdout.split())
    assert written > 10 * 1024 * ALLOWED, "rows that were kept would show"
    assert grown < ALLOWED, f"the peak grew by {grown / 1024:.0f} MiB"
