// The twins of cuda/tensor_core.h's functions, from what NVIDIA's manual of PTX says that they do.
#pragma once

#include "cuda/elements.h"

namespace modnas_fast::cuda {

inline char* shared_memory() { return static_cast<char*>(emulation::shared_memory()); }

inline uint32_t shared_address(const void* data) {
  return static_cast<uint32_t>(static_cast<const char*>(data) - shared_memory());
}

inline void wait_for_launch_before() {
  if (emulation::waits) emulation::wait_for_launch_before();
}

inline void copy_chunk(uint32_t to, const void* from, bool there) {
  if (to % 16 != 0 || reinterpret_cast<uintptr_t>(from) % 16 != 0) std::abort();  // the device would fault
  emulation::copy_later({shared_memory() + to, from, there});
}
inline void wait_for_copies() {
  if (emulation::waits_for_copies) emulation::finish_copies();
}

inline void load_matrices(uint32_t (&matrices)[4], uint32_t address) {
  const emulation::Exchanged<uint32_t> rows(emulation::kAllLanes, address);
  const unsigned lane = emulation::lane();
  for (unsigned i = 0; i < 4; ++i) {
    const uint32_t row = rows[8 * i + lane / 4];
    if (row % 16 != 0) std::abort();  // the device would fault
    std::memcpy(&matrices[i], shared_memory() + row + 4 * (lane % 4), 4);
  }
}

template <typename Type>
void multiply_add(float (&sums)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  struct Operands {
    uint32_t a[4], b[2];
  };
  const emulation::Exchanged<Operands> all(emulation::kAllLanes, {{a[0], a[1], a[2], a[3]}, {b0, b1}});
  const unsigned g = emulation::lane() / 4, t = emulation::lane() % 4;
  for (unsigned high = 0; high < 2; ++high) {
    for (unsigned k = 0; k < 4; ++k) {
      const Operands first = all[2 * t * 4 + k], second = all[(2 * t + 1) * 4 + k], rows = all[g * 4 + k];
      const float2 b_first = Type::floats(first.b[high]), b_second = Type::floats(second.b[high]);
      for (unsigned half = 0; half < 2; ++half) {
        const float2 value = Type::floats(rows.a[2 * high + half]);
        sums[2 * half] += value.x * b_first.x + value.y * b_first.y;
        sums[2 * half + 1] += value.x * b_second.x + value.y * b_second.y;
      }
    }
  }
}

}  // namespace modnas_fast::cuda
