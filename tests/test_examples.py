"""Examples of other domains in small; audio runs whole in .ci/run, which installs its programs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from examples import audio, images, sensors
from examples.domains import METRICS, Study, run
from fastdim import Sweep
from fastdim.errors import DependencyError

pytestmark = pytest.mark.usefixtures("one_torch_thread")

# Writes a WAV file of half a second at 8 kHz: a ramp.
RAMP = """
import struct, sys, wave
with wave.open(sys.stdout.buffer, "wb") as file:
    file.setnchannels(1); file.setsampwidth(2); file.setframerate(8000)
    file.writeframes(struct.pack("<4000h", *range(4000)))
"""


@pytest.mark.parametrize(
    ("made", "steps"), [(images.study, 90), (sensors.study, 20)], ids=["images", "sensors"]
)
def test_a_module_is_measured_before_and_after_training(
    made: Callable[[], Study], steps: int, tmp_path: Path
) -> None:
    study = made()
    before = float(study.loss(1).detach())
    table = run(study, tmp_path, steps=steps, rows=600)
    assert list(table.index) == list(study.modules)
    assert set(table.columns.get_level_values("metric")) == set(METRICS)
    assert np.isfinite(table.to_numpy()).all()
    random, trained = table["random"], table["trained"]
    assert (random["anisotropy"] != trained["anisotropy"]).to_numpy().all()
    assert float(study.loss(1).detach()) < before
    for name in ("random", "trained"):
        assert (tmp_path / name / "report.html").is_file()
        assert Sweep.load(tmp_path / name).runs[0].sample["n_rows"] == 600


def test_sounds_are_read_and_programs_that_lack_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sound = audio.samples([sys.executable, "-c", RAMP])
    assert len(sound) == audio.RATE * audio.SECONDS
    np.testing.assert_allclose(sound[:8000] * 32768, np.arange(8000) // 2)
    assert not sound[8000:].any()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DependencyError, match="apt-get install espeak-ng"):
        audio.program("espeak-ng")
    with pytest.raises(DependencyError, match="the program sox is not installed"):
        next(audio.sounds(1))
