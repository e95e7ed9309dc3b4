"""Names of a model hub: revisions, errors and foreign code, on a hub that this test serves."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from tiny_model import TEXT, save_tiny

from fastdim.extract.store import Store

COMMITS = {"main": "a" * 40, "v1": "b" * 40}

# Code of a repository that says so when it runs.
MODELING = """
from pathlib import Path
from transformers import LlamaConfig, LlamaModel
Path({marker!r}).write_text("ran")

class ForeignConfig(LlamaConfig):
    model_type = "foreign"

class ForeignModel(LlamaModel):
    config_class = ForeignConfig
"""

# All commands in one process: its imports take longer than they do.
PROGRAM = """
import contextlib, io, json, sys
from fastdim.cli import main
done = []
for arguments in json.loads(sys.argv[1]):
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        code = main(arguments)
    done.append((code, errors.getvalue()))
print(json.dumps(done))
"""


class Hub(http.server.BaseHTTPRequestHandler):
    """The part of the hub's protocol that its client asks for, from folders repository/commit."""

    protocol_version = "HTTP/1.1"
    root: Path

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        parts = self.path.partition("?")[0].strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            repository, rest = "/".join(parts[2:4]), parts[4:]
            revision = rest[1] if rest else "main"
        else:
            repository, rest = "/".join(parts[:2]), parts[2:]
            revision = rest[1] if rest[:1] == ["resolve"] else "main"
        if not (self.root / repository).is_dir():
            return self._missing("RepoNotFound")
        commit = COMMITS.get(revision, revision)
        folder = self.root / repository / commit
        if not folder.is_dir():
            return self._missing("RevisionNotFound")
        if rest[:1] == ["resolve"]:
            return self._file(folder.joinpath(*rest[2:]), commit)
        if rest[:1] == ["tree"]:  # folders of extra templates, which there are none of
            return self._missing("EntryNotFound")
        names = sorted(path.name for path in folder.iterdir())
        about = {
            "id": repository,
            "sha": commit,
            "siblings": [{"rfilename": name} for name in names],
        }
        return self._send(200, json.dumps(about).encode(), {"Content-Type": "application/json"})

    def _file(self, path: Path, commit: str) -> None:
        if not path.is_file():
            return self._missing("EntryNotFound", commit)
        data = path.read_bytes()
        etag = hashlib.sha256(data).hexdigest()
        return self._send(200, data, {"X-Repo-Commit": commit, "ETag": f'"{etag}"'})

    def _missing(self, code: str, commit: str = "") -> None:
        self._send(404, b"", {"X-Error-Code": code, "X-Repo-Commit": commit})

    def _send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Not on the terminal."""


@dataclass(frozen=True)
class Done:
    """What the commands left: exit code and standard error, output folder, the model's folder."""

    results: dict[str, tuple[int, str]]
    outputs: Path
    repositories: Path
    markers: dict[str, Path]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    root = tmp_path_factory.mktemp("hub")
    for seed, commit in enumerate(COMMITS.values()):
        save_tiny(root / "org" / "tiny" / commit, seed)
    markers = {name: root / f"{name}-ran" for name in ("refused", "asked")}
    for name, marker in markers.items():
        folder = save_tiny(root / "org" / name / COMMITS["main"])
        config = json.loads((folder / "config.json").read_text())
        config["model_type"] = "foreign"
        config["auto_map"] = {
            "AutoConfig": "modeling.ForeignConfig",
            "AutoModel": "modeling.ForeignModel",
        }
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "modeling.py").write_text(MODELING.format(marker=str(marker)))
    (root / "text.txt").write_text(TEXT)
    handler = type("Served", (Hub,), {"root": root})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            results = commands(root, server.server_port)
        finally:
            server.shutdown()
            thread.join()
    return Done(results, root / "out", root / "org", markers)


