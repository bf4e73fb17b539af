#include "threads.h"

namespace modnas_fast {

namespace {

// Layers follow each other within microseconds, and waking a sleeping thread takes tens of them.
constexpr int kSpins = 4000;

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

}  // namespace

Threads::Threads(int size) {
  for (int thread = 1; thread < size; ++thread) workers_.emplace_back([this, thread] { work(thread); });
}

Threads::~Threads() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
  }
  started_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void Threads::run(int64_t count, const std::function<void(int64_t, int)>& task) {
  count_ = count;
  task_ = &task;
  next_ = 0;
  if (workers_.empty() || count < 2) {
    take_tasks(0);
    return;
  }
  {
    std::lock_guard<std::mutex> lock(mutex_);
    busy_ = static_cast<int>(workers_.size());
    ++round_;
  }
  started_.notify_all();
  take_tasks(0);
  for (int spin = 0; spin < kSpins && busy_ > 0; ++spin) pause();
  std::unique_lock<std::mutex> lock(mutex_);
  finished_.wait(lock, [this] { return busy_ == 0; });
}

void Threads::take_tasks(int thread) {
  for (int64_t index = next_++; index < count_; index = next_++) (*task_)(index, thread);
}

void Threads::work(int thread) {
  for (uint64_t done = 0;; ++done) {
    for (int spin = 0; spin < kSpins && round_ == done && !stop_; ++spin) pause();
    {
      std::unique_lock<std::mutex> lock(mutex_);
      started_.wait(lock, [&] { return round_ != done || stop_; });
      if (stop_) return;
    }
    take_tasks(thread);
    std::lock_guard<std::mutex> lock(mutex_);
    if (--busy_ == 0) finished_.notify_one();
  }
}

}  // namespace modnas_fast
