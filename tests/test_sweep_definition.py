"""The definition of a run: what it holds, its hash, and how a mismatch is told."""

import dataclasses
import hashlib
import json
from pathlib import Path

import pytest

from fastdim.errors import StoreError
from fastdim.metrics import METRICS
from fastdim.sweeps.definition import Definition, require_same, sha256_of_files
from fastdim.sweeps.filters import FILTERS
from fastdim.sweeps.schema import SCHEMA_VERSION

# What the columns `filter` and `metric` meant in each version: hashes of all rules and formulas.
MEANINGS = {1: "cbc1e1e43d7b0892", 2: "0387c56b55670b73"}


def definition(**changes):
    base = Definition(
        kind="sweep",
        model="tiny",
        model_sha256="ab",
        filters=("all", "no_outliers"),
        queries=100,
        pairs=1000,
        seed=0,
        confidence=0.95,
        outlier_factor=5.0,
        context=16,
        pack=True,
        max_tokens=128,
        batch_size=4,
        device="cpu",
        corpus="words.txt",
        corpus_sha256="cd",
    )
    return dataclasses.replace(base, **changes)


def test_json_round_trip_keeps_the_hash():
    first = definition()
    again = Definition.from_json(first.to_json())
    assert again == first
    assert again.sha256 == first.sha256


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"filters": ("all",)},
        {"batch_size": 8},
        {"queries": None},
        {"outlier_factor": 4.0},
        {"versions": {"numpy": "0"}},
        {"corpus_sha256": "ce"},
        {"model_sha256": "ac"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_each_option_changes_the_hash(change):
    assert definition(**change).sha256 != definition().sha256


def test_a_mismatch_names_every_field_that_differs():
    stored = definition(seed=3, context=32).to_json()
    stored["versions"] = {**stored["versions"], "numpy": "1.0"}
    with pytest.raises(StoreError) as caught:
        require_same(stored, definition(), Path("out"))
    message = str(caught.value)
    assert "--seed: 3 there, 0 now" in message
    assert "--context: 32 there, 16 now" in message
    assert "version of numpy: 1.0 there" in message
    assert "--batch-size" not in message


def test_changed_files_are_named_without_their_hashes():
    with pytest.raises(StoreError) as caught:
        require_same(definition(corpus_sha256="ce").to_json(), definition(), Path("out"))
    assert "  the texts' content changed\n" in str(caught.value)


def test_a_run_of_another_command_is_refused_in_one_line():
    stored = definition(kind="profile", seed=3).to_json()
    with pytest.raises(StoreError, match="out holds a run of `fastdim profile`") as caught:
        require_same(stored, definition(), Path("out"))
    assert "\n" not in str(caught.value)


def test_files_are_hashed_by_name_and_content(tmp_path):
    (tmp_path / "a").write_bytes(b"12")
    (tmp_path / "b").write_bytes(b"3")
    files = [tmp_path / "a", tmp_path / "b"]
    first = sha256_of_files(files, tmp_path)
    assert first == sha256_of_files(files[::-1], tmp_path)
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "b").write_bytes(b"23")
    assert sha256_of_files(files, tmp_path) != first


def test_a_changed_rule_or_formula_has_a_new_version():
    """Else a stopped run would go on under another rule, with both in one table."""
    rules = {name: item.rule for name, item in FILTERS.items()}
    formulas = {name: item.formula for name, item in METRICS.items()}
    found = hashlib.sha256(json.dumps([rules, formulas]).encode()).hexdigest()[:16]
    assert MEANINGS[SCHEMA_VERSION] == found
    assert max(MEANINGS) == SCHEMA_VERSION


def test_a_run_under_the_rules_of_another_version_is_refused():
    stored = definition().to_json() | {"schema_version": 1}
    with pytest.raises(StoreError, match="fastdim's table format: 1 there, 2 now"):
        require_same(stored, definition(), Path("out"))
