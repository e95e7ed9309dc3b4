// A matrix as it comes from the caller: nothing is copied.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "cpu/kernels.h"

namespace fastdim {

struct Rows {
  const void* data;
  std::int64_t n;       // rows
  std::int64_t d;       // columns, one element apart
  std::int64_t stride;  // from row to row, in elements
  Dtype dtype;

  std::size_t element_size() const { return dtype == Dtype::f64 ? 8 : dtype == Dtype::f32 ? 4 : 2; }
  const void* row(std::int64_t i) const {
    return static_cast<const char*>(data) +
           static_cast<std::size_t>(i) * static_cast<std::size_t>(stride) * element_size();
  }
};

inline Dtype parse_dtype(const std::string& text) {
  if (text == "float16") return Dtype::f16;
  if (text == "bfloat16") return Dtype::bf16;
  if (text == "float32") return Dtype::f32;
  if (text == "float64") return Dtype::f64;
  throw std::invalid_argument("dtype '" + text + "' is not float16, bfloat16, float32 or float64");
}

}  // namespace fastdim
