// The leaf operations that are written once per instruction set. Everything else (chunks, threads,
// thresholds, candidate lists) is compiled once, at the baseline of the architecture.
//
// The files that implement this interface are compiled with wider instruction sets, so they must
// define no symbol that another file could pick up: each exports one function, the one declared at
// the end of this header, and uses neither the standard library's templates nor shared inline
// functions. scripts/check_isa_symbols.py reads the object files and checks it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fastdim {

enum class Dtype { f16, bf16, f32, f64 };
constexpr int kDtypes = 4;

// Products are summed in blocks of this many columns and the block sums are added up, so that the
// rounding error of a product grows with min(d, kBlock) + d / kBlock and not with d.
constexpr std::size_t kBlock = 512;

// Of Kernels::add_product: short sums round less.
constexpr std::size_t kShortBlock = 64;

constexpr int kMaxTileRows = 14;
constexpr int kMaxTileCols = 32;

struct Kernels {
  // A tile is tile_rows x tile_cols float32, row-major, 64-byte aligned. A panel holds tile_rows
  // (or tile_cols) rows interleaved: element c of row r lies at panel[c * width + r].
  int tile_rows;
  int tile_cols;

  // tile[r][c] = sum over d of a[r] * b[c], float32, any order inside the bound of kBlock.
  void (*product)(const float* a, const float* b, std::size_t d, float* tile);

  // tile[r][c] += the same sum, block by block, in blocks of kShortBlock.
  void (*add_product)(const float* a, const float* b, std::size_t d, float* tile);

  // tile[r][c] -= col_bound[c]; bit c of hits[r] says whether the result >= row_bound[r].
  // Returns whether any bit is set; only then tile and hits are defined.
  bool (*filter)(float* tile, const float* row_bound, const float* col_bound, std::uint32_t* hits);

  // out = float32(post * (pre * x - mean)) in float64 arithmetic; *norm2 = |out|^2 and *error2 =
  // |post * (pre * x - mean) - out|^2, both summed in float64.
  void (*center)(const double* x, double pre, const double* mean, double post, std::size_t d,
                 float* out, double* norm2, double* error2);

  // Exact conversion of one row to float64; indexed by Dtype, as is the one below.
  void (*decode[kDtypes])(const void* x, std::size_t d, double* out);

  // |scale * x - scale * y|^2 from differences in float64. `scale` is read for f64 only (1 is meant
  // for the others, whose squares cannot leave the range of float64). May stop early and return a
  // partial sum once that exceeds `limit`; a result <= limit is always the full sum and depends on
  // x, y, d and scale alone.
  double (*distance2[kDtypes])(const void* x, const void* y, std::size_t d, double scale,
                               double limit);

  // The full sums of x and each of `count` rows, bit for bit those of distance2.
  void (*distances2[kDtypes])(const void* x, const void* const* rows, std::size_t count,
                              std::size_t d, double scale, double* out);
};

const Kernels* scalar_kernels();
const Kernels* avx2_kernels();
const Kernels* avx512_kernels();

}  // namespace fastdim
