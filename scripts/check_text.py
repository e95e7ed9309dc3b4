"""Text rules of CONTRIBUTING.md that no linter knows: file lengths and refused constructs.

Reads the files git knows, prints every violation as path:line, exits 1 if there is any.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

MAX_LINES = 500
LIMITS = {"CONTRIBUTING.md": 150}
SOURCE = {".py", ".pyi", ".cpp", ".h", ".cu"}
RULES = [
    (r"-ffast-math|-Ofast", "fast-math changes results without notice"),
    (r"#\s*if\s+0\b", "dead code"),
    (r"#\s*type:\s*ignore(?!\[)", "an ignore names its error code"),
    (r"#\s*noqa(?!:)", "a noqa names its rule"),
    (r"\bTODO\b(?!\()", "a TODO names its event: TODO(when ...)"),
    (r"KMP_DUPLICATE_LIB_OK", "two OpenMP runtimes are not to be hidden"),
    (r"pytest\.importorskip", "[test] installs everything: nothing is skipped"),
]


def tracked_files() -> list[Path]:
    """Files under version control, without those removed from the working tree."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return [path for name in listed.split("\0") if name and (path := Path(name)).is_file()]


def violations(path: Path) -> list[str]:
    """Every broken rule of one file, as printable lines."""
    if path.suffix not in SOURCE and path.name not in LIMITS:
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    found = []
    limit = LIMITS.get(path.name, MAX_LINES)
    if len(lines) > limit:
        found.append(f"{path}:{limit + 1}: {len(lines)} lines, limit {limit}")
    if path.resolve() == Path(__file__).resolve():
        return found
    for number, line in enumerate(lines, 1):
        found += [f"{path}:{number}: {why}" for rule, why in RULES if re.search(rule, line)]
    return found


def main() -> int:
    """Check every file; 0 if all follow the rules."""
    files = tracked_files()
    if not files:
        print("check_text: git lists no file", file=sys.stderr)
        return 1
    found = [line for path in files for line in violations(path)]
    print("\n".join(found) if found else f"check_text: {len(files)} files follow the rules")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
