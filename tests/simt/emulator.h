// A GPU block on the CPU: one fiber a thread, for running csrc/cuda/*.cu in the tests.
//
// Made to show errors rather than to be fast. Shared memory and registers start as NaN; background
// copies destroy their target when issued and arrive when waited for; between two barriers warps
// run in an order drawn from the seed, one often far ahead of the others, so that a missing barrier
// shows; a barrier or a warp operation that not all threads reach is an error. mma follows the
// documented fragments; its sums are the worst that a tensor core is known to do: terms cut off at
// the last bit of the largest, the total cut off to float32.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "numbers.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)

namespace fastdim::simt {

struct Index {
  unsigned x;
};
struct alignas(16) Four {
  std::uint32_t x, y, z, w;
};
using Stream = std::uintptr_t;
using Completion = void (*)(void** lanes, int count);

struct Copy {
  void* to;
  const void* from;
  int group;
};

enum class State { ready, at_warp, at_block, done };

// A place to go on from. ucontext makes it; later switches jump, without its system calls. The
// sanitizer follows ucontext alone.
struct Context {
  ucontext_t first;
  jmp_buf later;
  bool left = false;
};
inline void switch_to(Context& from, Context& to) {
#if defined(__SANITIZE_ADDRESS__)
  swapcontext(&from.first, &to.first);
#else
  from.left = true;
  if (_setjmp(from.later) != 0) return;
  if (to.left) _longjmp(to.later, 1);
  setcontext(&to.first);
#endif
}

struct Fiber {
  Context context;
  std::vector<unsigned char> stack;
  State state = State::ready;
  int number = 0;
  Completion completion = nullptr;
  void* argument = nullptr;
  std::vector<Copy> copies;
  int group = 0;
  void* fake_stack = nullptr;
};

struct Block {
  std::vector<std::unique_ptr<Fiber>> fibers;
  std::vector<double> priority;  // of each warp, drawn anew at every barrier
  std::vector<unsigned char> memory;
  unsigned char* shared = nullptr;
  int shared_bytes = 0;
  Context main;
  Fiber* running = nullptr;
  std::function<void()> body;
  Index block{0}, grid{0}, threads{0};
  std::mt19937_64 random;
  std::string error;
  const void* main_stack = nullptr;
  std::size_t main_stack_bytes = 0;
};

inline Block*& current() {
  static Block* block = nullptr;
  return block;
}
inline std::uint64_t& seed() {
  static std::uint64_t value = 1;
  return value;
}
// Products summed in one step by the imitated tensor core: 4, 8 or 16 of the 16.
inline int& mma_group() {
  static int value = 4;
  return value;
}
inline Index thread_index() { return {static_cast<unsigned>(current()->running->number)}; }

inline void enter(Fiber& fiber) {
  Block& block = *current();
  block.running = &fiber;
#if defined(__SANITIZE_ADDRESS__)
  void* saved = nullptr;
  __sanitizer_start_switch_fiber(&saved, fiber.stack.data(), fiber.stack.size());
#endif
  switch_to(block.main, fiber.context);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(saved, nullptr, nullptr);
#endif
  block.running = nullptr;
}

inline void leave(bool last = false) {
  Block& block = *current();
  Fiber& fiber = *block.running;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(last ? nullptr : &fiber.fake_stack, block.main_stack,
                                 block.main_stack_bytes);
#endif
  switch_to(fiber.context, block.main);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fiber.fake_stack, nullptr, nullptr);
#endif
}

// Ends the launch with an exception raised on the caller's stack.
inline void fail(const std::string& what) {
  Block& block = *current();
  block.error = what + " (block " + std::to_string(block.block.x) + ", thread " +
                std::to_string(block.running->number) + ")";
  block.running->state = State::done;
  leave();
}

inline void start_fiber() {
  Block& block = *current();
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &block.main_stack, &block.main_stack_bytes);
#endif
  block.body();
  if (!block.running->copies.empty()) fail("a background copy was never waited for");
  block.running->state = State::done;
  leave(true);
}

