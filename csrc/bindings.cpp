// Python's view of the kernels: addresses and sizes in, no mathematics. Input is validated in
// fastdim/arrays.py; std::invalid_argument becomes ValueError.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "cosine.h"
#include "cosine_levels.h"
#include "distinct.h"
#include "isa.h"
#include "knn.h"
#include "moments.h"
#include "unit.h"
#include "within.h"

namespace py = pybind11;
using namespace fastdim;

namespace {

Rows make_rows(std::uintptr_t data, std::int64_t n, std::int64_t d, std::int64_t row_stride,
               const std::string& dtype) {
  return {reinterpret_cast<const void*>(data), n, d, row_stride, parse_dtype(dtype)};
}

template <class T>
T* pointer(std::uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

Arithmetic parse_arithmetic(const std::string& text) {
  if (text.empty()) return Arithmetic::any;
  if (text == "float32") return Arithmetic::float32;
  if (text == "int16") return Arithmetic::int16;
  if (text == "int8") return Arithmetic::int8;
  throw std::invalid_argument("arithmetic '" + text + "' is not float32, int16 or int8");
}

// Lets Ctrl-C stop a kernel: called by the calling thread, which does not hold the GIL.
void check_signals() {
  const py::gil_scoped_acquire hold;
  if (PyErr_CheckSignals() != 0) throw py::error_already_set();
}

std::vector<std::string> names(const std::vector<Isa>& levels) {
  std::vector<std::string> out;
  for (const Isa isa : levels) out.push_back(name(isa));
  return out;
}

py::dict features() {
  const CpuFeatures& cpu = cpu_features();
  py::dict out;
  out["avx2"] = cpu.avx2;
  out["fma"] = cpu.fma;
  out["f16c"] = cpu.f16c;
  out["avx512f"] = cpu.avx512f;
  out["avx512bw"] = cpu.avx512bw;
  out["avx512vl"] = cpu.avx512vl;
  out["avx512dq"] = cpu.avx512dq;
  out["avx512_bf16"] = cpu.avx512_bf16;
  out["avx512_vnni"] = cpu.avx512_vnni;
  out["amx_int8"] = cpu.amx_int8;
  return out;
}

std::unique_ptr<Index> bind_index(std::uintptr_t data, std::int64_t n, std::int64_t d,
                                  std::int64_t row_stride, const std::string& dtype,
                                  std::uintptr_t first, std::int64_t groups, std::uintptr_t inverse,
                                  int threads, const std::string& isa) {
  const Rows rows = make_rows(data, n, d, row_stride, dtype);
  const Isa level = resolve_isa(isa);
  const Grouping known = {pointer<const std::int64_t>(first), pointer<const std::int64_t>(inverse),
                          groups};
  const py::gil_scoped_release release;
  return make_index(rows, first ? &known : nullptr, threads, level, check_signals);
}

void bind_prepare(Index& index, std::uintptr_t center, std::uintptr_t axes, std::int64_t axis_count,
                  const std::string& strategy, const std::string& asked,
                  const std::string& arithmetic, std::int64_t k, std::int64_t first_axes,
                  const std::string& second, std::int64_t spare_bytes, std::int64_t known_for,
                  int threads) {
  const IndexParams params = {
      {pointer<const double>(center), pointer<const float>(axes), axis_count},
      parse_strategy(strategy),
      parse_strategy(asked),
      parse_precision(arithmetic, index.isa),
      k,
      first_axes,
      parse_precision(second, index.isa),
      spare_bytes,
      known_for,
      with_amx(index.isa).amx,
      threads,
      check_signals};
  const py::gil_scoped_release release;
  prepare_index(index, params);
}

// Arithmetic of the second level; "" where the search has none.
const char* second_of(const Prepared* prepared, Strategy strategy) {
  if (!prepared || strategy != Strategy::pruned) return "";
  if (prepared->whole_int8_width > 0) return name(Precision::int8);
  return name(prepared->whole_width > 0 ? Precision::bfloat16 : Precision::float32);
}

py::dict run_knn(const KnnParams& params) {
  KnnCounts counts;
  {
    const py::gil_scoped_release release;
    counts = knn(params);
  }
  const Index& index = *params.index;
  const Prepared* prepared = params.others ? nullptr : index.prepared.get();
  py::dict out;
  out["isa"] = name(index.isa);
  out["strategy"] = name(counts.strategy);
  out["arithmetic"] = name(prepared ? prepared->precision : Precision::float32);
  out["second"] = second_of(prepared, counts.strategy);
  out["amx"] = prepared && prepared->scan_rows == kTileRows;
  out["axes_first"] = prepared ? prepared->near_axes : index.rows.d;
  out["axes"] = prepared ? prepared->axes : index.rows.d;
  out["rows_distinct"] = counts.distinct;
  out["queries_searched"] = counts.searched;
  out["pairs_filtered"] = counts.pairs_filtered;
  out["pairs_rough"] = counts.pairs_rough;
  out["pairs_second"] = counts.pairs_second;
  out["pairs_refined"] = counts.pairs_refined;
  return out;
}

py::dict bind_knn(const Index& index, std::uintptr_t queries, std::int64_t m, std::int64_t k,
                  bool by_group, int threads, std::int64_t chunk_rows, std::uintptr_t out_distances,
                  std::uintptr_t out_indices) {
  return run_knn({&index, pointer<const std::int64_t>(queries), m, k, by_group, threads, chunk_rows,
                  check_signals, pointer<double>(out_distances),
                  pointer<std::int64_t>(out_indices)});
}

py::dict bind_lookup(const Index& index, std::uintptr_t data, std::int64_t m, std::int64_t d,
                     std::int64_t row_stride, const std::string& dtype, std::int64_t k,
                     bool by_group, int threads, std::int64_t chunk_rows,
                     std::uintptr_t out_distances, std::uintptr_t out_indices) {
  const Rows others = make_rows(data, m, d, row_stride, dtype);
  return run_knn({&index, nullptr, m, k, by_group, threads, chunk_rows, check_signals,
                  pointer<double>(out_distances), pointer<std::int64_t>(out_indices), &others});
}

void bind_divide_rows(std::uintptr_t data, std::int64_t n, std::int64_t d, std::int64_t row_stride,
                      const std::string& dtype, std::uintptr_t ids, std::int64_t count,
                      std::uintptr_t divisors, int threads, const std::string& isa,
                      std::uintptr_t out) {
  const Rows rows = make_rows(data, n, d, row_stride, dtype);
  const Isa level = resolve_isa(isa);
  const py::gil_scoped_release release;
  divide_rows(rows, pointer<const std::int64_t>(ids), count, pointer<const double>(divisors),
              threads, level, check_signals, pointer<float>(out));
}

void bind_row_norms(std::uintptr_t data, std::int64_t n, std::int64_t d, std::int64_t row_stride,
                    const std::string& dtype, int threads, const std::string& isa,
                    std::uintptr_t out) {
  const Rows rows = make_rows(data, n, d, row_stride, dtype);
  const Isa level = resolve_isa(isa);
  const py::gil_scoped_release release;
  row_norms(rows, threads, level, check_signals, pointer<double>(out));
}

void bind_row_distances(std::uintptr_t data, std::int64_t n, std::int64_t d,
                        std::int64_t row_stride, const std::string& dtype, std::uintptr_t from,
                        int threads, const std::string& isa, std::uintptr_t out) {
  const Rows rows = make_rows(data, n, d, row_stride, dtype);
  const Isa level = resolve_isa(isa);
  const py::gil_scoped_release release;
  row_distances(rows, pointer<const double>(from), threads, level, check_signals,
                pointer<double>(out));
}

bool bind_all_within(std::uintptr_t data, std::int64_t n, std::int64_t d, std::int64_t row_stride,
                     const std::string& dtype, std::uintptr_t ids, std::int64_t count,
                     double largest, int threads) {
  const Rows rows = make_rows(data, n, d, row_stride, dtype);
  const py::gil_scoped_release release;
  return all_within(rows, pointer<const std::int64_t>(ids), count, largest, threads, check_signals);
}

std::int64_t bind_distinct(std::uintptr_t data, std::int64_t n, std::int64_t d,
                           std::int64_t row_stride, const std::string& dtype, int threads,
                           std::uintptr_t out_first, std::uintptr_t out_inverse) {
  const Rows rows = make_rows(data, n, d, row_stride, dtype);
  const py::gil_scoped_release release;
  return distinct(rows, threads, check_signals, pointer<std::int64_t>(out_first),
                  pointer<std::int64_t>(out_inverse));
}

py::dict bind_cosine_hist(std::uintptr_t data, std::int64_t n, std::int64_t d,
                          std::int64_t row_stride, const std::string& dtype,
                          std::uintptr_t inv_norms, std::int64_t bins, bool exact_counts,
                          const std::string& arithmetic, std::uintptr_t axes,
                          std::int64_t axis_count, int threads, const std::string& isa,
                          std::uintptr_t out_histogram) {
  const Isa level = resolve_isa(isa);
  CosineRange range;
  {
    const CosineParams params = {make_rows(data, n, d, row_stride, dtype),
                                 pointer<const double>(inv_norms),
                                 threads,
                                 level,
                                 exact_counts,
                                 parse_arithmetic(arithmetic),
                                 pointer<const double>(axes),
                                 axis_count,
                                 check_signals};
    const py::gil_scoped_release release;
    range = cosine_histogram(params, bins, pointer<std::int64_t>(out_histogram));
  }
  py::dict out;
  out["isa"] = name(level);
  out["min"] = range.min;
  out["max"] = range.max;
  out["pairs_filtered"] = range.pairs_filtered;
  out["pairs_refined"] = range.pairs_refined;
  out["arithmetic"] = range.arithmetic;
  return out;
}

void bind_cosine_pairs(std::uintptr_t data, std::int64_t n, std::int64_t d, std::int64_t row_stride,
                       const std::string& dtype, std::uintptr_t inv_norms, std::uintptr_t i,
                       std::uintptr_t j, std::int64_t count, int threads, const std::string& isa,
                       std::uintptr_t out) {
  const CosineParams params = {make_rows(data, n, d, row_stride, dtype),
                               pointer<const double>(inv_norms),
                               threads,
                               resolve_isa(isa),
                               true,
                               Arithmetic::any,
                               nullptr,
                               0,
                               check_signals};
  const py::gil_scoped_release release;
  cosine_pairs(params, pointer<const std::int64_t>(i), pointer<const std::int64_t>(j), count,
               pointer<double>(out));
}

MomentsParams moments_params(std::uintptr_t data, std::int64_t n, std::int64_t d,
                             std::int64_t row_stride, const std::string& dtype, std::uintptr_t ids,
                             std::int64_t count, std::uintptr_t scale, std::uintptr_t shift,
                             int threads, const std::string& isa) {
  return {make_rows(data, n, d, row_stride, dtype),
          pointer<const std::int64_t>(ids),
          count,
          pointer<const double>(scale),
          pointer<const double>(shift),
          threads,
          resolve_isa(isa),
          check_signals};
}

void bind_second_moments(std::uintptr_t data, std::int64_t n, std::int64_t d,
                         std::int64_t row_stride, const std::string& dtype, std::uintptr_t ids,
                         std::int64_t count, std::uintptr_t scale, std::uintptr_t shift,
                         int threads, const std::string& isa, bool floats, std::uintptr_t out_sum,
                         std::uintptr_t out_gram) {
  const MomentsParams params =
      moments_params(data, n, d, row_stride, dtype, ids, count, scale, shift, threads, isa);
  const py::gil_scoped_release release;
  (floats ? second_moments_in_floats : second_moments)(params, pointer<double>(out_sum),
                                                       pointer<double>(out_gram));
}

std::string bind_row_forms(std::uintptr_t data, std::int64_t n, std::int64_t d,
                           std::int64_t row_stride, const std::string& dtype, std::uintptr_t ids,
                           std::int64_t count, std::uintptr_t scale, std::uintptr_t shift,
                           std::uintptr_t vectors, std::uintptr_t weights, std::int64_t axes,
                           std::uintptr_t lines, std::int64_t line_count, int threads,
                           const std::string& isa, std::uintptr_t out_first,
                           std::uintptr_t out_rest, std::uintptr_t out_linear,
                           std::uintptr_t out_forms) {
  const MomentsParams params =
      moments_params(data, n, d, row_stride, dtype, ids, count, scale, shift, threads, isa);
  const Axes basis = {pointer<const double>(vectors), pointer<const double>(weights), axes,
                      pointer<const double>(lines), line_count};
  const RowForms out = {pointer<double>(out_first), pointer<double>(out_rest),
                        pointer<double>(out_linear), pointer<double>(out_forms)};
  const py::gil_scoped_release release;
  return row_forms(params, basis, out);
}

void bind_group_forms(std::uintptr_t data, std::int64_t n, std::int64_t d, std::int64_t row_stride,
                      const std::string& dtype, std::uintptr_t ids, std::int64_t count,
                      std::uintptr_t scale, std::uintptr_t shift, std::uintptr_t ends,
                      std::int64_t groups, std::uintptr_t matrices, std::int64_t matrix_count,
                      int threads, const std::string& isa, std::uintptr_t out_totals,
                      std::uintptr_t out_forms) {
  const MomentsParams params =
      moments_params(data, n, d, row_stride, dtype, ids, count, scale, shift, threads, isa);
  const GroupMatrices given = {pointer<const std::int64_t>(ends), groups,
                               pointer<const double>(matrices), matrix_count};
  const py::gil_scoped_release release;
  group_forms(params, given, pointer<double>(out_totals), pointer<double>(out_forms));
}

}  // namespace

PYBIND11_MODULE(_core, module) {
  module.doc() = "CPU kernels of fastdim. Arguments are addresses; see fastdim/_core.pyi.";
  module.def("built_levels", [] { return names(built_levels()); });
  module.def("supported_levels", [] { return names(supported_levels()); });
  module.def(
      "active_level",
      [](const std::string& isa) {
        return name(with_amx(resolve_isa(isa)).isa);  // throws if AMX is asked for wrongly
      },
      py::arg("isa") = "");
  module.def("cpu_features", features);
  py::class_<Index>(module, "Index")
      .def(py::init(&bind_index), py::arg("data"), py::arg("n"), py::arg("d"),
           py::arg("row_stride"), py::arg("dtype"), py::arg("first"), py::arg("groups"),
           py::arg("inverse"), py::arg("threads"), py::arg("isa"))
      .def("prepare", bind_prepare, py::arg("center"), py::arg("axes"), py::arg("axis_count"),
           py::arg("strategy"), py::arg("asked"), py::arg("arithmetic"), py::arg("k"),
           py::arg("first_axes"), py::arg("second"), py::arg("spare_bytes"), py::arg("known_for"),
           py::arg("threads"))
      .def("strategy",
           [](const Index& index) {
             if (!index.prepared) return name(Strategy::tiled);
             const bool by_row = index.prepared->asked == Strategy::rows;
             return name(by_row ? Strategy::rows : index.prepared->strategy);
           })
      .def("groups", [](const Index& index) { return index.first.size(); })
      .def(
          "distinct",
          [](const Index& index, std::uintptr_t first, std::uintptr_t inverse) {
            std::copy(index.first.begin(), index.first.end(), pointer<std::int64_t>(first));
            std::copy(index.inverse.begin(), index.inverse.end(), pointer<std::int64_t>(inverse));
          },
          py::arg("out_first"), py::arg("out_inverse"))
      .def("knn", bind_knn, py::arg("queries"), py::arg("m"), py::arg("k"), py::arg("by_group"),
           py::arg("threads"), py::arg("chunk_rows"), py::arg("out_distances"),
           py::arg("out_indices"))
      .def("lookup", bind_lookup, py::arg("data"), py::arg("m"), py::arg("d"),
           py::arg("row_stride"), py::arg("dtype"), py::arg("k"), py::arg("by_group"),
           py::arg("threads"), py::arg("chunk_rows"), py::arg("out_distances"),
           py::arg("out_indices"));
  module.def(
      "filter_arithmetics",
      [](const std::string& isa) {
        py::list names;
        for (const Precision each : {Precision::float32, Precision::bfloat16, Precision::int8})
          if (has_precision(resolve_isa(isa), each)) names.append(name(each));
        return names;
      },
      py::arg("isa") = "");
  module.def("divide_rows", bind_divide_rows, py::arg("data"), py::arg("n"), py::arg("d"),
             py::arg("row_stride"), py::arg("dtype"), py::arg("ids"), py::arg("count"),
             py::arg("divisors"), py::arg("threads"), py::arg("isa"), py::arg("out"));
  module.def(
      "row_hashes",
      [](std::uintptr_t data, std::int64_t n, std::int64_t d, std::int64_t row_stride,
         const std::string& dtype) { return row_hashes(make_rows(data, n, d, row_stride, dtype)); },
      py::arg("data"), py::arg("n"), py::arg("d"), py::arg("row_stride"), py::arg("dtype"));
  module.def("row_norms", bind_row_norms, py::arg("data"), py::arg("n"), py::arg("d"),
             py::arg("row_stride"), py::arg("dtype"), py::arg("threads"), py::arg("isa"),
             py::arg("out"));
  module.def("row_distances", bind_row_distances, py::arg("data"), py::arg("n"), py::arg("d"),
             py::arg("row_stride"), py::arg("dtype"), py::arg("from_point"), py::arg("threads"),
             py::arg("isa"), py::arg("out"));
  module.def("all_within", bind_all_within, py::arg("data"), py::arg("n"), py::arg("d"),
             py::arg("row_stride"), py::arg("dtype"), py::arg("ids"), py::arg("count"),
             py::arg("largest"), py::arg("threads"));
  module.def("distinct", bind_distinct, py::arg("data"), py::arg("n"), py::arg("d"),
             py::arg("row_stride"), py::arg("dtype"), py::arg("threads"), py::arg("out_first"),
             py::arg("out_inverse"));
  module.def("second_moments", bind_second_moments, py::arg("data"), py::arg("n"), py::arg("d"),
             py::arg("row_stride"), py::arg("dtype"), py::arg("ids"), py::arg("count"),
             py::arg("scale"), py::arg("shift"), py::arg("threads"), py::arg("isa"),
             py::arg("floats"), py::arg("out_sum"), py::arg("out_gram"));
  module.def("row_forms", bind_row_forms, py::arg("data"), py::arg("n"), py::arg("d"),
             py::arg("row_stride"), py::arg("dtype"), py::arg("ids"), py::arg("count"),
             py::arg("scale"), py::arg("shift"), py::arg("vectors"), py::arg("weights"),
             py::arg("axes"), py::arg("lines"), py::arg("line_count"), py::arg("threads"),
             py::arg("isa"), py::arg("out_first"), py::arg("out_rest"), py::arg("out_linear"),
             py::arg("out_forms"));
  module.def("group_forms", bind_group_forms, py::arg("data"), py::arg("n"), py::arg("d"),
             py::arg("row_stride"), py::arg("dtype"), py::arg("ids"), py::arg("count"),
             py::arg("scale"), py::arg("shift"), py::arg("ends"), py::arg("groups"),
             py::arg("matrices"), py::arg("matrix_count"), py::arg("threads"), py::arg("isa"),
             py::arg("out_totals"), py::arg("out_forms"));
  module.def("cosine_hist", bind_cosine_hist, py::arg("data"), py::arg("n"), py::arg("d"),
             py::arg("row_stride"), py::arg("dtype"), py::arg("inv_norms"), py::arg("bins"),
             py::arg("exact_counts"), py::arg("arithmetic"), py::arg("axes"), py::arg("axis_count"),
             py::arg("threads"), py::arg("isa"), py::arg("out_histogram"));
  module.def(
      "has_int16", [](const std::string& isa) { return has_int16(resolve_isa(isa)); },
      py::arg("isa") = "");
  module.def("cosine_pairs", bind_cosine_pairs, py::arg("data"), py::arg("n"), py::arg("d"),
             py::arg("row_stride"), py::arg("dtype"), py::arg("inv_norms"), py::arg("i"),
             py::arg("j"), py::arg("count"), py::arg("threads"), py::arg("isa"), py::arg("out"));
}
