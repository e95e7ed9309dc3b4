"""fastdim.torch under torch.compile: registered operators, whole graphs, sizes that change."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from test_torch_functions import FUNCTIONS, NAMES, surface

import fastdim.torch as ft
from fastdim import InputError
from fastdim.torch import operators

pytestmark = pytest.mark.usefixtures("one_torch_thread")


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    """Graphs of one test are not reused by the next."""
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def symmetric(n: int, grad: bool = True) -> torch.Tensor:
    x = surface(n + 3, n, n)
    return (x.T @ x).requires_grad_(grad)


QUERIES = torch.arange(12)
INDICES = torch.stack([(QUERIES + 1) % 12, (QUERIES + 5) % 12], dim=1)
OPERATORS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "rows float32": (operators.rows, (surface(12, 3, 4).float().requires_grad_(), "x", 2)),
    "rows bfloat16": (operators.rows, (surface(12, 3, 4).bfloat16().requires_grad_(), "x", 2)),
    "rows strided": (operators.rows, (surface(12, 3, 8)[::2, ::2], "x", 2)),
    "nearest": (operators.nearest, (surface(12, 3, 4), 2, 3, "TwoNN")),
    "squares": (operators.squares, (surface(12, 3, 4).requires_grad_(), QUERIES, INDICES)),
    "pulls": (
        operators.pulls,
        (
            surface(12, 3, 4).requires_grad_(),
            QUERIES,
            INDICES,
            surface(12, 3, 2).requires_grad_(),
        ),
    ),
    "products": (
        operators.products,
        (
            surface(12, 3, 4).requires_grad_(),
            surface(12, 3, 4, seed=7).requires_grad_(),
            QUERIES,
            INDICES,
        ),
    ),
    "positive": (operators.positive, (torch.tensor(2.0).double().requires_grad_(), "none")),
    "top_eigenpair": (operators.top_eigenpair, (symmetric(5),)),
    "top_eigenvector": (operators.top_eigenvector, (symmetric(5), torch.eye(5).double()[0])),
    "eigenvector_gradient": (
        operators.eigenvector_gradient,
        (symmetric(5, False), torch.eye(5).double()[0], torch.ones(5).double()),
    ),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_are_registered_rightly(name: str) -> None:
    operator, arguments = OPERATORS[name]
    results = torch.library.opcheck(operator, arguments)
    assert set(results.values()) == {"SUCCESS"}
    assert len(results) >= 4


def test_every_operator_is_checked() -> None:
    defined = {
        name
        for name, value in vars(operators).items()
        if isinstance(value, torch.library.CustomOpDef)
    }
    assert defined == {name.split()[0] for name in OPERATORS}


def step(function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> tuple[Any, Any]:
    leaf = x.clone().requires_grad_()
    value = function(leaf)
    value.backward()
    return value.detach(), leaf.grad


@pytest.mark.parametrize("name", NAMES)
def test_one_graph_gives_the_same_value_and_gradient(name: str) -> None:
    function = FUNCTIONS[name][0]
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    x = surface(60, 3, 8)
    x[30:40] = x[:10]
    for rows in (x, x.float(), surface(60, 3, 8, seed=2)):
        torch.testing.assert_close(step(compiled, rows), step(function, rows))


@pytest.mark.parametrize("name", NAMES)
def test_sizes_may_change_without_a_new_graph(name: str) -> None:
    function = FUNCTIONS[name][0]
    graphs = []

    def counting(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(function, fullgraph=True, backend=counting, dynamic=True)
    for n in (60, 75, 90):
        x = surface(n, 3, 8)
        torch.testing.assert_close(compiled(x), function(x))
    assert len(graphs) == 1
    torch.compiler.reset()
    whole = torch.compile(function, fullgraph=True, backend="aot_eager", dynamic=True)
    for n in (60, 75):
        x = surface(n, 3, 8)
        torch.testing.assert_close(step(whole, x), step(function, x))


# Inductor itself uses what torch has deprecated.
@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:`torch._prims_common.check` is deprecated:FutureWarning")
def test_a_training_step_through_inductor() -> None:
    """Linear layer, two losses and autocast as generated code, against eager."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(6, 8)
    dimension, direction = ft.GeometryLoss("twonn", target=3.0), ft.GeometryLoss("anisotropy")

    def loss(inputs: torch.Tensor) -> torch.Tensor:
        hidden = layer(inputs).tanh()
        return dimension(hidden) + direction(hidden)

    def gradients(function: Callable[[torch.Tensor], torch.Tensor]) -> list[torch.Tensor]:
        value = function(surface(80, 4, 6).float())
        return [value.detach(), *torch.autograd.grad(value, list(layer.parameters()))]

    compiled = torch.compile(loss, fullgraph=True)
    torch.testing.assert_close(gradients(compiled), gradients(loss), rtol=1e-4, atol=1e-6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = gradients(torch.compile(loss, fullgraph=True, backend="aot_eager"))
        torch.testing.assert_close(found, gradients(loss), rtol=1e-4, atol=1e-6)


def test_masks_of_any_count() -> None:
    loss = ft.GeometryLoss("twonn", target=3.0)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    x = surface(60, 3, 8).reshape(4, 15, 8)
    for length in (15, 11, 7):
        mask = torch.arange(15).expand(4, 15) < length
        torch.testing.assert_close(
            step(lambda x, mask=mask: compiled(x, mask), x),
            step(lambda x, mask=mask: loss(x, mask), x),
        )


# Forward mode itself uses what torch has deprecated.
@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")
@pytest.mark.parametrize("name", ["twonn", "mean_cosine"])
def test_forward_mode_inside_a_graph_is_refused(name: str) -> None:
    function = FUNCTIONS[name][0]

    def slope(x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = torch.func.jvp(function, (x,), (x.cos(),))[1]
        return found

    compiled = torch.compile(slope, fullgraph=True, backend="aot_eager")
    with pytest.raises(torch._dynamo.exc.Unsupported, match="InputError"):
        compiled(surface(60, 3, 8))


def test_errors_of_a_compiled_function_are_its_own() -> None:
    compiled = torch.compile(ft.twonn, fullgraph=True, backend="aot_eager")
    x = surface(60, 3, 8)
    compiled(x)
    x[5] = torch.nan
    with pytest.raises(InputError, match="1 rows with NaN"):
        compiled(x)
    with pytest.raises(InputError, match="at least 3 distinct rows, got 2"):
        compiled(torch.cat([surface(2, 3, 8)] * 30))