inline void meet(State where, Completion completion, void* argument) {
  Fiber& fiber = *current()->running;
  fiber.state = where;
  fiber.completion = completion;
  fiber.argument = argument;
  leave();
}

// Lets the fibers first..last go on if all of them wait at the same operation.
inline bool release(Block& block, int first, int last, State where) {
  void* arguments[1024];
  for (int i = first; i < last; ++i) {
    if (block.fibers[i]->state != where) return false;
    arguments[i - first] = block.fibers[i]->argument;
  }
  for (int i = first; i < last; ++i) {
    if (block.fibers[i]->completion != block.fibers[first]->completion) {
      block.error = "threads wait at different barriers or warp operations";
      return false;
    }
  }
  block.fibers[first]->completion(arguments, last - first);
  for (int i = first; i < last; ++i) block.fibers[i]->state = State::ready;
  return true;
}

inline void draw_priorities(Block& block) {
  for (double& value : block.priority) {
    value = static_cast<double>(block.random() >> 11) * 0x1p-53;
  }
}

inline void run_block(Block& block) {
  const int count = static_cast<int>(block.fibers.size());
  const int warps = (count + 31) / 32;
  draw_priorities(block);
  std::vector<int> lanes(32);
  for (;;) {
    std::vector<int> order(warps);
    for (int w = 0; w < warps; ++w) order[w] = w;
    std::sort(order.begin(), order.end(),
              [&](int a, int b) { return block.priority[a] < block.priority[b]; });
    bool moved = false;
    for (const int warp : order) {
      const int first = warp * 32, last = std::min(count, first + 32);
      lanes.clear();
      for (int i = first; i < last; ++i) {
        if (block.fibers[i]->state == State::ready) lanes.push_back(i);
      }
      if (lanes.empty()) continue;
      std::rotate(lanes.begin(), lanes.begin() + block.random() % lanes.size(), lanes.end());
      if (block.random() & 1) std::reverse(lanes.begin(), lanes.end());
      for (const int i : lanes) {
        enter(*block.fibers[i]);
        if (!block.error.empty()) return;
      }
      release(block, first, last, State::at_warp);
      if (!block.error.empty()) return;
      moved = true;
      break;  // the warp of the highest priority runs on until it waits for others
    }
    if (moved) continue;
    if (release(block, 0, count, State::at_block)) {
      draw_priorities(block);
      continue;
    }
    if (!block.error.empty()) return;
    for (const auto& fiber : block.fibers) {
      if (fiber->state != State::done) {
        block.error = "a barrier or warp operation is not reached by all its threads (block " +
                      std::to_string(block.block.x) + ")";
        return;
      }
    }
    return;
  }
}

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), std::int64_t blocks, int threads, int shared_bytes,
            Stream, Arguments... arguments) {
#if defined(__SANITIZE_ADDRESS__)
  constexpr std::size_t kStack = 512 << 10;
#else
  constexpr std::size_t kStack = 64 << 10;
#endif
  Block block;
  current() = &block;
  for (int i = 0; i < threads; ++i) {
    block.fibers.push_back(std::make_unique<Fiber>());
    block.fibers.back()->stack.resize(kStack);
  }
  block.priority.resize((threads + 31) / 32);
  block.body = [&] { kernel(static_cast<Parameters>(arguments)...); };
  block.grid = {static_cast<unsigned>(blocks)};
  block.threads = {static_cast<unsigned>(threads)};
  block.random.seed(seed());
  block.shared_bytes = shared_bytes;
  for (std::int64_t b = 0; b < blocks && block.error.empty(); ++b) {
    block.block = {static_cast<unsigned>(b)};
    // Exactly the bytes asked for, aligned at their start: a step beyond leaves the allocation.
    block.memory.assign(shared_bytes + 128, 0xff);
    block.memory.shrink_to_fit();
    void* aligned = block.memory.data();
    std::size_t space = block.memory.size();
    block.shared = static_cast<unsigned char*>(std::align(128, shared_bytes, aligned, space));
    for (int i = 0; i < threads; ++i) {
      Fiber& fiber = *block.fibers[i];
      fiber.state = State::ready;
      fiber.number = i;
      fiber.group = 0;
      fiber.copies.clear();
      ucontext_t& first = fiber.context.first;
      fiber.context.left = false;
      getcontext(&first);
      first.uc_stack.ss_sp = fiber.stack.data();
      first.uc_stack.ss_size = fiber.stack.size();
      first.uc_link = nullptr;
      makecontext(&first, start_fiber, 0);
    }
    run_block(block);
  }
  current() = nullptr;
  if (!block.error.empty()) throw std::runtime_error(block.error);
}

