#include "threads.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace fastdim {

void parallel_for(std::int64_t count, int threads, const std::function<void()>& poll,
                  const std::function<void(std::int64_t index, int worker)>& body) {
  std::atomic<std::int64_t> next{0};
  std::exception_ptr failure;
  std::mutex failure_lock;

  const auto work = [&](int worker) {
    try {
      for (;;) {
        if (worker == 0 && poll) poll();
        const std::int64_t index = next.fetch_add(1);
        if (index >= count) return;
        body(index, worker);
      }
    } catch (...) {
      next.store(count);
      const std::lock_guard<std::mutex> hold(failure_lock);
      if (!failure) failure = std::current_exception();
    }
  };

  std::vector<std::thread> others;
  const std::int64_t wanted = std::min<std::int64_t>(threads, count);
  try {
    for (int worker = 1; worker < wanted; ++worker) others.emplace_back(work, worker);
  } catch (...) {
    next.store(count);
    for (std::thread& thread : others) thread.join();
    throw;
  }
  work(0);
  for (std::thread& thread : others) thread.join();
  if (failure) std::rethrow_exception(failure);
}

}  // namespace fastdim
