#include "emulation.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "fibers.h"

namespace emulation {

namespace {

enum class State { kReady, kAtWarpBarrier, kAtBlockBarrier, kEnded };

struct Thread {
  uint3 index;
  State state;
  unsigned lanes;     // that it waits for at a warp barrier
  int exchanges;      // so far: two sets of slots take turns
  int barriers;       // of the block, so far
  int warp_barriers;
  std::vector<Copy> copies;
};

std::vector<Thread> threads;
std::vector<char> slots;  // [warps, 2, 32, kSlotBytes]
int current;
char* shared_begin;
size_t shared_size;

[[noreturn]] void fail(const char* what) {
  std::printf("emulated kernel: %s (block %u, %u, %u; thread %d)\n", what, blockIdx.x, blockIdx.y, blockIdx.z, current);
  std::fflush(stdout);
  std::abort();
}

// Ends at a page without access, and begins after one.
class GuardedMemory {
 public:
  explicit GuardedMemory(size_t bytes) : page_(sysconf(_SC_PAGESIZE)) {
    const size_t usable = (bytes + page_ - 1) / page_ * page_;
    total_ = usable + 2 * page_;
    memory_ = static_cast<char*>(mmap(nullptr, total_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (memory_ == MAP_FAILED || mprotect(memory_ + page_, usable, PROT_READ | PROT_WRITE) != 0) {
      fail("no memory for shared memory");
    }
    begin_ = memory_ + page_ + usable - bytes;
  }
  ~GuardedMemory() { munmap(memory_, total_); }
  GuardedMemory(const GuardedMemory&) = delete;
  GuardedMemory& operator=(const GuardedMemory&) = delete;
  char* begin() const { return begin_; }

 private:
  size_t page_, total_;
  char *memory_, *begin_;
};

void wait(State state) {
  threads[current].state = state;
  suspend_fiber();
}

void run_until_it_waits(int index) {
  current = index;
  threadIdx = threads[index].index;
  resume_fiber(index);
}

bool step_warp(int warp) {
  const int begin = warp * 32, end = std::min<int>(begin + 32, static_cast<int>(threads.size()));
  bool stepped = false;
  for (int i = 0; i < end - begin; ++i) {
    const int index = order.descending ? end - 1 - i : begin + i;
    if (threads[index].state != State::kReady) continue;
    run_until_it_waits(index);
    stepped = true;
  }
  return stepped;
}

void run_block() {
  const int warps = (static_cast<int>(threads.size()) + 31) / 32;
  while (true) {
    bool stepped = false;
    for (int i = 0; i < warps; ++i) {
      const int warp = order.descending ? warps - 1 - i : i;
      bool more = step_warp(warp);
      stepped |= more;
      while (order.depth_first && more) more = step_warp(warp);
    }
    if (stepped) continue;
    bool all_ended = true, all_arrived = true;
    for (const Thread& thread : threads) {
      all_ended &= thread.state == State::kEnded;
      all_arrived &= thread.state == State::kEnded || thread.state == State::kAtBlockBarrier;
    }
    if (all_ended) return;
    if (!all_arrived) fail("some lanes wait for others that never come");
    for (Thread& thread : threads) {
      if (thread.state == State::kAtBlockBarrier) thread.state = State::kReady;
    }
  }
}

}  // namespace

void run(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& thread) {
  const size_t count = size_t{block.x} * block.y * block.z;
  if (count == 0 || count > kMostFibers || size_t{grid.x} * grid.y * grid.z == 0 || grid.y > 65535 || grid.z > 65535) {
    fail("a grid or block of impossible size");
  }
  if (shared_bytes % 16 != 0) fail("shared memory whose end is not a multiple of 16 bytes");
  const std::function<void()> body = [&thread] {
    thread();
    threads[current].state = State::kEnded;
  };
  blockDim = block;
  gridDim = grid;
  const GuardedMemory memory(shared_bytes);
  shared_begin = memory.begin();
  shared_size = shared_bytes;
  threads.assign(count, {});
  slots.assign((count + 31) / 32 * 2 * 32 * kSlotBytes, 0);
  const unsigned blocks = grid.x * grid.y * grid.z;
  for (unsigned i = 0; i < blocks; ++i) {
    const unsigned number = order.descending ? blocks - 1 - i : i;
    blockIdx = {number % grid.x, number / grid.x % grid.y, number / grid.x / grid.y};
    std::memset(shared_begin, 0xFF, shared_bytes);  // NaN in every element type
    for (unsigned t = 0; t < count; ++t) {
      threads[t] = {{t % block.x, t / block.x % block.y, t / block.x / block.y}, State::kReady, 0, 0, 0, 0, {}};
      prepare_fiber(static_cast<int>(t), &body);
    }
    run_block();
  }
}

void* shared_memory() { return shared_begin; }
size_t shared_bytes() { return shared_size; }

void copy_later(const Copy& copy) { threads[current].copies.push_back(copy); }

void finish_copies() {
  for (const Copy& copy : threads[current].copies) {
    if (copy.there) std::memcpy(copy.to, copy.from, 16);
    if (!copy.there) std::memset(copy.to, 0, 16);
  }
  threads[current].copies.clear();
}

void block_barrier() {
  if (threads[current].barriers++ != skipped_barrier) wait(State::kAtBlockBarrier);
}

void warp_barrier(unsigned lanes) {
  Thread& self = threads[current];
  const int warp = current / 32 * 32;
  if ((lanes >> (current % 32) & 1) == 0) fail("a lane waits for others, but not for itself");
  self.lanes = lanes;
  bool last = true;
  for (int i = 0; i < 32; ++i) {
    if ((lanes >> i & 1) == 0 || warp + i == current) continue;
    if (warp + i >= static_cast<int>(threads.size())) fail("a lane waits for one that the block does not have");
    const Thread& other = threads[warp + i];
    if (other.state == State::kEnded) fail("a lane waits for one that has ended");
    if (other.state == State::kAtWarpBarrier && other.lanes != lanes) fail("lanes disagree about whom to wait for");
    last &= other.state == State::kAtWarpBarrier;
  }
  if (!last) {
    wait(State::kAtWarpBarrier);
    return;
  }
  for (int i = 0; i < 32; ++i) {
    if ((lanes >> i & 1) != 0) threads[warp + i].state = State::kReady;
  }
}

void explicit_warp_barrier(unsigned lanes) {
  if (threads[current].warp_barriers++ != skipped_warp_barrier) warp_barrier(lanes);
}

char* warp_slots() {
  const int set = threads[current].exchanges++ % 2;
  return slots.data() + (current / 32 * 2 + set) * 32 * kSlotBytes;
}

}  // namespace emulation
