"""Statistics of attention heads against weights that transformers returns itself."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from test_extract_sites import FAMILIES, SMALL, VOCABULARY, Letters
from tiny_model import TEXT, save_tiny

import fastdim
from fastdim.attention import STATISTICS, attention, correlate, plot_heads
from fastdim.attention.heads import AVERAGED
from fastdim.cli import main
from fastdim.errors import InputError, ModelError

TEXTS = [TEXT[start : start + length] for start, length in ((0, 16), (3, 9), (7, 16), (2, 5))]
OPTIONS: dict[str, Any] = {"context": 16, "pack": False, "batch_size": 2}


def grouped() -> Any:
    config = transformers.LlamaConfig(
        **SMALL, intermediate_size=32, num_attention_heads=4, num_key_value_heads=2
    )
    return transformers.LlamaModel(config)


def eager(model: Any) -> list[list[np.ndarray]]:
    """By document, by layer: weights (heads, queries, keys), each text alone, so no padding."""
    model.set_attn_implementation("eager")
    found = []
    for text in TEXTS:
        ids = torch.tensor([Letters()(text)["input_ids"]])
        with torch.inference_mode():
            out = model(input_ids=ids, output_attentions=True)
        found.append([layer[0].double().numpy() for layer in out.attentions])
    return found


@pytest.mark.parametrize("family", [*FAMILIES, "grouped"])
def test_heads_agree_with_the_weights_of_the_model(family: str) -> None:
    torch.manual_seed(0)
    model = (FAMILIES | {"grouped": grouped})[family]().eval()
    with torch.no_grad():  # small random weights attend evenly: make them differ
        for name, value in model.named_parameters():
            if value.ndim == 2 and "embed" not in name:
                value *= 8.0
    before = model.config._attn_implementation
    found = attention((model, Letters()), TEXTS, **OPTIONS)
    assert model.config._attn_implementation == before
    weights = eager(model)
    causal = family != "bert"
    table = found.table
    assert set(table["status"]) == {"ok"}
    assert set(table["statistic"]) == set(STATISTICS)
    for layer in range(3):
        expected: dict[str, list[np.ndarray]] = {}
        for document in weights:
            p = document[layer][:, 1:] if causal else document[layer]
            seen = np.arange(2, p.shape[2] + 1) if causal else np.full(p.shape[1], p.shape[2])
            logs = np.log(np.where(p > 0, p, 1.0))
            expected.setdefault("max_weight", []).append(p.max(-1))
            expected.setdefault("entropy", []).append(-(p * logs).sum(-1) / np.log(seen))
            expected.setdefault("first_key", []).append(p[..., 0])
            expected.setdefault("categorical", []).append(p.max(-1) > 0.9)
        rows = table[(table["block"] == layer) & table["head"].notna()]
        for name, parts in expected.items():
            mine = rows[rows["statistic"] == name].sort_values("head")["value"].to_numpy(float)
            np.testing.assert_allclose(mine, np.concatenate(parts, 1).mean(1), atol=2e-6)
        assert set(rows["n_queries"]) == {sum(map(len, TEXTS)) - len(TEXTS) * causal}


def test_means_of_queries_and_keys_of_grouped_heads() -> None:
    torch.manual_seed(0)
    model = grouped().eval()
    seen: list[tuple[Any, Any]] = []
    from fastdim.attention.capture import watched

    ids = torch.tensor([Letters()(TEXTS[0])["input_ids"]])

    def see(path: str, query: Any, key: Any, *rest: Any) -> None:
        seen.append((query[0].double().numpy(), key[0].double().numpy()))

    with torch.inference_mode(), watched(model, see):
        model(input_ids=ids)
    found = attention((model, Letters()), TEXTS[:1], **OPTIONS).table
    query, key = seen[0][0][:, 1:], seen[0][1]
    rows = found[(found["block"] == 0) & (found["head"] == 3)].set_index("statistic")
    assert rows.loc["max_weight", "key_head"] == 1
    mean_q, mean_k = query[3].mean(0), key[1].mean(0)
    cosine = mean_q @ mean_k / np.linalg.norm(mean_q) / np.linalg.norm(mean_k)
    assert rows.loc["mean_cosine", "value"] == pytest.approx(cosine, abs=1e-6)
    assert rows.loc["mean_query_norm", "value"] == pytest.approx(np.linalg.norm(mean_q))
    spread = ((key[1] - mean_k) @ mean_q).std() / math.sqrt(query.shape[-1])
    assert rows.loc["key_bias_std", "value"] == pytest.approx(spread, rel=1e-5)
    assert rows.loc["query_norm", "value"] == pytest.approx(
        np.linalg.norm(query[3], axis=1).mean(), rel=1e-5
    )
    assert rows.loc["key_norm", "value"] == pytest.approx(
        np.linalg.norm(key[1], axis=1).mean(), rel=1e-5
    )


def test_errors_are_those_of_documents_and_batches_change_nothing() -> None:
    torch.manual_seed(0)
    model = (FAMILIES["llama"]().eval(), Letters())
    long = [TEXT[n : n + 16] for n in range(0, 240, 6)]
    one = attention(model, long, context=16, pack=False, batch_size=1).table
    many = attention(model, long, context=16, pack=False, batch_size=7).table
    np.testing.assert_allclose(one["value"], many["value"], rtol=1e-4, atol=1e-6)
    known = one["statistic"].isin([*AVERAGED, "query_norm_growth", "key_norm_growth"])
    assert one.loc[known, "stderr"].notna().all()
    assert (one.loc[known, "lower"] <= one.loc[known, "value"]).all()
    assert one.loc[~known, "stderr"].isna().all()
    halves = [attention(model, long[half::2], context=16, pack=False).table for half in (0, 1)]
    apart = (halves[0]["value"] - halves[1]["value"])[known] / one.loc[known, "stderr"]
    # Of a half each, so twice the variance, twice: t values with a standard deviation of 2.
    assert 0.8 < float(np.sqrt((apart[np.isfinite(apart)] ** 2).mean())) < 4.0


def test_a_module_of_no_numbers_has_no_statistics() -> None:
    """Shares of what exceeds a limit are no zeros there; the modules before have theirs."""
    torch.manual_seed(0)
    model = FAMILIES["llama"]().eval()
    with torch.no_grad():
        model.layers[1].self_attn.q_proj.weight[0, 0] = torch.nan
    table = attention((model, Letters()), TEXTS, **OPTIONS).table.set_index(["block", "statistic"])
    whole = table[table["head"].isna()]
    assert set(whole.loc[0, "status"]) == {"ok"}
    for name in ("max_weight", "entropy", "first_key", "categorical", "query_norm", "sink_rate"):
        row = whole.loc[(1, name)]
        assert (row["status"], math.isnan(row["value"])) == ("failed", True), name
        assert "NaN in the model" in row["reason"]
    heads = table.loc[(1, "categorical")].dropna(subset="head")
    assert heads["status"].tolist() == ["failed", *["ok"] * (len(heads) - 1)]


def test_an_encoder_decoder_has_both_stacks_and_the_attention_between() -> None:
    torch.manual_seed(0)
    config = transformers.BartConfig(
        vocab_size=VOCABULARY, d_model=16, encoder_layers=2, decoder_layers=2,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=32,
        decoder_ffn_dim=32, max_position_embeddings=32,
    )  # fmt: skip
    found = attention((transformers.BartModel(config).eval(), Letters()), TEXTS, **OPTIONS).table
    modules = found.groupby("stack")["module"].nunique().to_dict()
    assert modules == {"encoder": 2, "decoder": 4}
    assert set(found["status"]) == {"ok"}


def test_correlation_keeps_stacks_and_attentions_apart(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = transformers.BartConfig(
        vocab_size=VOCABULARY, d_model=16, encoder_layers=5, decoder_layers=4,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=32,
        decoder_ffn_dim=32, max_position_embeddings=32,
    )  # fmt: skip
    model = transformers.BartModel(config).eval(), Letters()
    heads = attention(model, TEXTS, **OPTIONS).table
    swept = fastdim.sweep(model, TEXTS, output=tmp_path / "o", formats=(), filters=["all"],
                          threads=1, **OPTIONS).table  # fmt: skip
    found = correlate(heads, swept, "entropy").set_index("module")["n"]
    assert found.to_dict() == {
        "encoder.layers.*.self_attn": 5,
        "decoder.layers.*.self_attn": 4,
        "decoder.layers.*.encoder_attn": 4,
    }


def test_an_encoder_alone_has_the_stack_of_its_sweep() -> None:
    found = attention((FAMILIES["bert"]().eval(), Letters()), TEXTS, **OPTIONS).table
    assert set(found["stack"]) == {""}


def test_what_belongs_to_a_model_loaded_by_name_is_refused() -> None:
    for option in ({"revision": "main"}, {"dtype": "float16"}):
        with pytest.raises(InputError, match="this one is in memory"):
            attention((grouped(), Letters()), TEXTS, **OPTIONS, **option)


def test_texts_of_one_token_are_one_clear_error() -> None:
    with pytest.raises(InputError, match="at least 2 tokens"):
        attention((grouped().eval(), Letters()), ["a", "b"], **OPTIONS)


def test_heads_without_weights_are_one_clear_error() -> None:
    class Own(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(4, 4)

        def forward(self, **inputs: Any) -> Any:
            return self.layer(torch.zeros(1, 4))

    with pytest.raises(ModelError, match="no transformers model"):
        attention((Own(), Letters()), TEXTS, **OPTIONS)
    with pytest.raises(InputError, match="name or a pair"):
        attention(3, TEXTS, **OPTIONS)  # type: ignore[arg-type]
    mamba = transformers.MambaModel(
        transformers.MambaConfig(vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=2)
    )
    with pytest.raises(ModelError, match="cannot be had"):
        attention((mamba.eval(), Letters()), TEXTS, **OPTIONS)
    from transformers import AttentionInterface

    assert "fastdim" not in AttentionInterface._global_mapping


def frames(attend: list[float], measured: list[float], revision: str = "") -> Any:
    base = {"model": "m", "revision": revision, "stack": ""}
    left = pd.DataFrame(
        [{**base, "block": n, "module": f"layers.{n}.self_attn", "head": None,
          "statistic": "categorical", "value": value} for n, value in enumerate(attend)]
    )  # fmt: skip
    right = pd.DataFrame(
        [{**base, "block": n, "metric": "anisotropy", "filter": "all", "site": "block",
          "status": "ok", "value": value} for n, value in enumerate(measured)]
    )  # fmt: skip
    return left, right


def test_correlation_over_layers_and_over_steps() -> None:
    rng = np.random.default_rng(0)
    truth = rng.standard_normal(12)
    left, right = frames(list(truth), list(truth + 0.3 * rng.standard_normal(12)))
    [row] = correlate(left, right).to_dict("records")
    from scipy.stats import spearmanr

    assert row["correlation"] == pytest.approx(spearmanr(left["value"], right["value"])[0])
    assert row["lower"] < row["correlation"] < row["upper"]
    assert row["n"] == 12
    read = []
    for table in (left, right):  # what is empty in every row comes back from CSV as NaN
        written = io.StringIO()
        table.assign(revision="", stack="").to_csv(written, index=False)
        read.append(pd.read_csv(io.StringIO(written.getvalue())))
    assert read[0]["revision"].isna().all()
    assert correlate(*read).to_dict("records") == [{**row, "revision": ""}]
    pairs = [frames([step, -step], [step, step], f"step{step}") for step in range(1, 7)]
    left = pd.concat([pair[0] for pair in pairs])
    right = pd.concat([pair[1] for pair in pairs])
    found = correlate(left, right, over="steps").set_index("block")["correlation"]
    assert found.to_dict() == {0: 1.0, 1: -1.0}
    # Another model may name the same steps otherwise.
    other = [
        table.assign(model="other", revision=table["revision"].str.replace("step", "checkpoint-"))
        for table in (left, right)
    ]
    both = [pd.concat(pair) for pair in zip((left, right), other, strict=True)]
    found = correlate(*both, over="steps").set_index(["model", "block"])["correlation"]
    assert sorted(found.to_dict().values()) == [-1.0, -1.0, 1.0, 1.0]
    # Steps of a track are its own, whatever names say; a sweep beside it has those of its names.
    order = {f"step{step}": 10 - step for step in range(1, 7)}
    given = right.assign(step=right["revision"].map(order).astype("Int64"))
    again = correlate(left, given, over="steps")
    assert again["correlation"].tolist() == [1.0, -1.0]
    named = [table.replace({"revision": {"step1": "first"}}) for table in (left, given)]
    pd.testing.assert_frame_equal(correlate(*named, over="steps"), again)
    with pytest.raises(InputError, match="'first' has no step number"):
        correlate(*(table.drop(columns="step", errors="ignore") for table in named), over="steps")
    mixed = pd.concat([given, other[1]])
    found = correlate(both[0], mixed, over="steps").set_index(["model", "block"])["correlation"]
    assert sorted(found.to_dict().values()) == [-1.0, -1.0, 1.0, 1.0]
    with pytest.raises(InputError, match="no 4 places in common"):
        correlate(left, right)
    with pytest.raises(InputError, match="unknown statistic"):
        correlate(left, right, "kurtosis")
    with pytest.raises(InputError, match="over must be"):
        correlate(left, right, over="time")


def test_steps_that_depend_on_each_other_count_as_fewer() -> None:
    """Two unrelated random walks: independent steps would find a relation in most of them."""
    misled = {False: 0, True: 0}
    for seed in range(60):
        walks = np.random.default_rng(seed).standard_normal((2, 30)).cumsum(axis=1)
        pairs = [frames([x], [y], f"step{n}") for n, (x, y) in enumerate(walks.T)]
        tables = [pd.concat([pair[side] for pair in pairs[::-1]]) for side in (0, 1)]
        for serial in (False, True):
            [row] = correlate(*tables, over="steps", serial=serial).to_dict("records")
            assert row["lower"] <= row["correlation"] <= row["upper"]
            misled[serial] += row["lower"] > 0 or row["upper"] < 0
            assert row["n"] == 30
            assert (row["n_effective"] == 30) == (not serial)
    assert misled[False] > 30
    assert misled[True] < 15
    # Steps without memory are left as many as they are, or nearly.
    rng = np.random.default_rng(0)
    pairs = [frames([x], [y], f"step{n}") for n, (x, y) in enumerate(rng.random((40, 2)))]
    [row] = correlate(*(pd.concat(side) for side in zip(*pairs, strict=True)), over="steps")[
        ["n_effective"]
    ].to_numpy()
    assert 25 < row[0] <= 40
    left, right = frames([1.0, 2.0, 3.0, 4.0, 5.0], [1.0, 2.0, 3.0, 4.0, 5.0])
    with pytest.raises(InputError, match="no step number"):
        correlate(left.assign(revision="main"), right.assign(revision="main"), over="steps")


def test_the_picture_has_every_head_at_its_place(tmp_path: Path) -> None:
    values = {("a.0", 0): 0.1, ("a.0", 1): 0.2, ("a.1", 1): 0.4}
    rows = [
        {"model": "m$x$", "revision": "r", "module": module, "head": head, "n_queries": 7,
         "statistic": name, "value": value * (1 if name == "entropy" else 20)}
        for (module, head), value in values.items()
        for name in ("entropy", "query_norm")
    ]  # fmt: skip
    rows.append({**rows[0], "head": None, "value": 9.0})  # of a layer
    table = pd.DataFrame(rows)
    figure = plot_heads(table, tmp_path / "h.svg", statistics=("query_norm", "entropy"))
    assert "m$x$, r: attention heads, 7 queries" in (tmp_path / "h.svg").read_text()
    maps = {axis.get_title(): axis.images[0] for axis in figure.axes if axis.images}
    drawn = np.ma.filled(maps["entropy"].get_array(), math.nan)
    np.testing.assert_array_equal(drawn, [[0.1, 0.2], [math.nan, 0.4]])
    assert maps["entropy"].get_clim() == (0, 1)
    assert maps["query_norm"].get_clim() == (2.0, 8.0)
    with pytest.raises(InputError, match="no heads with 'sink_rate'"):
        plot_heads(table, statistics=("sink_rate",))
    with pytest.raises(InputError, match="name a statistic"):
        plot_heads(table, statistics=())
    with pytest.raises(InputError, match="one model at one revision"):
        plot_heads(pd.concat([table, table.assign(revision="s")]))
    with pytest.raises(InputError, match="one model at one revision"):
        plot_heads(table[table["head"].isna()])


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = save_tiny(tmp_path / "model")
    (tmp_path / "text.txt").write_text(TEXT)
    out = tmp_path / "out"
    command = ["attention", str(model), "--texts", str(tmp_path / "text.txt"), "--output", str(out)]
    assert main([*command, "--context", "16", "--max-tokens", "200"]) == 0
    table = pd.read_csv(out / "attention.csv")
    assert len(table) == 2 * (2 * 11 + 14)
    told = capsys.readouterr().out
    assert "categorical" in told
    assert "attention.csv" in told
    assert "attention.png" in told
    assert (out / "attention.png").read_bytes().startswith(b"\x89PNG")
    assert main(["attention", str(model), "--output", str(out)]) == 2
    broken = transformers.AutoModel.from_pretrained(model)
    with torch.no_grad():
        broken.layers[1].self_attn.k_proj.weight[0, 0] = torch.nan
    broken.save_pretrained(model)
    capsys.readouterr()
    assert main([*command, "--context", "16", "--max-tokens", "200", "-q"]) == 1
    assert "rows failed, the first: max_weight of layers.1.self_attn" in capsys.readouterr().err
    assert fastdim.Sweep  # the package stays importable without the command's extras


def test_growth_of_norms_with_the_error_of_the_ratio() -> None:
    """Over documents that differ in length; the error is that of leaving each document out."""
    torch.manual_seed(0)
    model = grouped().eval()
    with torch.no_grad():
        for layer, factor in enumerate((1.0, 3.0, 9.0)):
            model.layers[layer].self_attn.k_proj.weight *= factor
    rng = np.random.default_rng(0)
    texts = ["".join(rng.choice(list("abcdefgh"), n)) for n in rng.integers(4, 16, 12)]
    whole = attention((model, Letters()), texts, **OPTIONS)
    layers = whole.table[whole.table["head"].isna()].set_index(["statistic", "block"])
    for name in ("query_norm", "key_norm"):
        first = layers.loc[(name, 0), "value"]
        for block in range(3):
            grown = layers.loc[(f"{name}_growth", block)]
            assert grown["value"] == pytest.approx(layers.loc[(name, block), "value"] / first)
        assert layers.loc[(f"{name}_growth", 0), "stderr"] == 0.0
    assert layers.loc[("key_norm_growth", 2), "value"] > 5.0
    without = []
    for left_out in range(len(texts)):
        rest = texts[:left_out] + texts[left_out + 1 :]
        table = attention((model, Letters()), rest, **OPTIONS).table
        chosen = (table["statistic"] == "key_norm_growth") & (table["block"] == 1)
        without.append(float(table[chosen]["value"].iloc[0]))
    jackknife = math.sqrt(
        (len(texts) - 1) / len(texts) * np.square(without - np.mean(without)).sum()
    )
    assert layers.loc[("key_norm_growth", 1), "stderr"] == pytest.approx(jackknife, rel=0.2)
