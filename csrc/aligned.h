// Uninitialised memory on the boundary of a cache line, as wide loads want it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <new>

namespace fastdim {

template <class T>
class Aligned {
 public:
  explicit Aligned(std::size_t size)
      : pointer_(static_cast<T*>(
            ::operator new[](std::max<std::size_t>(size, 1) * sizeof(T), std::align_val_t{64}))) {}
  T* data() { return pointer_.get(); }
  const T* data() const { return pointer_.get(); }

 private:
  struct Release {
    void operator()(T* pointer) const { ::operator delete[](pointer, std::align_val_t{64}); }
  };
  std::unique_ptr<T, Release> pointer_;
};

}  // namespace fastdim
