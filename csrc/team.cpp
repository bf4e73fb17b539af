#include "team.h"

#include <dlfcn.h>

#include <atomic>
#include <thread>
#include <vector>

namespace modnas_fast {

namespace {

struct Loop {
  std::atomic<int64_t> next{0};
  std::atomic<int> threads{0};
  int64_t count;
  const std::function<void(int64_t, int)>& task;

  void run() {
    const int thread = threads++;
    for (int64_t index = next++; index < count; index = next++) task(index, thread);
  }
};

// GCC's entry into a parallel region; LLVM's runtime offers it as well.
using Parallel = void (*)(void (*)(void*), void*, unsigned threads, unsigned flags);

Parallel loaded_runtime() {
  static const Parallel parallel = reinterpret_cast<Parallel>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
  return parallel;
}

}  // namespace

void run_in_team(int threads, int64_t count, const std::function<void(int64_t, int)>& task) {
  Loop loop{{}, {}, count, task};
  if (threads < 2 || count < 2) return loop.run();
  if (const Parallel parallel = loaded_runtime()) {
    return parallel([](void* data) { static_cast<Loop*>(data)->run(); }, &loop, static_cast<unsigned>(threads), 0);
  }
  std::vector<std::thread> others;
  for (int thread = 1; thread < threads; ++thread) others.emplace_back([&loop] { loop.run(); });
  loop.run();
  for (std::thread& other : others) other.join();
}

}  // namespace modnas_fast
