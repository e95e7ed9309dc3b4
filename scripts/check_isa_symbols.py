"""Check that the instruction set files export nothing but their one entry.

A weak or external symbol compiled with AVX-512 may be the copy that the linker keeps for everyone,
and a static initialiser runs at import: both end in SIGILL on an older processor. Reads the object
files under a build folder with nm.

    python scripts/check_isa_symbols.py [build folder]
"""

import re
import subprocess
import sys
from pathlib import Path

LEVEL_OBJECT = re.compile(r"([a-z0-9]+)_(scalar|avx2|avx512|avx512_bf16|avx512_amx)\.cpp\.o$")
UNDEFINED = {"U", "w", "v"}


def problems(path: Path, family: str, level: str) -> list[str]:
    """What is wrong with one object file, one line each."""
    listing = subprocess.run(
        ["nm", "--demangle", str(path)], check=True, capture_output=True, text=True
    ).stdout
    entry = "kernels" if family == "kernels" else f"{family}_kernels"
    expected = f"fastdim::{level}_{entry}()"
    found, wrong = False, []
    for line in listing.splitlines():
        kind, name = re.sub(r"^[0-9a-f]*\s+", "", line).split(maxsplit=1)
        if "GLOBAL__" in name or "__cxx_global_var_init" in name:
            wrong.append(f"{path.name}: static initialiser {name}")
        elif kind == "T" and name == expected:
            found = True
        elif kind not in UNDEFINED and (kind.isupper() or kind == "u"):
            wrong.append(f"{path.name}: exports {name} (type {kind})")
    if not found:
        wrong.append(f"{path.name}: {expected} is missing")
    return wrong


def main() -> int:
    """Check every level object below the folder; 0 if all are clean, 1 if not."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "build")
    objects = [
        (path, match[1], match[2])
        for path in sorted(folder.rglob("*.o"))
        if (match := LEVEL_OBJECT.search(path.name))
    ]
    if not objects:
        print(f"no *_<level>.cpp.o below {folder}: build first", file=sys.stderr)
        return 1
    wrong = [line for found in objects for line in problems(*found)]
    for line in wrong:
        print(line, file=sys.stderr)
    if not wrong:
        print(f"{len(objects)} object files export their entry alone")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
