// A fixed team of threads for loops inside one image.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace modnas_fast {

// `run` shares the tasks of a loop among the calling thread and size − 1 others, which live as long as the team. Every
// thread begins with the same share of neighbouring tasks each time, so that it finds in its cache what it wrote there
// for the loop before; then it helps the others. Tasks are taken one by one, so that uneven ones and busy cores balance.
// One `run` at a time.
class Threads {
 public:
  explicit Threads(int size);
  ~Threads();
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;

  int size() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls task(index, thread) for every index in 0…count − 1; `thread` is 0…size − 1. Tasks must not throw.
  void run(int64_t count, const std::function<void(int64_t, int)>& task);

 private:
  struct Signal {
    std::condition_variable changed;
    std::atomic<int> sleepers{0};
  };

  struct alignas(64) Share {  // a cache line each
    std::atomic<int64_t> next{0};
    int64_t end = 0;
  };

  void work(int thread);
  void take_tasks(int thread);
  template <typename Condition>
  void wait_for(Signal& signal, const Condition& condition);
  void wake(Signal& signal);

  std::mutex mutex_;
  Signal started_, finished_;
  std::atomic<uint64_t> round_{0};  // counts the runs; a worker waits for the next one
  std::atomic<int> busy_{0};        // workers that have not finished the round
  std::atomic<bool> stop_{false};
  std::vector<Share> shares_;  // of the loop's tasks, one a thread
  const std::function<void(int64_t, int)>* task_ = nullptr;
  std::vector<std::thread> workers_;  // last: they use the rest
};

}  // namespace modnas_fast
