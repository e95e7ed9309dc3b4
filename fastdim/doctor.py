"""`fastdim doctor`: what this machine can run, why not where it cannot, and what to install.

Packages that can take the process down with them (two OpenMP runtimes, a broken driver) are
imported in child processes. A missing package is an answer here, never an error.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fastdim.backends.devices import check_backend
from fastdim.errors import BackendError, FastdimError
from fastdim.sweeps.definition import installed_version

PACKAGES = (
    "fastdim", "numpy", "rich", "safetensors", "torch", "transformers", "tokenizers", "gguf",
    "accelerate", "torchmetrics", "pyyaml", "pandas", "pyarrow", "matplotlib", "faiss-cpu",
    "faiss-gpu", "triton", "scikit-learn",
)  # fmt: skip

_TIMEOUT_S = 120

# Each child prints one JSON object. An import proves little: triton imports on a machine without
# GPU and fails at its driver, and faiss-gpu works as a CPU library where there is no GPU.
_PROBES = {
    "torch": """
import torch
out = {"version": torch.__version__, "cuda_build": torch.version.cuda or "",
       "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
       "threads": torch.get_num_threads()}
""",
    "triton": """
import triton
out = {"version": triton.__version__, "driver": "", "driver_error": ""}
try:
    target = triton.runtime.driver.active.get_current_target()
    out["driver"] = f"{target.backend} {target.arch}"
except Exception as error:
    out["driver_error"] = f"{type(error).__name__}: {error}".splitlines()[0]
""",
    "faiss": """
import faiss
out = {"version": faiss.__version__,
       "gpus": faiss.get_num_gpus() if hasattr(faiss, "get_num_gpus") else 0}
""",
    "transformers": """
import transformers
out = {"version": transformers.__version__}
""",
    "cuda": """
import fastdim._cuda
from fastdim.backends.cuda import device
from fastdim.errors import BackendError
out = {"device": "", "why": ""}
try:
    out["device"] = device().name
except BackendError as error:
    out["why"] = str(error)
""",
}

_CHILD = """
import json, sys
{code}
print("\\n" + json.dumps(out))
"""


@dataclass(frozen=True)
class Check:
    """One line of the answer. `fix` is empty where nothing has to be done."""

    name: str
    usable: bool
    detail: str
    fix: str = ""


def probe_all() -> dict[str, dict[str, Any]]:
    """Result of every child: its JSON object, or {"error": why}. They run side by side."""
    children = {}
    for name, code in _PROBES.items():
        children[name] = subprocess.Popen(
            [sys.executable, "-c", _CHILD.format(code=code)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    return {name: _result(child) for name, child in children.items()}


def _result(child: subprocess.Popen[str]) -> dict[str, Any]:
    try:
        stdout, stderr = child.communicate(timeout=_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.communicate()
        return {"error": f"no answer within {_TIMEOUT_S} s"}
    if child.returncode < 0:
        return {"error": f"killed by signal {-child.returncode} on import"}
    lines = (stdout if child.returncode == 0 else stderr).strip().splitlines()
    last = lines[-1] if lines else f"exit status {child.returncode}"
    if child.returncode:
        return {"error": last}
    answer: dict[str, Any] = json.loads(last)
    return answer


def _missing(error: str) -> bool:
    return "ModuleNotFoundError" in error


def cpu_check() -> tuple[Check, dict[str, Any]]:
    """The kernels' instruction set levels and the thread count that would be used."""
    try:
        from fastdim import _core
        from fastdim.backends.cpu import active_isa, resolve_threads
    except ImportError as error:
        check = Check("cpu", False, f"fastdim._core does not import: {error}", _REINSTALL)
        return check, {}
    facts: dict[str, Any] = {
        "built": _core.built_levels(),
        "supported": _core.supported_levels(),
        "features": sorted(name for name, there in _core.cpu_features().items() if there),
        "forced": os.environ.get("FASTDIM_ISA", ""),
        "amx": os.environ.get("FASTDIM_AMX", ""),
    }
    try:
        facts["active"] = active_isa()
        facts["threads"] = resolve_threads(None)
    except FastdimError as error:
        return Check("cpu", False, str(error), _UNSET), facts
    detail = (
        f"level {facts['active']} (built: {', '.join(facts['built'])}; this CPU runs:"
        f" {', '.join(facts['supported'])}), {facts['threads']} threads"
    )
    return Check("cpu", True, detail), facts


_REINSTALL = "reinstall with a C++17 compiler present: pip install --force-reinstall fastdim"
_UNSET = "unset FASTDIM_ISA / FASTDIM_AMX / FASTDIM_NUM_THREADS"


_BUILD_CUDA = (
    "with an NVIDIA card and CUDA's nvcc on the PATH, in the sources of fastdim:"
    ' CMAKE_ARGS="-DFASTDIM_CUDA=ON" pip install . (docs/cuda.md)'
)


def _is_called(name: str) -> bool:
    """Whether knn() of this version takes a backend of this name."""
    try:
        check_backend(name)
    except BackendError:
        return False
    return True


def backend_checks(probes: dict[str, dict[str, Any]]) -> list[Check]:
    """One check a backend other than the CPU, from the children's answers."""
    checks = [_cuda(probes["cuda"]), _triton(probes["triton"], probes["torch"])]
    return [_called(check) for check in [*checks, _faiss(probes["faiss"])]]


def _called(check: Check) -> Check:
    """A library that runs is no usable backend where fastdim does not call it."""
    if _is_called(check.name):
        return check
    fix = f"{check.fix}; backend cpu needs none of this" if check.fix else ""
    return Check(check.name, False, f"{check.detail}; fastdim has no {check.name} backend yet", fix)