def commands(root: Path, port: int) -> dict[str, tuple[int, str]]:
    """Run `fastdim sweep` for each case, and a track, in one fresh process with an empty cache."""
    cases = {
        "v1": ["org/tiny", "--revision", "v1"],
        "main": ["org/tiny"],
        "unknown": ["org/tiny", "--revision", "v9"],
        "nowhere": ["org/nothing"],
        "refused": ["org/refused"],
        "asked": ["org/asked", "--trust-remote-code"],
    }
    options = ["--texts", str(root / "text.txt"), "--context", "16", "--max-tokens", "200"]
    options += ["--threads", "1", "--formats", "parquet", "--quiet"]
    lines = [
        ["sweep", *case, *options, "--output", str(root / "out" / name)]
        for name, case in cases.items()
    ]
    steps = ["--revisions", "v1", "v9", "main", "--steps", "1", "2", "3"]
    lines.append(["track", "org/tiny", *steps, *options, "--output", str(root / "out" / "track")])
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {"HF_ENDPOINT": f"http://127.0.0.1:{port}", "HF_HOME": str(root / "home")}
    environment |= {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    process = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(lines)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(zip([*cases, "track"], json.loads(process.stdout.splitlines()[-1]), strict=True))


@pytest.mark.parametrize("name", COMMITS)
def test_a_revision_gives_its_own_weights_and_stands_in_the_table(name: str, done: Done) -> None:
    code, errors = done.results[name]
    assert code == 0, errors
    table = pd.read_parquet(done.outputs / name / "results.parquet")
    assert set(table["model"]) == {"org/tiny"}
    assert set(table["revision"]) == {"v1" if name == "v1" else ""}
    folder = done.repositories / "tiny" / COMMITS[name]
    model = transformers.AutoModel.from_pretrained(folder).eval()
    store = Store.open(done.outputs / name / "activations")
    # Started again after the branch has moved, the run does not mix two models.
    assert store.definition["commit"] == COMMITS[name]
    with torch.inference_mode():
        embedded = model.embed_tokens(torch.from_numpy(store.tokens().token)).numpy()
    np.testing.assert_array_equal(store.rows(0).data, embedded)


def test_two_revisions_give_other_numbers(done: Done) -> None:
    tables = [pd.read_parquet(done.outputs / name / "results.parquet") for name in COMMITS]
    first, second = (t[t["metric"] == "anisotropy"]["value"].to_numpy() for t in tables)
    assert len(first) == len(second)
    assert (first != second).all()


def test_a_track_of_revisions_has_the_numbers_of_their_sweeps(done: Done) -> None:
    code, errors = done.results["track"]
    assert code == 1, errors
    assert "checkpoint v9 failed: cannot open the model org/tiny" in errors
    table = pd.read_parquet(done.outputs / "track" / "results.parquet")
    assert set(zip(table["revision"], table["step"], strict=True)) == {
        ("v1", 1), ("v9", 2), ("main", 3)
    }  # fmt: skip
    assert set(table[table["revision"] == "v9"]["status"]) == {"failed"}
    for name in COMMITS:
        alone = pd.read_parquet(done.outputs / name / "results.parquet")["value"].to_numpy()
        np.testing.assert_array_equal(table[table["revision"] == name]["value"], alone)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("unknown", ["org/tiny", "v9 is not a valid git identifier"]),
        ("nowhere", ["org/nothing", "is not a local folder and is not a valid model identifier"]),
        ("refused", ["org/refused", "custom code", "--trust-remote-code"]),
    ],
)
def test_what_cannot_be_had_is_one_clear_error(name: str, words: list[str], done: Done) -> None:
    code, errors = done.results[name]
    assert code == 2
    assert len(errors.strip().splitlines()) == 1, errors
    assert errors.startswith("fastdim: error: cannot open the model")
    assert [word for word in words if word not in errors] == []
    left = done.outputs / name
    assert not left.exists() or {path.name for path in left.iterdir()} <= {"lock"}


def test_code_of_a_repository_runs_only_when_asked_for(done: Done) -> None:
    code, errors = done.results["asked"]
    assert code == 0, errors
    assert done.markers["asked"].read_text() == "ran"
    assert not done.markers["refused"].exists()
