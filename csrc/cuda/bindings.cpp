// Python's view of the CUDA kernels: addresses, sizes and the stream in, no mathematics.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <string>

#include "ceiling.h"
#include "cosine.h"
#include "knn.h"

namespace py = pybind11;
using namespace fastdim;

namespace {

template <class T>
T* pointer(std::uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

cuda::Dtype parse_dtype(const std::string& text) {
  if (text == "float16") return cuda::Dtype::float16;
  if (text == "bfloat16") return cuda::Dtype::bfloat16;
  if (text == "float32") return cuda::Dtype::float32;
  if (text == "float64") return cuda::Dtype::float64;
  throw std::invalid_argument("dtype '" + text + "' is not supported");
}

cuda::Tile parse_tile(const std::string& text) {
  if (text == "small") return cuda::Tile::small;
  if (text == "medium") return cuda::Tile::medium;
  if (text == "large") return cuda::Tile::large;
  throw std::invalid_argument("tile '" + text + "' is not small, medium or large");
}

// Number of devices, and why there is none.
py::tuple devices() {
  int count = 0;
  const cudaError_t code = cudaGetDeviceCount(&count);
  if (code == cudaSuccess) return py::make_tuple(count, "");
  return py::make_tuple(0, cudaGetErrorString(code));
}

py::dict properties(int device) {
  cudaDeviceProp found;
  simt::check(cudaGetDeviceProperties(&found, device), "properties of the device");
  py::dict out;
  out["name"] = std::string(found.name);
  out["capability"] = py::make_tuple(found.major, found.minor);
  out["multiprocessors"] = found.multiProcessorCount;
  out["shared_bytes"] = found.sharedMemPerBlockOptin;
  return out;
}

std::uintptr_t allocate(std::int64_t bytes) {
  void* at = nullptr;
  simt::check(cudaMalloc(&at, static_cast<std::size_t>(bytes)), "device memory");
  return reinterpret_cast<std::uintptr_t>(at);
}

void copy(std::uintptr_t to, std::uintptr_t from, std::int64_t bytes, std::uintptr_t stream) {
  const py::gil_scoped_release release;
  simt::check(
      cudaMemcpyAsync(pointer<void>(to), pointer<const void>(from), static_cast<std::size_t>(bytes),
                      cudaMemcpyDefault, pointer<CUstream_st>(stream)),
      "copy");
  simt::check(cudaStreamSynchronize(pointer<CUstream_st>(stream)), "CUDA kernels");
}

cuda::KnnParams knn_params(std::uintptr_t data, std::int64_t n, std::int64_t d,
                           std::int64_t row_stride, const std::string& dtype,
                           std::uintptr_t queries, std::int64_t m, std::int64_t k,
                           std::int64_t keep, const std::string& tile, int blocks) {
  return {pointer<const void>(data),
          n,
          d,
          row_stride,
          parse_dtype(dtype),
          pointer<const std::int64_t>(queries),
          m,
          k,
          keep,
          parse_tile(tile),
          blocks,
          nullptr,
          nullptr,
          nullptr,
          nullptr,
          nullptr};
}

cuda::RowsParams rows_params(std::uintptr_t data, std::int64_t n, std::int64_t d,
                             std::int64_t row_stride, const std::string& dtype,
                             std::uintptr_t stream) {
  return {pointer<const void>(data),   n, d, row_stride, parse_dtype(dtype),
          pointer<CUstream_st>(stream)};
}

void bind_cosines(py::module_& module) {
  module.def(
      "row_norms",
      [](std::uintptr_t data, std::int64_t n, std::int64_t d, std::int64_t row_stride,
         const std::string& dtype, std::uintptr_t norms, std::uintptr_t stream) {
        cuda::row_norms(rows_params(data, n, d, row_stride, dtype, stream), pointer<double>(norms));
      },
      py::arg("data"), py::arg("n"), py::arg("d"), py::arg("row_stride"), py::arg("dtype"),
      py::arg("out_norms"), py::arg("stream"));
  module.def(
      "unit_rows",
      [](std::uintptr_t data, std::int64_t n, std::int64_t d, std::int64_t row_stride,
         const std::string& dtype, std::uintptr_t chosen, std::int64_t m, std::uintptr_t inverse,
         std::int64_t padded, std::int64_t width, std::uintptr_t parts, std::uintptr_t mean,
         std::uintptr_t w, std::uintptr_t slopes, std::uintptr_t center, std::uintptr_t stream) {
        cuda::unit_rows({rows_params(data, n, d, row_stride, dtype, stream),
                         pointer<const std::int64_t>(chosen), m, pointer<const double>(inverse),
                         padded, width, pointer<double>(parts), pointer<double>(mean),
                         pointer<double>(w), pointer<double>(slopes), pointer<double>(center)});
      },
      py::arg("data"), py::arg("n"), py::arg("d"), py::arg("row_stride"), py::arg("dtype"),
      py::arg("chosen"), py::arg("m"), py::arg("inverse"), py::arg("padded"), py::arg("width"),
      py::arg("parts"), py::arg("mean"), py::arg("out_w"), py::arg("out_slopes"),
      py::arg("out_center"), py::arg("stream"));
  module.def(
      "cosine_pairs",
      [](std::uintptr_t w, std::int64_t m, std::int64_t width, std::int64_t w_stride,
         std::uintptr_t slopes, std::uintptr_t center, std::uintptr_t edges, std::int64_t bins,
         std::int64_t runs, std::uintptr_t moments, std::uintptr_t histogram,
         std::uintptr_t stream) {
        cuda::cosine_pairs({pointer<const double>(w), m, width, w_stride,
                            pointer<const double>(slopes), pointer<const double>(center),
                            pointer<const double>(edges), bins, runs, pointer<double>(moments),
                            pointer<unsigned long long>(histogram), pointer<CUstream_st>(stream)});
      },
      py::arg("w"), py::arg("m"), py::arg("width"), py::arg("w_stride"), py::arg("slopes"),
      py::arg("center"), py::arg("edges"), py::arg("bins"), py::arg("runs"), py::arg("out_moments"),
      py::arg("out_histogram"), py::arg("stream"));
  module.def(
      "pair_cosines",
      [](std::uintptr_t data, std::int64_t n, std::int64_t d, std::int64_t row_stride,
         const std::string& dtype, std::uintptr_t left, std::uintptr_t right,
         std::uintptr_t inverse, std::int64_t count, std::uintptr_t out, std::uintptr_t stream) {
        cuda::pair_cosines(rows_params(data, n, d, row_stride, dtype, stream),
                           pointer<const std::int64_t>(left), pointer<const std::int64_t>(right),
                           pointer<const double>(inverse), count, pointer<double>(out));
      },
      py::arg("data"), py::arg("n"), py::arg("d"), py::arg("row_stride"), py::arg("dtype"),
      py::arg("left"), py::arg("right"), py::arg("inverse"), py::arg("count"), py::arg("out"),
      py::arg("stream"));
}

}  // namespace

PYBIND11_MODULE(_cuda, module) {
  module.doc() = "CUDA kernels of fastdim. Arguments are addresses; see fastdim/_cuda.pyi.";
  bind_cosines(module);
  module.def("devices", devices);
  module.def("device_count", [] { return devices()[0].cast<int>(); });
  module.def("current_device", [] {
    int device = 0;
    simt::check(cudaGetDevice(&device), "current device");
    return device;
  });
  module.def("set_device",
             [](int device) { simt::check(cudaSetDevice(device), "choice of the device"); });
  module.def("properties", properties, py::arg("device"));
  module.def("allocate", allocate, py::arg("bytes"));
  module.def("release", [](std::uintptr_t at) { cudaFree(pointer<void>(at)); }, py::arg("at"));
  module.def("copy", copy, py::arg("to"), py::arg("source"), py::arg("bytes"), py::arg("stream"));
  module.def("tile_shared_bytes",
             [](const std::string& tile) { return cuda::tile_shared_bytes(parse_tile(tile)); });
  module.def(
      "knn_workspace",
      [](std::int64_t n, std::int64_t d, bool chosen, std::int64_t m, std::int64_t k,
         std::int64_t keep, const std::string& tile, int blocks, bool ordered, bool symmetric) {
        cuda::KnnParams params =
            knn_params(0, n, d, d, "float32", chosen ? 1 : 0, m, k, keep, tile, blocks);
        if (ordered) params.order = pointer<const std::int64_t>(1);
        params.symmetric = symmetric;
        return cuda::knn_workspace(params);
      },
      py::arg("n"), py::arg("d"), py::arg("chosen"), py::arg("m"), py::arg("k"), py::arg("keep"),
      py::arg("tile"), py::arg("blocks"), py::arg("ordered") = false, py::arg("symmetric") = false);
  module.def(
      "knn",
      [](std::uintptr_t data, std::int64_t n, std::int64_t d, std::int64_t row_stride,
         const std::string& dtype, std::uintptr_t queries, std::int64_t m, std::int64_t k,
         std::int64_t keep, const std::string& tile, int blocks, std::uintptr_t workspace,
         std::uintptr_t distances, std::uintptr_t indices, std::uintptr_t counts,
         std::uintptr_t stream, std::uintptr_t order, std::uintptr_t axes, std::int64_t axes_count,
         bool symmetric) {
        cuda::KnnParams params =
            knn_params(data, n, d, row_stride, dtype, queries, m, k, keep, tile, blocks);
        params.workspace = pointer<void>(workspace);
        params.distances = pointer<double>(distances);
        params.indices = pointer<std::int64_t>(indices);
        params.counts = pointer<std::int64_t>(counts);
        params.stream = pointer<CUstream_st>(stream);
        params.order = pointer<const std::int64_t>(order);
        params.axes = pointer<const double>(axes);
        params.axes_count = axes_count;
        params.symmetric = symmetric;
        const py::gil_scoped_release release;
        cuda::knn(params);
      },
      py::arg("data"), py::arg("n"), py::arg("d"), py::arg("row_stride"), py::arg("dtype"),
      py::arg("queries"), py::arg("m"), py::arg("k"), py::arg("keep"), py::arg("tile"),
      py::arg("blocks"), py::arg("workspace"), py::arg("out_distances"), py::arg("out_indices"),
      py::arg("out_counts"), py::arg("stream"), py::arg("order") = 0, py::arg("axes") = 0,
      py::arg("axes_count") = 0, py::arg("symmetric") = false);
  module.def(
      "mma_ceiling",
      [](int blocks, int rounds, std::uintptr_t out, std::uintptr_t stream) {
        return cuda::mma_ceiling(blocks, rounds, pointer<float>(out), pointer<CUstream_st>(stream));
      },
      py::arg("blocks"), py::arg("rounds"), py::arg("out"), py::arg("stream"));
}
