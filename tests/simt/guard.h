// Errors and the seed of the emulator, as a library for ctypes gives them.
#pragma once

#include <exception>
#include <string>

#include "emulator.h"

inline thread_local std::string last_error;

namespace {

template <class Call>
int guarded(Call call) {
  try {
    call();
    return 0;
  } catch (const std::exception& e) {
    last_error = e.what();
    return 1;
  }
}
}  // namespace

// Weak: each library has them, and `sanitized.cpp` is linked with both.
extern "C" {
__attribute__((weak)) const char* simt_error() { return last_error.c_str(); }
__attribute__((weak)) void simt_seed(unsigned long long value) { fastdim::simt::seed() = value; }
}
