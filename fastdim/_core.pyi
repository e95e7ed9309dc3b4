"""CPU kernels (csrc/bindings.cpp). Every address is that of a C-contiguous array which the caller
keeps alive; strides are in elements; `dtype` is "float16", "bfloat16", "float32" or "float64";
`isa` is a level's name or "" for FASTDIM_ISA, else the highest. ValueError on a level that does not
exist or cannot run here, and on sizes that make no sense. The GIL is released."""

def built_levels() -> list[str]: ...
def supported_levels() -> list[str]: ...
def active_level(isa: str = "") -> str: ...
def cpu_features() -> dict[str, bool]: ...

class Index:
    """Rows ready to be searched; refers to them. Contract: csrc/knn.h."""

    def __init__(
        self,
        data: int,
        n: int,
        d: int,
        row_stride: int,
        dtype: str,
        first: int,
        groups: int,
        inverse: int,
        threads: int,
        isa: str,
    ) -> None:
        """Groups equal rows, or takes what `distinct` found: first, int64 (groups,), and inverse,
        int64 (n,); first 0 for none. Searches scan as it is until `prepare` was called."""

    def prepare(
        self,
        center: int,
        axes: int,
        axis_count: int,
        strategy: str,
        asked: str,
        arithmetic: str,
        k: int,
        first_axes: int,
        second: str,
        spare_bytes: int,
        known_for: int,
        threads: int,
    ) -> None:
        """center: float64 (d,); axes: float32 (axis_count, d), nearly orthonormal; strategy:
        "auto", "pruned" or "full"; asked: of searches, "rows" for a search by rows, which is
        prepared as "full", "auto" to let it take the place of "full"; arithmetic of the filter:
        "float32", "bfloat16", "int8" or "" for the likely fastest; k: neighbours that the choice
        is made for;
        first_axes: of the first level of a pruned search, 0 to choose from a sample; second:
        arithmetic of the second level, "" to choose, float32 for further axes;
        spare_bytes: beyond the rows' own size, for all columns in bfloat16, else the second level
        reads further axes; known_for: 0, or the axes are known, rows keep their order and so many
        are asked about, see csrc/prepare.h (int8). At least two groups."""

    def strategy(self) -> str: ...
    def groups(self) -> int: ...
    def distinct(self, out_first: int, out_inverse: int) -> None:
        """out_first: int64 (groups,); out_inverse: int64 (n,). Contract: csrc/distinct.h."""

    def knn(
        self,
        queries: int,
        m: int,
        k: int,
        by_group: bool,
        threads: int,
        chunk_rows: int,
        out_distances: int,
        out_indices: int,
    ) -> dict[str, int | str]:
        """queries: int64 (m,), or 0 for every row or group (then m = n); out_distances: float64
        (m, k); out_indices: int64 (m, k)."""

    def lookup(
        self,
        data: int,
        m: int,
        d: int,
        row_stride: int,
        dtype: str,
        k: int,
        by_group: bool,
        threads: int,
        chunk_rows: int,
        out_distances: int,
        out_indices: int,
    ) -> dict[str, int | str]:
        """As `knn`, of m rows of another matrix, of the same dtype and d."""

def filter_arithmetics(isa: str = "") -> list[str]:
    """Of "float32", "bfloat16" and "int8" those that the filters of a search can run in here."""

def row_norms(
    data: int, n: int, d: int, row_stride: int, dtype: str, threads: int, isa: str, out: int
) -> None:
    """out: float64 (n,). Contract: csrc/unit.h."""

def row_distances(
    data: int,
    n: int,
    d: int,
    row_stride: int,
    dtype: str,
    from_point: int,
    threads: int,
    isa: str,
    out: int,
) -> None:
    """from_point: float64 (d,). out: float64 (n,). Contract: csrc/unit.h."""

def all_within(
    data: int,
    n: int,
    d: int,
    row_stride: int,
    dtype: str,
    ids: int,
    count: int,
    largest: float,
    threads: int,
) -> bool:
    """ids: int64 (count,), or 0 for all rows. Contract: csrc/within.h."""

def distinct(
    data: int,
    n: int,
    d: int,
    row_stride: int,
    dtype: str,
    threads: int,
    out_first: int,
    out_inverse: int,
) -> int:
    """out_first, out_inverse: int64 (n,). Contract: csrc/distinct.h."""

def row_hashes(data: int, n: int, d: int, row_stride: int, dtype: str) -> list[int]:
    """What tells most rows apart before their values are compared. Contract: csrc/distinct.h."""

def divide_rows(
    data: int,
    n: int,
    d: int,
    row_stride: int,
    dtype: str,
    ids: int,
    count: int,
    divisors: int,
    threads: int,
    isa: str,
    out: int,
) -> None:
    """ids: int64 (count,); divisors: float64 (n,); out: float32 (count, d). See csrc/unit.h."""

def cosine_hist(
    data: int,
    n: int,
    d: int,
    row_stride: int,
    dtype: str,
    inv_norms: int,
    bins: int,
    exact_counts: bool,
    arithmetic: str,
    axes: int,
    axis_count: int,
    threads: int,
    isa: str,
    out_histogram: int,
) -> dict[str, int | float | str]:
    """inv_norms: float64 (n,); arithmetic: "float32", "int16" or "" for the likely faster; axes:
    float64 (axis_count, d); out_histogram: int64 (bins,). Contract: csrc/cosine.h."""

def has_int16(isa: str = "") -> bool: ...
def cosine_pairs(
    data: int,
    n: int,
    d: int,
    row_stride: int,
    dtype: str,
    inv_norms: int,
    i: int,
    j: int,
    count: int,
    threads: int,
    isa: str,
    out: int,
) -> None:
    """i, j: int64 (count,); out: float64 (count,). Contract: csrc/cosine.h."""

def second_moments(
    data: int,
    n: int,
    d: int,
    row_stride: int,
    dtype: str,
    ids: int,
    count: int,
    scale: int,
    shift: int,
    threads: int,
    isa: str,
    floats: bool,
    out_sum: int,
    out_gram: int,
) -> None:
    """ids: int64 (count,), or 0 for every row (then count = n); scale: float64 (n,) or 0 for 1;
    shift, out_sum: float64 (d,); out_gram: float64 (d, d). floats: sums of 64
    products in float32. Contract: csrc/moments.h."""

def row_forms(
    data: int,
    n: int,
    d: int,
    row_stride: int,
    dtype: str,
    ids: int,
    count: int,
    scale: int,
    shift: int,
    vectors: int,
    weights: int,
    axes: int,
    lines: int,
    line_count: int,
    threads: int,
    isa: str,
    out_first: int,
    out_rest: int,
    out_linear: int,
    out_forms: int,
) -> str:
    """As second_moments; vectors: float64 (axes, d); weights: float64 (2, axes); lines:
    float64 (line_count, d); out_first, out_rest: float64 (count,); out_linear: float64 (count,
    line_count); out_forms: float64 (count, 2). Contract: csrc/moments.h."""

def group_forms(
    data: int,
    n: int,
    d: int,
    row_stride: int,
    dtype: str,
    ids: int,
    count: int,
    scale: int,
    shift: int,
    ends: int,
    groups: int,
    matrices: int,
    matrix_count: int,
    threads: int,
    isa: str,
    out_totals: int,
    out_forms: int,
) -> None:
    """As second_moments; ends: int64 (groups,); matrices: float64 (matrix_count, d, d); out_totals:
    float64 (groups, d); out_forms: float64 (groups, matrix_count). Contract: csrc/moments.h."""