inline void fill(void* at, int byte, std::int64_t bytes, Stream) {
  std::memset(at, byte, static_cast<std::size_t>(bytes));
}
inline void clear(void* at, std::size_t bytes, Stream stream) {
  fill(at, 0, static_cast<std::int64_t>(bytes), stream);
}

template <class T, int count>
struct Registers {
  T value[count];
  Registers() { std::memset(static_cast<void*>(value), 0xff, sizeof(value)); }
  T& operator[](int i) { return value[i]; }
  const T& operator[](int i) const { return value[i]; }
};

inline unsigned char* shared() { return current()->shared; }

inline void nothing(void**, int) {}
inline void nothing_warp(void**, int) {}
inline void sync() { meet(State::at_block, nothing, nullptr); }
inline void sync_warp() { meet(State::at_warp, nothing_warp, nullptr); }
inline bool sync_or(bool value) {
  meet(
      State::at_block,
      [](void** values, int count) {
        bool any = false;
        for (int i = 0; i < count; ++i) any |= *static_cast<bool*>(values[i]);
        for (int i = 0; i < count; ++i) *static_cast<bool*>(values[i]) = any;
      },
      &value);
  return value;
}
inline unsigned ballot(bool value) {
  unsigned mask = value;
  meet(
      State::at_warp,
      [](void** values, int count) {
        unsigned all = 0;
        for (int i = 0; i < count; ++i) all |= *static_cast<unsigned*>(values[i]) << i;
        for (int i = 0; i < count; ++i) *static_cast<unsigned*>(values[i]) = all;
      },
      &mask);
  return mask;
}
template <class T>
T shuffle(T value, int lane) {
  struct Exchange {
    T value;
    int lane;
  } exchange{value, lane};
  meet(
      State::at_warp,
      [](void** values, int count) {
        T before[32];
        for (int i = 0; i < count; ++i) before[i] = static_cast<Exchange*>(values[i])->value;
        for (int i = 0; i < count; ++i) {
          Exchange& e = *static_cast<Exchange*>(values[i]);
          e.value = before[e.lane & 31];
        }
      },
      &exchange);
  return exchange.value;
}
template <class T>
T shuffle_xor(T value, int mask) {
  return shuffle(value, (current()->running->number ^ mask) & 31);
}

// Fibers change only at barriers and warp operations, so these need no more.
template <class T>
T atomic_add(T* at, T value) {
  return std::exchange(*at, *at + value);
}
inline unsigned long long atomic_max(unsigned long long* at, unsigned long long value) {
  return std::exchange(*at, std::max(*at, value));
}
inline unsigned long long latest(const unsigned long long* at) { return *at; }
inline void atomic_min(unsigned long long* at, unsigned long long value) {
  *at = std::min(*at, value);
}

inline bool in_shared(const void* at, std::size_t bytes) {
  const Block& block = *current();
  const auto* p = static_cast<const unsigned char*>(at);
  return p >= block.shared && p + bytes <= block.shared + block.shared_bytes;
}
inline bool aligned16(const void* at) { return reinterpret_cast<std::uintptr_t>(at) % 16 == 0; }

