"""What doctor makes of the children's answers, and that it answers at all."""

from __future__ import annotations

import json
import shutil
from typing import Any

import pytest

from fastdim import doctor
from fastdim.cli import main

MISSING = {"error": "ModuleNotFoundError: No module named 'it'"}
BROKEN = {"error": "ImportError: libsomething.so.1: cannot open shared object file"}
TORCH = {"version": "2.9", "cuda_build": "", "gpus": [], "threads": 2}


def checks(**answers: dict[str, Any]) -> dict[str, doctor.Check]:
    """The checks of backends where all is missing but what is named."""
    probes: dict[str, dict[str, Any]] = {
        "cuda": MISSING,
        "triton": MISSING,
        "faiss": MISSING,
        "torch": TORCH,
        **answers,
    }
    return {check.name: check for check in doctor.backend_checks(probes)}


def test_an_extension_that_is_not_built_says_how_to_build_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(doctor, "nvidia_driver", lambda: False)
    cuda = checks()["cuda"]
    assert not cuda.usable
    assert "not built; nvcc is not on the PATH, no NVIDIA driver is there" in cuda.detail
    assert 'CMAKE_ARGS="-DFASTDIM_CUDA=ON" pip install .' in cuda.fix
    assert "docs/cuda.md" in cuda.fix
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/nvcc")
    monkeypatch.setattr(doctor, "nvidia_driver", lambda: True)
    assert "nvcc is /usr/bin/nvcc, an NVIDIA driver is there" in checks()["cuda"].detail


def test_a_built_extension_is_usable_with_a_device() -> None:
    cuda = checks(cuda={"device": "", "why": "backend 'cuda' finds no device"})["cuda"]
    assert not cuda.usable
    assert cuda.detail == "the extension is built; backend 'cuda' finds no device"
    assert checks(cuda={"device": "H100", "why": ""})["cuda"] == doctor.Check(
        "cuda", True, "the extension is built; device H100"
    )
    broken = checks(cuda=BROKEN)["cuda"]
    assert not broken.usable
    assert "libsomething" in broken.detail
    assert "build it again" in broken.fix


def test_a_library_that_fastdim_does_not_call_is_no_usable_backend(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers: dict[str, dict[str, Any]] = {"faiss": {"version": "1.12", "gpus": 0}}
    answers["triton"] = {"version": "3.5", "driver": "cuda 90", "driver_error": ""}
    answers["torch"] = {**TORCH, "gpus": ["H100"]}
    found = checks(**answers)
    assert found["triton"].usable
    assert found["faiss"] == doctor.Check("faiss", True, "faiss 1.12, 0 GPUs")
    monkeypatch.setattr(doctor, "_is_called", lambda name: True)
    assert all(checks(**answers)[name].usable for name in ("faiss", "triton"))


def test_what_is_missing_names_what_to_install() -> None:
    found = checks()
    assert "pip install 'fastdim[faiss]'" in found["faiss"].fix
    assert "pip install 'fastdim[triton]'" in found["triton"].fix
    tasks = doctor.task_checks({"torch": MISSING, "transformers": MISSING})
    assert [(task.name, task.usable) for task in tasks[:2]] == [("torch", False), ("models", False)]
    assert tasks[0].fix == "pip install 'fastdim[models]'"


def test_a_forced_level_that_is_none_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTDIM_ISA", "mmx")
    check, _ = doctor.cpu_check()
    assert not check.usable
    assert "FASTDIM_ISA='mmx' is not a level" in check.detail


def test_the_command_answers_for_every_backend(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert [check["name"] for check in answer["backends"]] == ["cpu", "cuda", "triton", "faiss"]
    assert answer["backends"][0]["usable"]
    assert answer["versions"]["numpy"]
    for check in answer["backends"]:
        assert check["detail"]
