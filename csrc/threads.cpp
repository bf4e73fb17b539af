#include "threads.h"

namespace modnas_fast {

namespace {

// Layers follow each other within microseconds, and waking a sleeping thread takes tens of them. Some 0.1 to 0.2 ms.
constexpr int kSpins = 4000;

template <typename Condition>
bool spin_until(const Condition& condition) {
  for (int spin = 0; spin < kSpins; ++spin) {
    if (condition()) return true;
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
  }
  return false;
}

}  // namespace

Threads::Threads(int size) : shares_(static_cast<size_t>(size)) {
  for (int thread = 1; thread < size; ++thread) workers_.emplace_back([this, thread] { work(thread); });
}

Threads::~Threads() {
  stop_ = true;
  wake(started_);
  for (std::thread& worker : workers_) worker.join();
}

void Threads::run(int64_t count, const std::function<void(int64_t, int)>& task) {
  task_ = &task;
  const int64_t threads = size();
  for (int64_t thread = 0; thread < threads; ++thread) {
    shares_[thread].next = count * thread / threads;
    shares_[thread].end = count * (thread + 1) / threads;
  }
  if (workers_.empty() || count < 2) {
    take_tasks(0);
    return;
  }
  busy_ = static_cast<int>(workers_.size());
  ++round_;
  wake(started_);
  take_tasks(0);
  wait_for(finished_, [this] { return busy_ == 0; });
}

void Threads::take_tasks(int thread) {
  const size_t threads = shares_.size();
  for (size_t turn = 0; turn < threads; ++turn) {
    Share& share = shares_[(thread + turn) % threads];
    for (int64_t index = share.next++; index < share.end; index = share.next++) (*task_)(index, thread);
  }
}

void Threads::work(int thread) {
  for (uint64_t done = 0;; ++done) {
    wait_for(started_, [&] { return round_ != done || stop_; });
    if (stop_) return;
    take_tasks(thread);
    if (--busy_ == 0) wake(finished_);
  }
}

// Whoever waits announces it before it looks at its condition for the last time, and whoever makes the condition true
// looks for announcements afterwards: one of the two sees the other. So nobody takes the lock while all are awake.
template <typename Condition>
void Threads::wait_for(Signal& signal, const Condition& condition) {
  if (spin_until(condition)) return;
  std::unique_lock<std::mutex> lock(mutex_);
  ++signal.sleepers;
  signal.changed.wait(lock, condition);
  --signal.sleepers;
}

void Threads::wake(Signal& signal) {
  if (signal.sleepers == 0) return;
  { std::lock_guard<std::mutex> lock(mutex_); }  // a sleeper holds it until it really sleeps
  signal.changed.notify_all();
}

}  // namespace modnas_fast