def _cuda(answer: dict[str, Any]) -> Check:
    if "error" in answer:
        if not _missing(answer["error"]):
            detail = f"fastdim._cuda does not import: {answer['error']}"
            return Check("cuda", False, detail, f"build it again, {_BUILD_CUDA}")
        nvcc = shutil.which("nvcc")
        found = f"nvcc is {nvcc}" if nvcc else "nvcc is not on the PATH"
        card = "an NVIDIA driver is there" if nvidia_driver() else "no NVIDIA driver is there"
        detail = f"the extension fastdim._cuda is not built; {found}, {card}"
        return Check("cuda", False, detail, _BUILD_CUDA)
    if answer["why"]:
        return Check("cuda", False, f"the extension is built; {answer['why']}")
    return Check("cuda", True, f"the extension is built; device {answer['device']}")


def nvidia_driver() -> bool:
    """Whether the driver's library loads, whatever else is installed."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def _triton(answer: dict[str, Any], torch: dict[str, Any]) -> Check:
    fix = "pip install 'fastdim[triton]'"
    if "error" in answer:
        if _missing(answer["error"]):
            return Check("triton", False, "triton is not installed", fix)
        return Check("triton", False, f"triton does not import: {answer['error']}", fix)
    version = f"triton {answer['version']}"
    if answer["driver_error"]:
        detail = f"{version} imports, its driver does not start: {answer['driver_error']}"
        return Check("triton", False, detail, "it needs an NVIDIA or AMD GPU with its driver")
    if not torch.get("gpus"):
        return Check("triton", False, f"{version}, but torch sees no GPU", "a CUDA build of torch")
    return Check("triton", True, f"{version}, driver {answer['driver']}")


def _faiss(answer: dict[str, Any]) -> Check:
    fix = "pip install 'fastdim[faiss]' (or [faiss-gpu]; never both, they share one module name)"
    if "error" in answer:
        if _missing(answer["error"]):
            return Check("faiss", False, "faiss is not installed", fix)
        return Check("faiss", False, f"faiss does not import: {answer['error']}", fix)
    if installed_version("faiss-cpu") and installed_version("faiss-gpu"):
        detail = "faiss-cpu and faiss-gpu are both installed and overwrite each other"
        return Check("faiss", False, detail, "pip uninstall both, then install one of them")
    return Check("faiss", True, f"faiss {answer['version']}, {answer['gpus']} GPUs")


def task_checks(probes: dict[str, dict[str, Any]]) -> list[Check]:
    """What reading models and writing reports needs."""
    fix = "pip install 'fastdim[models]'"
    checks = []
    torch = probes["torch"]
    if "error" in torch:
        missing = _missing(torch["error"])
        detail = "torch is not installed" if missing else f"torch fails: {torch['error']}"
        checks.append(Check("torch", False, detail, fix))
    else:
        build = f"CUDA {torch['cuda_build']} build" if torch["cuda_build"] else "CPU build"
        gpus = ", ".join(torch["gpus"]) or "no GPU"
        checks.append(Check("torch", True, f"torch {torch['version']} ({build}), {gpus}"))
    lacking = [name for name in ("gguf", "accelerate", "pyyaml") if not installed_version(name)]
    transformers = probes["transformers"]
    if "error" in transformers:
        missing = _missing(transformers["error"])
        detail = "is not installed" if missing else f"fails: {transformers['error']}"
        checks.append(Check("models", False, f"transformers {detail}", fix))
    elif lacking:
        detail = f"transformers {transformers['version']}; missing: {', '.join(lacking)}"
        checks.append(Check("models", False, detail, fix))
    else:
        detail = f"transformers {transformers['version']}, gguf, accelerate, pyyaml"
        checks.append(Check("models", "error" not in torch, detail))
    absent = [n for n in ("pandas", "pyarrow", "matplotlib") if not installed_version(n)]
    if absent:
        detail = f"missing: {', '.join(absent)}"
        checks.append(Check("report", False, detail, "pip install 'fastdim[report]'"))
    else:
        checks.append(Check("report", True, "pandas, pyarrow, matplotlib"))
    return checks


def examine() -> dict[str, Any]:
    """Everything doctor knows, ready for JSON: platform, cpu, backends, tasks, versions."""
    probes = probe_all()
    cpu, facts = cpu_check()
    return {
        "platform": {
            "system": platform.platform(),
            "machine": platform.machine(),
            "python": platform.python_version(),
        },
        "cpu": facts,
        "backends": [asdict(check) for check in [cpu, *backend_checks(probes)]],
        "tasks": [asdict(check) for check in task_checks(probes)],
        "versions": {name: installed_version(name) for name in PACKAGES},
    }


def render(answer: dict[str, Any], console: Console) -> None:
    """Print the answer of `examine` on a rich Console."""
    where = answer["platform"]
    console.print(f"{where['system']}, Python {where['python']}", highlight=False)
    for title, key in (("backend", "backends"), ("task", "tasks")):
        table = Table(box=None, pad_edge=False)
        table.add_column(title, no_wrap=True)
        table.add_column("usable", no_wrap=True)
        table.add_column("why, and what to do", overflow="fold")
        for check in answer[key]:
            fix = f"\n-> {check['fix']}" if check["fix"] else ""
            mark = "[green]yes[/]" if check["usable"] else "[yellow]no[/]"
            table.add_row(check["name"], mark, escape(check["detail"] + fix))
        console.print()
        console.print(table, highlight=False)
    versions = ", ".join(f"{name} {v or '-'}" for name, v in answer["versions"].items())
    console.print(f"\n{versions}", highlight=False, soft_wrap=True)
