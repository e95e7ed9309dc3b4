// Uninitialised memory on the boundary of a cache line, as wide loads want it; large pieces in huge
// pages where the system has them: fewer faults when they are filled, and rows that are met in no
// order cost fewer misses of the address cache.
#pragma once

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <algorithm>
#include <cstddef>
#include <memory>
#include <new>

namespace fastdim {

template <class T>
class Aligned {
 public:
  explicit Aligned(std::size_t size) : Aligned(Bytes{std::max<std::size_t>(size, 1) * sizeof(T)}) {}
  T* data() { return pointer_.get(); }
  const T* data() const { return pointer_.get(); }

 private:
  static constexpr std::size_t kLine = 64, kHugePage = std::size_t{2} << 20;

  struct Release {
    std::align_val_t alignment;
    void operator()(T* pointer) const { ::operator delete[](pointer, alignment); }
  };

  struct Bytes {
    std::size_t count;
    bool large() const { return count >= 2 * kHugePage; }
  };

  explicit Aligned(Bytes bytes)
      : pointer_(nullptr, Release{std::align_val_t{bytes.large() ? kHugePage : kLine}}) {
    void* memory = ::operator new[](bytes.count, pointer_.get_deleter().alignment);
    pointer_.reset(static_cast<T*>(memory));
#if defined(__linux__)
    // Advice: where it cannot be followed nothing changes but the time.
    if (bytes.large()) madvise(memory, bytes.count / kHugePage * kHugePage, MADV_HUGEPAGE);
#endif
  }

  std::unique_ptr<T, Release> pointer_;
};

}  // namespace fastdim
