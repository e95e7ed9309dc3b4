"""fastdim.torch: values of the numpy functions, gradients checked against differences."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from conftest import gaussian, token_like
from torch.autograd import forward_ad

import fastdim
import fastdim.torch as ft
from fastdim import BackendError, InputError

pytestmark = pytest.mark.usefixtures("one_torch_thread")

Function = Callable[[torch.Tensor], torch.Tensor]
FUNCTIONS: dict[str, tuple[Function, Callable[[torch.Tensor], float]]] = {
    "twonn": (ft.twonn, lambda x: fastdim.twonn(x).value),
    "twonn 0": (
        lambda x: ft.twonn(x, discard_fraction=0.0),
        lambda x: fastdim.twonn(x, discard_fraction=0.0).value,
    ),
    "twonn 0.5": (
        lambda x: ft.twonn(x, discard_fraction=0.5),
        lambda x: fastdim.twonn(x, discard_fraction=0.5).value,
    ),
    "mle": (ft.mle, lambda x: fastdim.levina_bickel(x).value),
    "mle 2": (lambda x: ft.mle(x, 2), lambda x: fastdim.levina_bickel(x, 2).value),
    "participation_ratio": (
        ft.participation_ratio,
        lambda x: fastdim.participation_ratio(x).value,
    ),
    "anisotropy": (ft.anisotropy, fastdim.anisotropy),
    "mean_cosine": (ft.mean_cosine, lambda x: fastdim.cosine_stats(x).mean),
}
NAMES = list(FUNCTIONS)
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def surface(n: int, d: int, columns: int, seed: int = 0) -> torch.Tensor:
    """Rows (n, columns) of dimension d, off the origin, float64."""
    rows = np.tanh(gaussian(n, d, seed)) @ gaussian(d, columns, seed + 1) + 0.5
    return torch.from_numpy(rows)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_values_are_those_of_the_numpy_functions(name: str, dtype: torch.dtype) -> None:
    function, reference = FUNCTIONS[name]
    x = surface(230, 4, 12)
    x[40:60] = x[:20]  # equal rows
    x[100] = x[0]
    x = x.to(dtype)
    value = function(x)
    assert value.shape == ()
    assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert value.item() == pytest.approx(reference(x), rel=1e-6)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "rows",
    [
        surface(60, 3, 100),  # fewer rows than columns
        torch.from_numpy(token_like()),  # massive rows and an offset
        surface(120, 3, 6) * 1e-30,
        surface(120, 3, 6) * 1e30,
        surface(120, 3, 6) + 1e6,
        surface(240, 3, 6)[::2],
        surface(6, 3, 120).T,
    ],
    ids=["wide", "tokens", "small", "large", "offset", "strided", "transposed"],
)
def test_values_hold_for_awkward_rows(name: str, rows: torch.Tensor) -> None:
    function, reference = FUNCTIONS[name]
    rows = rows.clone(memory_format=torch.preserve_format).requires_grad_()
    value = function(rows)
    assert value.item() == pytest.approx(reference(rows), rel=1e-6)
    value.backward()
    assert rows.grad is not None
    assert rows.grad.isfinite().all()
    assert rows.grad.abs().sum() > 0.0


@pytest.mark.parametrize(("discard_fraction", "n"), [(0.8, 1000), (0.8, 500), (0.3, 90)])
def test_as_many_ratios_are_kept_as_by_the_numpy_function(discard_fraction: float, n: int) -> None:
    """n (1 - discard_fraction) is just below a whole number in float64, and on it in float32."""
    x = surface(n, 4, 6)
    expected = fastdim.twonn(x, discard_fraction=discard_fraction).value
    value = ft.twonn(x, discard_fraction=discard_fraction)
    assert value.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", ["twonn", "mle"])
@pytest.mark.parametrize("exponent", [-1000, -540, -530, -520, 450])
def test_squares_of_distances_stay_in_range(name: str, exponent: int) -> None:
    """A power of two changes neither the value nor, but by itself, the gradient."""
    function = FUNCTIONS[name][0]
    x = surface(60, 3, 6)
    scaled = (x * 2.0**exponent).requires_grad_()
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(function(scaled), scaled)
    (expected,) = torch.autograd.grad(function(x), x)
    assert function(scaled) == function(x)
    assert torch.equal(gradient * 2.0**exponent, expected)
    assert function(scaled).item() == pytest.approx(FUNCTIONS[name][1](scaled), rel=1e-12)


def test_distances_of_unlike_size_in_one_matrix() -> None:
    """A cloud of 1e-140 and one of 1e140: a unit that suits the larger loses the smaller."""
    x = torch.cat([surface(40, 3, 6) * 1e-140, surface(40, 3, 6, seed=3) * 1e140]).requires_grad_()
    value = ft.twonn(x)
    value.backward()
    assert value.item() == pytest.approx(fastdim.twonn(x).value, rel=1e-12)
    assert x.grad is not None
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("name", [name for name in NAMES if name != "mle"])
@pytest.mark.parametrize("n", [9, 24])
def test_gradients(name: str, n: int) -> None:
    x = surface(n, 3, 4 if n == 24 else 11).requires_grad_()
    assert torch.autograd.gradcheck(FUNCTIONS[name][0], x)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "mle"])
@pytest.mark.parametrize("n", [9, 14])
def test_second_derivatives(name: str, n: int) -> None:
    x = surface(n, 3, 4 if n == 14 else 11, seed=5).requires_grad_()
    assert torch.autograd.gradgradcheck(FUNCTIONS[name][0], x)


# Forward mode itself uses what torch has deprecated.
@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")
@pytest.mark.parametrize("name", NAMES)
def test_forward_mode_is_refused(name: str) -> None:
    """Custom operators would take x as constant, and give zero."""
    function = FUNCTIONS[name][0]
    x = surface(26, 3, 4)
    along = torch.from_numpy(gaussian(26, 4, 9))
    with pytest.raises(InputError, match="carries a tangent"):
        torch.func.jvp(function, (x,), (along,))
    with pytest.raises(InputError, match="carries a tangent"):
        torch.func.jacfwd(function)(x)
    batch = torch.stack([x, along])
    with pytest.raises(InputError, match="carries a tangent"):
        torch.func.jvp(torch.func.vmap(function), (batch,), (batch,))
    for leaf in (x, x.clone().requires_grad_()):
        with (
            forward_ad.dual_level(),
            pytest.raises(InputError, match=r"forward-mode.*torch\.autograd\.functional\.jvp"),
        ):
            function(forward_ad.make_dual(leaf, along))
    # What the message advises.
    slope = torch.autograd.functional.jvp(function, x, along)[1]
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(function(x), x)
    assert slope.item() == pytest.approx((gradient * along).sum().item(), rel=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_transforms_of_torch_func(name: str) -> None:
    """Those backwards are refused by torch, by name; batches give value and gradient."""
    function = FUNCTIONS[name][0]
    x = surface(26, 3, 4)
    for transform in (torch.func.grad, torch.func.jacrev):
        with pytest.raises(RuntimeError, match=r"functorch transforms.*setup_context"):
            transform(function)(x)
    batch = torch.stack([x, surface(26, 3, 4, seed=4)]).requires_grad_()
    values = torch.func.vmap(function)(batch)
    (gradient,) = torch.autograd.grad(values.sum(), batch)
    expected = torch.stack([function(part) for part in batch])
    torch.testing.assert_close(values, expected)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected.sum(), batch)[0])


def test_mle_of_twenty_neighbours_has_its_derivatives() -> None:
    x = surface(26, 3, 4).requires_grad_()
    assert torch.autograd.gradcheck(ft.mle, x)
    assert torch.autograd.gradgradcheck(lambda x: ft.mle(x, 6), surface(9, 2, 3).requires_grad_())


def test_gradients_with_equal_rows() -> None:
    """Moved together, equal rows move the value as their shared gradient says."""
    distinct = surface(30, 3, 5)
    copies = torch.tensor([0, 0, 0, *range(30), 7])
    for name in ("twonn", "mle"):
        function = FUNCTIONS[name][0]
        x = distinct[copies].requires_grad_()
        (gradient,) = torch.autograd.grad(function(x), x)
        leaf = distinct.clone().requires_grad_()
        (expected,) = torch.autograd.grad(function(leaf), leaf)
        for number in (0, 7):
            shared = gradient[copies == number]
            assert len(shared) > 1
            assert torch.equal(shared, shared[:1].expand_as(shared))
        total = torch.zeros_like(distinct).index_add(0, copies, gradient)
        torch.testing.assert_close(total, expected)
        assert torch.autograd.gradcheck(
            lambda leaf, function=function: function(leaf[copies]), leaf
        )
        assert torch.autograd.gradgradcheck(
            lambda leaf: ft.twonn(leaf[[0, 0, *range(9), 4]]), surface(9, 3, 5).requires_grad_()
        )
        # A step leaves equal rows equal, so the next value is still that of distinct rows.
        stepped = (x - 0.01 * gradient).detach()
        assert torch.equal(stepped[0], stepped[1])


@pytest.mark.parametrize("name", NAMES)
def test_third_derivatives(name: str) -> None:
    x = surface(26, 3, 4).requires_grad_()
    along = torch.from_numpy(gaussian(26, 4, 9))

    def derive(value: torch.Tensor) -> torch.Tensor:
        (gradient,) = torch.autograd.grad(value, x, create_graph=True)
        return (gradient * along).sum()

    second = derive(derive(FUNCTIONS[name][0](x)))
    if name == "anisotropy":
        with pytest.raises(RuntimeError, match="eigenvector_gradient"):
            derive(second)
        return
    third = derive(second).item()
    step = 1e-6
    values = []
    for sign in (-1.0, 1.0):
        x = (surface(26, 3, 4) + sign * step * along).requires_grad_()
        values.append(derive(derive(FUNCTIONS[name][0](x))).item())
    assert third == pytest.approx((values[1] - values[0]) / (2.0 * step), rel=1e-4)


def test_anisotropy_with_equal_eigenvalues() -> None:
    """The gradient is that of one leading axis: finite, a subgradient, orthogonal to x."""
    square = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]).double()
    x = square.requires_grad_()
    value = ft.anisotropy(x)
    (gradient,) = torch.autograd.grad(value, x, create_graph=True)
    assert value.item() == pytest.approx(0.5)
    assert gradient.isfinite().all()
    assert (gradient * x).sum().item() == pytest.approx(0.0, abs=1e-12)  # scale changes nothing
    # The largest eigenvalue is convex, so it never falls below the plane of a subgradient.
    top, vector = torch.ops.fastdim.top_eigenpair(torch.eye(3).double())
    plane = torch.outer(vector, vector)
    for seed in range(20):
        move = torch.from_numpy(gaussian(3, 3, seed))
        move = move + move.T
        moved = torch.linalg.eigvalsh(torch.eye(3).double() + move)[-1]
        assert moved >= top + (plane * move).sum() - 1e-12
    (second,) = torch.autograd.grad((gradient * gradient.detach()).sum(), x)
    assert second.isfinite().all()


def test_zero_rows_have_no_direction() -> None:
    x = surface(10, 3, 4)
    x[3] = 0.0
    x.requires_grad_()
    value = ft.mean_cosine(x)
    value.backward()
    assert value.item() == pytest.approx(fastdim.cosine_stats(x).mean, abs=1e-12)
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert not x.grad[3].any()
    zeros = torch.zeros(4, 3)
    zeros[0] = 1.0
    with pytest.raises(InputError, match="at least two rows that are not zero"):
        ft.mean_cosine(zeros)


@pytest.mark.parametrize("name", NAMES)
def test_bad_input(name: str) -> None:
    function = FUNCTIONS[name][0]
    x = surface(50, 3, 4).float()
    bad = x.clone()
    bad[[7, 9], 1] = torch.tensor([torch.nan, torch.inf])
    with pytest.raises(InputError, match=r"2 rows with NaN.* among 50, the first is row 7"):
        function(bad)
    with pytest.raises(InputError, match=r"two-dimensional.*\(2, 25, 4\)"):
        function(x.reshape(2, 25, 4))
    with pytest.raises(InputError, match="got ndarray"):
        function(x.numpy())  # type: ignore[arg-type]
    with pytest.raises(InputError, match="dtype int64"):
        function(x.long())
    with pytest.raises(InputError, match="sparse"):
        function(x.to_sparse())
    with pytest.raises(InputError, match="at least 2 rows and 2 columns, got 1 and 4"):
        function(x[:1])
    with pytest.raises(InputError, match="2 columns, got 50 and 1"):
        function(x[:, :1])
    if name != "mean_cosine":
        with pytest.raises(InputError, match=r"equal|distinct"):
            function(x[:1].expand(40, 4))


def test_bad_arguments() -> None:
    x = surface(40, 3, 4)
    for share in (-0.1, 1.0, float("nan")):
        with pytest.raises(InputError, match="discard_fraction"):
            ft.twonn(x, discard_fraction=share)
    with pytest.raises(InputError, match="at least 200 distinct rows, got 40"):
        ft.twonn(x, discard_fraction=0.99)
    for k in (1, 2.5, True):
        with pytest.raises(InputError, match="k must be a whole number >= 2"):
            ft.mle(x, k)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"41 distinct rows, got 40 .* smaller k"):
        ft.mle(x, 40)


def test_rows_on_a_grid_have_no_dimension() -> None:
    grid = torch.cartesian_prod(torch.arange(5.0), torch.arange(5.0))
    with pytest.raises(InputError, match="equally far"):
        ft.twonn(grid)
    with pytest.raises(InputError, match="equally far"):
        ft.mle(grid, 2)


@pytest.mark.parametrize("name", ["twonn", "mle"])
def test_neighbours_are_searched_on_the_cpu(name: str) -> None:
    with pytest.raises(BackendError, match=r"x lies on meta.*pass x\.cpu\(\)"):
        FUNCTIONS[name][0](torch.empty(50, 4, device="meta"))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_changes_nothing_but_the_input(name: str, dtype: torch.dtype) -> None:
    function = FUNCTIONS[name][0]
    torch.manual_seed(0)
    layer = torch.nn.Linear(6, 12)
    inputs = surface(150, 3, 6).float()
    with torch.autocast("cpu", dtype=dtype):
        hidden = layer(inputs)
        assert hidden.dtype == dtype
        hidden.retain_grad()
        value = function(hidden)
    assert value.dtype == torch.float32
    value.backward()
    leaf = hidden.detach().double().requires_grad_()
    expected = function(leaf)
    expected.backward()
    assert value.item() == pytest.approx(expected.item(), rel=1e-6)
    assert hidden.grad is not None
    assert leaf.grad is not None
    assert torch.equal(hidden.grad, leaf.grad.to(dtype))
    assert layer.weight.grad is not None
    assert layer.weight.grad.isfinite().all()
    assert layer.weight.grad.abs().sum() > 0.0