inline void copy16(void* to, const void* from) {
  if (!in_shared(to, 16)) fail("a background copy leaves the shared memory");
  if (!aligned16(to) || !aligned16(from)) fail("a background copy is not aligned");
  Fiber& fiber = *current()->running;
  std::memset(to, 0xff, 16);
  fiber.copies.push_back({to, from, fiber.group});
}
inline void commit() { ++current()->running->group; }
template <int left>
void wait() {
  Fiber& fiber = *current()->running;
  std::vector<Copy> later;
  for (const Copy& copy : fiber.copies) {
    if (copy.group < fiber.group - left) {
      std::memcpy(copy.to, copy.from, 16);
    } else {
      later.push_back(copy);
    }
  }
  fiber.copies = later;
}

struct Matrices {
  std::uint32_t* out;
  const void* row;
};
inline void load_matrices(std::uint32_t* out, const void* row) {
  if (!in_shared(row, 16) || !aligned16(row)) fail("ldmatrix outside the shared memory");
  Matrices mine{out, row};
  meet(
      State::at_warp,
      [](void** values, int) {
        for (int lane = 0; lane < 32; ++lane) {
          for (int k = 0; k < 4; ++k) {
            const void* from = static_cast<Matrices*>(values[8 * k + lane / 4])->row;
            std::memcpy(&static_cast<Matrices*>(values[lane])->out[k],
                        static_cast<const unsigned char*>(from) + 4 * (lane % 4), 4);
          }
        }
      },
      &mine);
}

struct Product {
  float* c;
  const std::uint32_t* a;
  const std::uint32_t* b;
};
template <bool bfloat>
void mma(float* c, const std::uint32_t* a, const std::uint32_t* b) {
  Product mine{c, a, b};
  meet(
      State::at_warp,
      [](void** values, int) {
        const auto value = [](std::uint32_t word, int high) {
          const auto part = static_cast<std::uint16_t>(high ? word >> 16 : word);
          return static_cast<double>(bfloat ? from_bfloat(part) : from_half(part));
        };
        double left[16][16], right[16][8];
        for (int lane = 0; lane < 32; ++lane) {
          const Product& p = *static_cast<Product*>(values[lane]);
          const int g = lane / 4, t = lane % 4;
          for (int i = 0; i < 2; ++i) {
            for (int part = 0; part < 4; ++part) {
              left[g + 8 * (part & 1)][2 * t + 8 * (part >> 1) + i] = value(p.a[part], i);
            }
            for (int part = 0; part < 2; ++part) {
              right[2 * t + 8 * part + i][g] = value(p.b[part], i);
            }
          }
        }
        for (int lane = 0; lane < 32; ++lane) {
          const Product& p = *static_cast<Product*>(values[lane]);
          for (int i = 0; i < 4; ++i) {
            const int row = lane / 4 + 8 * (i >> 1), column = 2 * (lane % 4) + (i & 1);
            double terms[16];
            for (int k = 0; k < 16; ++k) terms[k] = left[row][k] * right[k][column];
            const int step = mma_group();
            for (int k = 0; k < 16; k += step) p.c[i] = add_cut(p.c[i], terms + k, step);
          }
        }
      },
      &mine);
}

struct DoubleProduct {
  double* c;
  double a, b;
};
inline void mma_double(double* c, double a, double b) {
  DoubleProduct mine{c, a, b};
  meet(
      State::at_warp,
      [](void** values, int) {
        const auto lane_of = [&](int lane) -> const DoubleProduct& {
          return *static_cast<DoubleProduct*>(values[lane]);
        };
        for (int lane = 0; lane < 32; ++lane) {
          for (int e = 0; e < 2; ++e) {
            const int row = lane / 4, column = 2 * (lane % 4) + e;
            double& sum = lane_of(lane).c[e];
            for (int k = 0; k < 4; ++k) {
              sum = std::fma(lane_of(4 * row + k).a, lane_of(4 * column + k).b, sum);
            }
          }
        }
      },
      &mine);
}

}  // namespace fastdim::simt

using uint4 = fastdim::simt::Four;
using std::max;
using std::min;

#define threadIdx (::fastdim::simt::thread_index())
#define blockIdx (::fastdim::simt::current()->block)
#define gridDim (::fastdim::simt::current()->grid)
#define blockDim (::fastdim::simt::current()->threads)
