"""Builds fastdim._core with CMake. Metadata and version live in pyproject.toml.

Environment: MAX_JOBS (parallel compile jobs), CMAKE_ARGS (further arguments for CMake, e.g.
"-DFASTDIM_SCALAR_ONLY=ON -DFASTDIM_WERROR=ON"). Nothing is downloaded, and neither PyTorch nor the
processor of this machine is looked at: every level that the compiler knows is built, and the choice
falls at run time.
"""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent


class CMakeBuild(build_ext):
    """One CMake target a declared extension; honours --inplace, hence editable installs."""

    def build_extension(self, ext: Extension) -> None:
        import pybind11

        output = Path(self.get_ext_fullpath(ext.name)).resolve()
        build = Path(self.build_temp).resolve() / "cmake"
        cmake = shutil.which("cmake")
        if cmake is None:
            raise RuntimeError("building fastdim needs cmake >= 3.18: pip install cmake")
        configure = [
            cmake,
            f"-S{ROOT}",
            f"-B{build}",
            f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={output.parent}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            "-DPYBIND11_FINDPYTHON=ON",
            *shlex.split(os.environ.get("CMAKE_ARGS", "")),
        ]
        # A cache made by another interpreter, CMake or set of options would be half believed.
        made_by = build / "configure-command.txt"
        command = shlex.join(configure)
        if build.exists() and not (made_by.exists() and made_by.read_text() == command):
            shutil.rmtree(build)
        build.mkdir(parents=True, exist_ok=True)
        subprocess.run(configure, check=True)
        made_by.write_text(command)
        jobs = os.environ.get("MAX_JOBS", str(os.cpu_count() or 1))
        subprocess.run([cmake, "--build", str(build), "--parallel", jobs], check=True)
        if not output.exists():
            raise RuntimeError(f"CMake finished without making {output}")


setup(
    ext_modules=[Extension("fastdim._core", sources=[])],
    cmdclass={"build_ext": CMakeBuild},
)
