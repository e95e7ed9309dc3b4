"""GeometryLoss: its formula, its arguments, masks, and what it does to a network in training."""

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from test_torch_functions import surface

import fastdim
import fastdim.torch as ft
from fastdim import InputError
from fastdim.torch.loss import BY_RATIO, MEASURES

pytestmark = pytest.mark.usefixtures("one_torch_thread")


@pytest.mark.parametrize("measure", MEASURES)
def test_formula(measure: str) -> None:
    x = surface(60, 3, 8)
    value = MEASURES[measure](x)
    target = 0.5
    distance = (value / target).log() if measure in BY_RATIO else value - target
    loss = ft.GeometryLoss(measure, target=target, weight=3.0)
    torch.testing.assert_close(loss(x), 3.0 * distance.square())
    torch.testing.assert_close(loss.last, value)
    torch.testing.assert_close(ft.GeometryLoss(measure, weight=-2.0)(x), -2.0 * value)
    assert ft.GeometryLoss(measure, target=value.item())(x).item() == pytest.approx(0.0, abs=1e-20)


def test_options_reach_the_measure() -> None:
    x = surface(60, 3, 8)
    torch.testing.assert_close(ft.GeometryLoss("mle", k=7)(x), ft.mle(x, 7))
    torch.testing.assert_close(
        ft.GeometryLoss("twonn", discard_fraction=0.3)(x), ft.twonn(x, discard_fraction=0.3)
    )


def test_rows_of_a_batch_of_sequences() -> None:
    x = surface(60, 3, 8).reshape(4, 15, 8)
    loss = ft.GeometryLoss("twonn")
    torch.testing.assert_close(loss(x), ft.twonn(x.flatten(0, 1)))
    mask = torch.ones(4, 15, dtype=torch.int64)
    mask[1, 9:] = 0
    x[1, 9:] = torch.nan  # padding is never read
    torch.testing.assert_close(loss(x, mask), ft.twonn(x[mask == 1]))
    leaf = x.clone().requires_grad_()
    loss(leaf, mask.bool()).backward()
    assert leaf.grad is not None
    assert leaf.grad.isfinite().all()
    assert not leaf.grad[1, 9:].any()


@pytest.mark.parametrize("kind", [torch.tensor, np.float64, np.float32, np.array])
def test_numbers_of_torch_and_numpy(kind: Any) -> None:
    """As of a configuration or another computation: tensors and arrays of no dimension too."""
    x = surface(60, 3, 8)
    plain = ft.GeometryLoss("twonn", target=4.0, weight=0.5, discard_fraction=0.25)
    loss = ft.GeometryLoss("twonn", target=kind(4.0), weight=kind(0.5), discard_fraction=kind(0.25))
    assert (type(loss.target), type(loss.weight)) == (float, float)
    assert torch.equal(loss(x), plain(x))
    assert torch.equal(ft.twonn(x, discard_fraction=kind(0.25)), ft.twonn(x, discard_fraction=0.25))
    whole: Any = torch.tensor(2)
    assert ft.GeometryLoss(weight=whole).weight == 2.0


def test_bad_arguments() -> None:
    with pytest.raises(InputError, match="measure must be one of twonn"):
        ft.GeometryLoss("dimension")
    for weight in (float("nan"), float("inf")):
        with pytest.raises(InputError, match="weight must be finite"):
            ft.GeometryLoss(weight=weight)
    for measure, target in (
        ("twonn", 0.0),
        ("mle", float("inf")),
        ("participation_ratio", -1.0),
        ("anisotropy", 1.5),
        ("mean_cosine", -1.1),
        ("twonn", float("nan")),
        ("mean_cosine", float("nan")),
    ):
        with pytest.raises(InputError, match=f"target of {measure} must lie between"):
            ft.GeometryLoss(measure, target=target)
    x = surface(60, 3, 8)
    for mask in (torch.ones(59), torch.ones(60, 8), [1] * 60):
        with pytest.raises(InputError, match=r"mask must be a tensor .* shape \(60,\)"):
            ft.GeometryLoss()(x, mask)
    with pytest.raises(InputError, match="rows and columns"):
        ft.GeometryLoss()(x[0])


def test_it_is_a_module_like_others() -> None:
    loss = ft.GeometryLoss("mle", target=4.0, weight=0.1, k=9)
    assert repr(loss) == "GeometryLoss('mle', target=4.0, weight=0.1, k=9)"
    assert not list(loss.parameters())
    assert not loss.state_dict()
    x = surface(60, 3, 8)
    assert torch.equal(pickle.loads(pickle.dumps(loss))(x), loss(x))


def train(target: float | None) -> tuple[float, float]:
    """Classifier of images of digits: held-out accuracy, and dimension of its hidden layer."""
    torch.manual_seed(0)
    digits = load_digits()
    images, labels = torch.from_numpy(digits.data / 16.0).float(), torch.from_numpy(digits.target)
    encoder = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 32))
    head = torch.nn.Linear(32, 10)
    geometry = None if target is None else ft.GeometryLoss("twonn", target=target, weight=0.1)
    optimizer = torch.optim.Adam([*encoder.parameters(), *head.parameters()], lr=3e-3)
    for _ in range(400):
        batch = torch.randperm(1200)[:256]
        hidden = encoder(images[batch])
        loss = torch.nn.functional.cross_entropy(head(hidden), labels[batch])
        if geometry is not None:
            loss = loss + geometry(hidden)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        hidden = encoder(images[1200:])
        right = head(hidden).argmax(dim=1) == labels[1200:]
    return right.double().mean().item(), fastdim.twonn(hidden).value


def test_it_moves_the_dimension_of_a_hidden_layer_while_the_task_is_learnt() -> None:
    accuracy, dimension = train(None)
    accuracy_low, lower = train(3.0)
    accuracy_high, higher = train(8.0)
    assert lower < 0.95 * dimension
    assert higher > 1.05 * dimension
    assert min(accuracy_low, accuracy_high) > accuracy - 0.02
