// Runs CUDA sources on the CPU, for tests: what the language adds to C++, as far as this project's kernels use it.
//
// Compile a .cu file by `g++ -x c++ -std=c++17 -I csrc/tests/cuda`. Every thread of a block is a fiber, which runs
// until it waits for others; blocks run one after another. Threads that need not wait for each other run in an order
// that tests choose, so that a missing barrier gives wrong results under one order or another. Shared memory is dynamic
// alone, holds NaN at first, and has pages without access around it. One launch runs at a time in a process.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <utility>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(bytes) alignas(bytes)
#define __grid_constant__

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

inline uint3 threadIdx, blockIdx;
inline dim3 blockDim, gridDim;
constexpr int warpSize = 32;

namespace emulation {

constexpr unsigned kAllLanes = 0xFFFFFFFFu;

// Which of the threads that could run runs next.
struct Order {
  bool descending = false;   // lanes, warps and blocks
  bool depth_first = false;  // one warp as far as it goes before another begins; otherwise in turns
};
inline Order order;

// What the launch before the next one did, to be done when that one waits for it; empty: there is none, or it has ended.
inline std::function<void()> launch_before;
inline void wait_for_launch_before() {
  if (launch_before) std::exchange(launch_before, nullptr)();
}

// Copies of 16 bytes, or so many zeros, that a thread has under way: done when it waits for them, or never.
struct Copy {
  char* to;
  const void* from;
  bool there;
};
void copy_later(const Copy& copy);
void finish_copies();

// Planted errors: the so-manyth __syncthreads, or __syncwarp, of a thread holds back nobody; no launch waits; no
// copies are waited for.
inline int skipped_barrier = -1, skipped_warp_barrier = -1;
inline bool waits = true, waits_for_copies = true;

void run(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& thread);

void* shared_memory();  // of the running block
size_t shared_bytes();
void block_barrier();
void warp_barrier(unsigned lanes);  // of any instruction that lanes take together
void explicit_warp_barrier(unsigned lanes);
char* warp_slots();  // 32 places of kSlotBytes, the same for all lanes until the next but one call of each
constexpr size_t kSlotBytes = 32;

inline unsigned lane() { return (threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z)) % 32; }

// What every lane of `lanes` gave, for each of them to see.
template <typename T>
class Exchanged {
 public:
  Exchanged(unsigned lanes, const T& value) : slots_(warp_slots()) {
    static_assert(sizeof(T) <= kSlotBytes, "a slot is smaller");
    std::memcpy(slots_ + lane() * kSlotBytes, &value, sizeof(T));
    warp_barrier(lanes);
  }
  T operator[](unsigned lane) const {
    T value;
    std::memcpy(&value, slots_ + lane % 32 * kSlotBytes, sizeof(T));
    return value;
  }

 private:
  char* slots_;
};

}  // namespace emulation

inline void __syncthreads() { emulation::block_barrier(); }
inline void __syncwarp(unsigned lanes = emulation::kAllLanes) { emulation::explicit_warp_barrier(lanes); }

template <typename T>
T __shfl_sync(unsigned lanes, T value, int source, int width = 32) {
  const unsigned lane = emulation::lane();
  return emulation::Exchanged<T>(lanes, value)[lane / width * width + source % width];
}
template <typename T>
T __shfl_xor_sync(unsigned lanes, T value, int mask, int width = 32) {
  const unsigned lane = emulation::lane(), source = lane ^ mask;
  return emulation::Exchanged<T>(lanes, value)[source / width <= lane / width ? source : lane];
}
template <typename T>
T __shfl_down_sync(unsigned lanes, T value, unsigned delta, int width = 32) {
  const unsigned lane = emulation::lane();
  return emulation::Exchanged<T>(lanes, value)[lane % width + delta < unsigned(width) ? lane + delta : lane];
}
template <typename T>
T __shfl_up_sync(unsigned lanes, T value, unsigned delta, int width = 32) {
  const unsigned lane = emulation::lane();
  return emulation::Exchanged<T>(lanes, value)[lane % width >= delta ? lane - delta : lane];
}
inline unsigned __ballot_sync(unsigned lanes, int predicate) {
  const emulation::Exchanged<int> all(lanes, predicate);
  unsigned result = 0;
  for (unsigned i = 0; i < 32; ++i) {
    if ((lanes >> i & 1) != 0 && all[i] != 0) result |= 1u << i;
  }
  return result;
}
inline int __any_sync(unsigned lanes, int predicate) { return __ballot_sync(lanes, predicate) != 0; }
inline int __all_sync(unsigned lanes, int predicate) { return __ballot_sync(lanes, predicate) == lanes; }

template <typename T>
T __ldg(const T* address) {
  return *address;
}
inline int atomicOr(int* address, int value) {
  const int before = *address;
  *address |= value;
  return before;
}
inline unsigned __float_as_uint(float value) {
  unsigned bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}
inline float __uint_as_float(unsigned bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}
inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }
