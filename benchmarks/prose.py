"""English prose out of Debian's documentation packages, nothing said twice.

Of every HTML page the paragraphs and list items count (no code, tables or navigation). A paragraph
is kept if it reads as English prose and says little that a kept paragraph said before.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

# Much prose, of different authors and kinds.
PACKAGES = (
    "anarchism", "debian-faq", "debian-policy", "debian-reference-en", "developers-reference",
    "git-doc", "linux-doc-6.1", "maxima-doc", "octave-doc", "postgresql-doc-15", "python3.11-doc",
    "sqlite3-doc",
)  # fmt: skip

BLOCKS = frozenset({"p", "li", "dd"})
SKIPPED = frozenset(
    {"script", "style", "pre", "table", "nav", "header", "footer", "code-block", "head", "svg"}
)
# A block that starts ends the paragraph before it, whether that was closed or not.
BREAKS = BLOCKS | frozenset({"div", "dt", "dl", "ul", "ol", "h1", "h2", "h3", "h4", "h5", "h6"})

LEAST_WORDS = 20
# Of the characters of prose, letters and spaces; of its words, the commonest of English.
LETTERS = 0.85
COMMON = 0.2
COMMON_WORDS = frozenset(
    (
        "the", "of", "to", "and", "a", "in", "is", "it", "that", "for", "be", "as", "are", "on",
        "with", "this", "or", "by", "an", "not", "from", "which", "can", "will", "if", "you", "at",
        "have", "has", "was", "but", "they", "its", "more", "when", "their", "would", "there",
        "all", "we", "one",
    )
)  # fmt: skip

# Consecutive words of a shingle; a paragraph with more than this share of shingles that were seen
# before is a repetition.
SHINGLE = 8
REPEATED = 0.1

_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?")


class Paragraphs(HTMLParser):
    """Text of the blocks of a page, one string each, white space joined."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[str] = []
        self._parts: list[str] | None = None
        self._skipped = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Begin or interrupt a paragraph."""
        if tag in SKIPPED:
            self._skipped += 1
        if tag in BREAKS:
            self._end()
            self._parts = [] if tag in BLOCKS else None

    def handle_endtag(self, tag: str) -> None:
        """End a paragraph, or what was skipped."""
        if tag in SKIPPED:
            self._skipped = max(0, self._skipped - 1)
        if tag in BREAKS:
            self._end()

    def handle_data(self, data: str) -> None:
        """Text, if a paragraph is open."""
        if self._parts is not None and not self._skipped:
            self._parts.append(data)

    def _end(self) -> None:
        if self._parts:
            text = " ".join("".join(self._parts).split())
            if text:
                self.found.append(text)
        self._parts = None


def is_prose(text: str) -> bool:
    """Whether a paragraph reads as English sentences."""
    words = _WORD.findall(text.lower())
    if len(words) < LEAST_WORDS:
        return False
    letters = sum(character.isalpha() or character == " " for character in text)
    common = sum(word in COMMON_WORDS for word in words)
    return letters >= LETTERS * len(text) and common >= COMMON * len(words)


class Repetitions:
    """Shingles of everything that was kept."""

    def __init__(self) -> None:
        self._seen: set[int] = set()

    def is_new(self, text: str) -> bool:
        """Whether at most REPEATED of the shingles were seen before; they are remembered then."""
        words = _WORD.findall(text.lower())
        count = max(1, len(words) - SHINGLE + 1)
        shingles = {" ".join(words[at : at + SHINGLE]) for at in range(count)}
        # Of 10^7 shingles two share 64 bits with probability 3e-6.
        marks = {
            int.from_bytes(hashlib.blake2b(one.encode(), digest_size=8).digest(), "little")
            for one in shingles
        }
        if len(marks & self._seen) > REPEATED * len(marks):
            return False
        self._seen |= marks
        return True


def texts_of(folder: Path) -> tuple[list[dict[str, str]], dict[str, int]]:
    """Pages with the paragraphs that were kept of them, in the order of their paths; what was
    dropped, by reason.

    Each page: {"source": path below the folder, "text": paragraphs with blank lines between}.
    """
    repetitions = Repetitions()
    counts: Counter[str] = Counter()
    pages = []
    for path, paragraphs in _pages(folder):
        kept = []
        for text in paragraphs:
            counts["paragraphs"] += 1
            if not is_prose(text):
                counts["dropped: not prose"] += 1
            elif not repetitions.is_new(text):
                counts["dropped: said before"] += 1
            else:
                kept.append(text)
        counts["pages"] += 1
        if kept:
            pages.append({"source": path, "text": "\n\n".join(kept)})
            counts["kept paragraphs"] += len(kept)
            counts["kept words"] += sum(len(text.split()) for text in kept)
        else:
            counts["pages without any left"] += 1
    return pages, dict(counts)


def _pages(folder: Path) -> Iterator[tuple[str, list[str]]]:
    for path in sorted(folder.rglob("*.html")):
        if path.is_file() and not path.is_symlink():
            parser = Paragraphs()
            parser.feed(path.read_text("utf-8", errors="replace"))
            parser.close()
            yield str(path.relative_to(folder)), parser.found


def fetch(folder: Path, packages: tuple[str, ...] = PACKAGES) -> None:
    """Download the packages by apt-get and unpack each into a folder of its name, unless it is
    there. Nothing is installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for package in packages:
        place = folder / package
        if place.is_dir():
            continue
        subprocess.run(["apt-get", "download", package], cwd=folder, check=True)
        (archive,) = folder.glob(f"{package}_*.deb")
        temporary = folder / f"{package}.tmp"
        subprocess.run(["dpkg-deb", "-x", archive.name, temporary.name], cwd=folder, check=True)
        temporary.rename(place)
        archive.unlink()


def write_corpus(folder: Path, output: Path) -> dict[str, int]:
    """Write the pages of a folder as JSON lines; what was kept and dropped."""
    pages, counts = texts_of(folder)
    temporary = output.with_suffix(".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        for page in pages:
            file.write(json.dumps(page, ensure_ascii=False) + "\n")
    temporary.replace(output)
    return counts
