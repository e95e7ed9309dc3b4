"""Memory of an extraction: one batch, however many tokens go through the model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

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

def peak(tokens):
    documents = build_documents(corpus, model.tokenizer, context=32, max_tokens=tokens)
    store = extract(model, documents, Path({folder!r}) / str(tokens), sites, batch_size=4)
    assert store.n_rows == tokens
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, store.nbytes

few, few_bytes = peak(1024)
many, many_bytes = peak(8192)
print(many - few, many_bytes - few_bytes)
"""
ALLOWED = 16 << 10  # KiB, as ru_maxrss counts on Linux: four batches


def test_eight_times_the_tokens_take_no_more_memory(tmp_path: Path) -> None:
    program = PROGRAM.format(tests=str(Path(__file__).parent), folder=str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    grown, written = (int(number) for number in done.stdout.split())
    assert written > 10 * 1024 * ALLOWED, "rows that were kept would show"
    assert grown < ALLOWED, f"the peak grew by {grown / 1024:.0f} MiB"
