"""Sensor series: windows of a four-channel EEG through a small transformer.

The recording is matplotlib's sample (4 electrodes, 800 samples). The model guesses masked patches
of a window from the others. python -m examples.sensors --output DIR
"""

from __future__ import annotations

import numpy as np
import torch
from matplotlib import cbook

from examples.domains import Study, options, run

WINDOW, PATCH, CHANNELS = 64, 4, 4
PATCHES = WINDOW // PATCH
# Windows that start before this sample train; those that start after the last of them ends judge.
CUT = 500


class Model(torch.nn.Module):
    """Patches of all channels as tokens, 6 pre-norm blocks, a guess at every patch."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.patches = torch.nn.Linear(PATCH * CHANNELS, width)
        self.positions = torch.nn.Parameter(0.02 * torch.randn(PATCHES, width))
        self.mask = torch.nn.Parameter(0.02 * torch.randn(width))
        block = torch.nn.TransformerEncoderLayer(
            width, 4, 2 * width, dropout=0.0, batch_first=True, norm_first=True
        )
        self.blocks = torch.nn.TransformerEncoder(block, 6, enable_nested_tensor=False)
        self.norm = torch.nn.LayerNorm(width)
        self.guess = torch.nn.Linear(width, PATCH * CHANNELS)

    def forward(self, series: torch.Tensor, hidden: torch.Tensor | None = None) -> torch.Tensor:
        """series (windows, patches, samples x channels); hidden: patches to guess."""
        x = self.patches(series)
        if hidden is not None:
            x = torch.where(hidden[..., None], self.mask, x)
        guessed: torch.Tensor = self.guess(self.norm(self.blocks(x + self.positions)))
        return guessed


def windows(starts: range) -> torch.Tensor:
    """Windows of the recording, each channel standardized, as (windows, patches, values)."""
    with cbook.get_sample_data("eeg.dat", asfileobj=True) as file:
        series = np.frombuffer(file.read(), dtype="<f8").reshape(800, CHANNELS)
    series = (series - series[:CUT].mean(axis=0)) / series[:CUT].std(axis=0)
    cut = np.stack([series[start : start + WINDOW] for start in starts])
    return torch.from_numpy(cut.reshape(len(cut), PATCHES, -1)).float()


def study(seed: int = 0) -> Study:
    """Training windows end where held-out ones begin; windows of one side overlap."""
    torch.manual_seed(seed)
    training, held_out = windows(range(CUT - WINDOW)), windows(range(CUT, 800 - WINDOW + 1, 2))
    model = Model()

    def error(series: torch.Tensor, number: int) -> torch.Tensor:
        drawn = torch.Generator().manual_seed(number)
        hidden = torch.rand(series.shape[:2], generator=drawn) < 0.3
        return (model(series, hidden) - series)[hidden].square().mean()

    def loss(step: int) -> torch.Tensor:
        drawn = torch.Generator().manual_seed(step)
        chosen = torch.randint(0, len(training), (32,), generator=drawn)
        return error(training[chosen], step)

    def quality() -> float:
        model.eval()
        with torch.no_grad():
            return float(error(held_out, 0))

    modules = ["blocks.layers.0:input", *(f"blocks.layers.{n}" for n in range(6)), "norm"]
    batches = list(held_out.split(50))
    return Study(model, loss, batches, modules, quality, "squared error of masked patches")


if __name__ == "__main__":
    given = options(__doc__, steps=400)
    run(study(), given.output, given.steps, given.rows)
