"""Instruction set levels: which exist, which runs, how one is forced."""

import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import has_amx

from fastdim import _core, as_rows
from fastdim.backends import cpu
from fastdim.errors import BackendError, InputError

ORDER = ["scalar", "avx2", "avx512"]

REPORT = """
import numpy as np
from fastdim import as_rows
from fastdim.backends import cpu
x = np.random.default_rng(0).standard_normal((40, 9))
distances, _, counts = cpu.knn(as_rows(x), None, 2, 1)
print(cpu.active_isa(), counts["isa"], repr(float(distances.sum())))
"""


def run_python(code: str, isa: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "FASTDIM_ISA": isa},
        capture_output=True,
        text=True,
        check=False,
    )


def test_levels_are_ascending_and_begin_with_scalar() -> None:
    built, supported = _core.built_levels(), _core.supported_levels()
    assert built[0] == supported[0] == "scalar"
    assert built == sorted(built, key=ORDER.index)
    assert supported == sorted(set(built) & set(supported), key=ORDER.index)


def test_supported_levels_agree_with_the_cpu_features() -> None:
    features = _core.cpu_features()
    avx2 = features["avx2"] and features["fma"] and features["f16c"]
    avx512 = avx2 and all(features[f"avx512{part}"] for part in ("f", "bw", "vl", "dq"))
    runnable = {"scalar": True, "avx2": avx2, "avx512": avx512}
    expected = [level for level in _core.built_levels() if runnable[level]]
    assert _core.supported_levels() == expected


def test_highest_level_runs_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in (None, ""):
        if value is None:
            monkeypatch.delenv("FASTDIM_ISA", raising=False)
        else:
            monkeypatch.setenv("FASTDIM_ISA", value)
        assert cpu.active_isa() == _core.supported_levels()[-1]


@pytest.mark.parametrize("level", _core.supported_levels())
def test_forced_level_runs_in_a_new_process(level: str) -> None:
    done = run_python(REPORT, level)
    assert done.returncode == 0, done.stderr
    active, used, total = done.stdout.split()
    assert active == used == level
    x = np.random.default_rng(0).standard_normal((40, 9))
    gaps = np.sqrt(((x[:, None] - x) ** 2).sum(axis=-1))
    assert float(total) == pytest.approx(np.sort(gaps, axis=1)[:, 1:3].sum(), rel=1e-12)


def test_variable_is_read_at_each_call(monkeypatch: pytest.MonkeyPatch) -> None:
    for level in _core.supported_levels():
        monkeypatch.setenv("FASTDIM_ISA", level)
        assert cpu.active_isa() == level


@pytest.mark.parametrize("value", ["sse9", "AVX2", "avx512 ", "0"])
def test_unknown_level_is_an_error_that_names_the_levels(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTDIM_ISA", value)
    with pytest.raises(BackendError) as caught:
        cpu.active_isa()
    message = str(caught.value)
    assert "FASTDIM_ISA" in message
    assert repr(value) in message
    assert all(level in message for level in _core.supported_levels())
    with pytest.raises(BackendError, match="FASTDIM_ISA"):
        cpu.knn(as_rows(np.eye(4)), None, 1, 1)


@pytest.mark.parametrize("value", ["2", "yes", " 1", "off"])
def test_amx_is_asked_for_by_0_or_1(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTDIM_AMX", value)
    with pytest.raises(BackendError, match=f"FASTDIM_AMX='{value}' is neither 0 nor 1"):
        cpu.active_isa()
    with pytest.raises(BackendError, match="FASTDIM_AMX"):
        cpu.knn(as_rows(np.eye(4)), None, 1, 1)


@pytest.mark.parametrize("level", _core.supported_levels())
def test_amx_runs_where_it_is_and_is_an_error_elsewhere(
    level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTDIM_ISA", level)
    there = level == "avx512" and has_amx()
    rows = as_rows(np.random.default_rng(0).standard_normal((40, 9)).astype(np.float32))
    for value in ("", "0", "1"):
        monkeypatch.setenv("FASTDIM_AMX", value)
        if value == "1" and not there:
            with pytest.raises(BackendError, match=f"level {level}.* has no AMX"):
                cpu.active_isa()
            continue
        assert cpu.active_isa() == level
        for arithmetic in _core.filter_arithmetics(level):
            found = cpu.knn(rows, None, 2, 1, 0, "direct", arithmetic)[2]
            assert found["amx"] == (there and value != "0" and arithmetic == "int8")


def test_unknown_level_does_not_break_the_import() -> None:
    done = run_python("import fastdim", "sse9")
    assert done.returncode == 0, done.stderr


def test_level_as_argument_wins_over_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTDIM_ISA", "sse9")
    assert _core.active_level("scalar") == "scalar"
    with pytest.raises(ValueError, match=r"isa='mmx'.*scalar"):
        _core.active_level("mmx")


def test_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FASTDIM_NUM_THREADS", raising=False)
    assert cpu.resolve_threads() >= 1
    assert cpu.resolve_threads(3) == 3
    monkeypatch.setenv("FASTDIM_NUM_THREADS", "5")
    assert cpu.resolve_threads() == 5
    assert cpu.resolve_threads(2) == 2


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5"])
def test_bad_thread_variable(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTDIM_NUM_THREADS", value)
    with pytest.raises(InputError, match="FASTDIM_NUM_THREADS"):
        cpu.resolve_threads()


@pytest.mark.parametrize("value", [0, -2, 1.5, True, "4"])
def test_bad_thread_argument(value: object) -> None:
    with pytest.raises(InputError, match="threads"):
        cpu.resolve_threads(value)  # type: ignore[arg-type]
