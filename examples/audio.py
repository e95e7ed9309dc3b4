"""Audio: a spectrogram transformer over speech by espeak-ng and tones and noise by sox.

Both programs are Debian packages of these names. python -m examples.audio --output DIR
"""

from __future__ import annotations

import io
import shutil
import subprocess
import wave
from collections.abc import Iterator

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from examples.domains import Study, options, run
from fastdim.errors import DependencyError

RATE = 16_000
SECONDS = 1.28
FRAMES = 128  # of 10 ms
KINDS = ("English", "German", "French", "pluck", "sweep", "noise")
WORDS = ("dimension", "library", "neighbour", "seven", "water", "morning", "paper", "animal",
         "distance", "music", "window", "garden", "river", "table", "summer", "number")  # fmt: skip
NOTES = ("C3", "E3", "G3", "A3", "C4", "D4", "E4", "G4", "A4", "C5", "D5", "E5", "F3", "B3", "F4",
         "B4")  # fmt: skip


def program(name: str) -> str:
    """Path of a program. Raises DependencyError where it is not installed."""
    found = shutil.which(name)
    if found is None:
        raise DependencyError(
            f"the program {name} is not installed, and it makes the sounds of this example; "
            f"install it with: apt-get install {name}"
        )
    return found


def sounds(each: int) -> Iterator[tuple[NDArray[np.float32], int]]:
    """Sounds of `SECONDS` with the number of their kind, `each` of every kind."""
    sox = [program("sox"), "-V1", "-n", "-r", str(RATE), "-c", "1", "-b", "16", "-t", "wav", "-"]
    espeak = program("espeak-ng")
    for number in range(each):
        word, note = WORDS[number % len(WORDS)], NOTES[number % len(NOTES)]
        other = WORDS[(3 * number + 1) % len(WORDS)]
        for kind, voice in enumerate(("en", "de", "fr")):
            pitch, speed = 30 + 7 * number % 50, 130 + 11 * number % 80
            spoken = [espeak, "--stdout", "-v", voice, "-p", str(pitch), "-s", str(speed)]
            yield samples([*spoken, f"{word} {other}"]), kind
        length = ["synth", str(SECONDS)]
        yield samples([*sox, *length, "pluck", note]), 3
        low, high = 100 + 37 * number, 2000 + 211 * number
        yield samples([*sox, *length, "sine", f"{low}-{high}"]), 4
        color = ("whitenoise", "pinknoise", "brownnoise")[number % 3]
        # -R: the same noise each time; the tremolo tells sounds of one color apart.
        yield samples([*sox[:1], "-R", *sox[1:], *length, color, "tremolo", str(2 + number)]), 5


def samples(line: list[str]) -> NDArray[np.float32]:
    """What a program writes as WAV, resampled to RATE by taking the nearest sample, in full
    length."""
    data = subprocess.run(line, check=True, capture_output=True).stdout
    with wave.open(io.BytesIO(data)) as file:
        rate = file.getframerate()
        raw = np.frombuffer(file.readframes(file.getnframes()), dtype="<i2")
    places = (np.arange(int(SECONDS * RATE)) * rate / RATE).astype(np.int64)
    out = np.zeros(len(places), dtype=np.float32)
    inside = places < len(raw)
    out[inside] = raw[places[inside]] / 32768.0
    return out


def spectrograms(each: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-mel energies (sounds, FRAMES, 128), standardized, and kinds."""
    made = list(sounds(each))
    reader = transformers.ASTFeatureExtractor(max_length=FRAMES, do_normalize=False)
    found = reader([sound for sound, _ in made], sampling_rate=RATE, return_tensors="pt")
    energy = found["input_values"]
    return (energy - energy.mean()) / energy.std(), torch.tensor([kind for _, kind in made])


def study(each: int = 32, seed: int = 0) -> Study:
    """A quarter of the sounds is held out; patches of 16 bands x 160 ms, 64 rows a sound."""
    torch.manual_seed(seed)
    energy, kinds = spectrograms(each)
    cut = 3 * len(kinds) // 4
    config = transformers.ASTConfig(
        hidden_size=64, num_hidden_layers=6, num_attention_heads=4, intermediate_size=128,
        max_length=FRAMES, frequency_stride=16, time_stride=16, num_labels=len(KINDS),
    )  # fmt: skip
    model = transformers.ASTForAudioClassification(config)

    def loss(step: int) -> torch.Tensor:
        drawn = torch.Generator().manual_seed(step)
        chosen = torch.randint(0, cut, (16,), generator=drawn)
        found: torch.Tensor = model(input_values=energy[chosen], labels=kinds[chosen]).loss
        return found

    def quality() -> float:
        model.eval()
        with torch.no_grad():
            guessed = model(input_values=energy[cut:]).logits.argmax(-1)
        return float((guessed == kinds[cut:]).float().mean())

    batches = [{"input_values": part} for part in energy[cut:].split(16)]
    kind = transformers.models.audio_spectrogram_transformer.modeling_audio_spectrogram_transformer
    first = next(path for path, module in model.named_modules()
                 if isinstance(module, kind.ASTLayer))  # fmt: skip
    stem = first.removesuffix("0")
    modules = [f"{stem}0:input", *(f"{stem}{n}" for n in range(6))]
    modules.append("audio_spectrogram_transformer.layernorm")
    return Study(model, loss, batches, modules, quality, "accuracy on held-out sounds")


if __name__ == "__main__":
    given = options(__doc__, steps=150)
    run(study(), given.output, given.steps, given.rows)
