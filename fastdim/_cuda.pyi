# Addresses are device memory unless said otherwise; stream 0 is the default stream.

def devices() -> tuple[int, str]: ...
def device_count() -> int: ...
def current_device() -> int: ...
def set_device(device: int) -> None: ...
def properties(device: int) -> dict[str, object]: ...
def allocate(bytes: int) -> int: ...
def release(at: int) -> None: ...
def copy(to: int, source: int, bytes: int, stream: int) -> None: ...
def tile_shared_bytes(tile: str) -> int: ...
def knn_workspace(
    n: int,
    d: int,
    chosen: bool,
    m: int,
    k: int,
    keep: int,
    tile: str,
    blocks: int,
    ordered: bool = False,
    symmetric: bool = False,
) -> int: ...
def knn(
    data: int,
    n: int,
    d: int,
    row_stride: int,
    dtype: str,
    queries: int,
    m: int,
    k: int,
    keep: int,
    tile: str,
    blocks: int,
    workspace: int,
    out_distances: int,
    out_indices: int,
    out_counts: int,
    stream: int,
    order: int = 0,
    axes: int = 0,
    axes_count: int = 0,
    symmetric: bool = False,
) -> None: ...
def mma_ceiling(blocks: int, rounds: int, out: int, stream: int) -> float: ...
def row_norms(
    data: int, n: int, d: int, row_stride: int, dtype: str, out_norms: int, stream: int
) -> None: ...
def unit_rows(
    data: int,
    n: int,
    d: int,
    row_stride: int,
    dtype: str,
    chosen: int,
    m: int,
    inverse: int,
    padded: int,
    width: int,
    parts: int,
    mean: int,
    out_w: int,
    out_slopes: int,
    out_center: int,
    stream: int,
) -> None: ...
def cosine_pairs(
    w: int,
    m: int,
    width: int,
    w_stride: int,
    slopes: int,
    center: int,
    edges: int,
    bins: int,
    runs: int,
    out_moments: int,
    out_histogram: int,
    stream: int,
) -> None: ...
def pair_cosines(
    data: int,
    n: int,
    d: int,
    row_stride: int,
    dtype: str,
    left: int,
    right: int,
    inverse: int,
    count: int,
    out: int,
    stream: int,
) -> None: ...
