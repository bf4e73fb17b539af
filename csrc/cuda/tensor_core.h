// What has no name in CUDA C++: shared memory's addresses, the two instructions that tensor cores are used by, and those
// by which copies and launches overlap with what else there is to do. The only file with PTX; tests that run kernels on
// the CPU have a twin of each function.
#pragma once

#include "cuda/elements.h"

#if defined(__CUDACC__)

namespace modnas_fast::cuda {

__device__ __forceinline__ char* shared_memory() {
  extern __shared__ uint4 memory[];
  return reinterpret_cast<char*>(memory);
}

__device__ __forceinline__ uint32_t shared_address(const void* data) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(data));
}

// Returns when the launch before has ended and what it wrote can be read; then the launch after may begin. Every thread
// that does anything calls it once: before, it reads nothing that launches write, and writes nothing that they read.
__device__ __forceinline__ void wait_for_launch_before() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" : : : "memory");
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}

// 16 bytes to shared memory, zeros where they are not `there`; under way until wait_for_copies(). What it reads is no
// kernel's constant: while this launch begins, the one before may still be writing.
__device__ __forceinline__ void copy_chunk(uint32_t to, const void* from, bool there) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" : : "r"(to), "l"(from), "r"(there ? 16 : 0) : "memory");
#else
  uint32_t v[4] = {};
  if (there) {
    asm volatile("ld.global.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v[0]), "=r"(v[1]), "=r"(v[2]), "=r"(v[3])
                 : "l"(from));
  }
  asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};"
               : : "r"(to), "r"(v[0]), "r"(v[1]), "r"(v[2]), "r"(v[3]) : "memory");
#endif
}

// This thread's copies are there, for itself to see; for others behind a barrier.
__device__ __forceinline__ void wait_for_copies() {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_all;" : : : "memory");
#endif
}

// Four 8×8 matrices of halves: lane i gives the address of row i % 8 of matrix i / 8, and gets of every matrix the
// elements (i / 4, 2·(i % 4)) and the next.
__device__ __forceinline__ void load_matrices(uint32_t (&matrices)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(matrices[0]), "=r"(matrices[1]), "=r"(matrices[2]), "=r"(matrices[3])
               : "r"(address)
               : "memory");
}

template <typename Type>
__device__ __forceinline__ void multiply_add(float (&sums)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);

// sums [16, 8] += a [16, 16] · b [16, 8]. With g = lane / 4 and t = 2·(lane % 4): a holds the pairs (g, t), (g + 8, t),
// (g, t + 8), (g + 8, t + 8); b (t, g) and (t + 8, g), pairs along the rows; sums (g, t) and (g, t + 1), then of g + 8.
template <>
__device__ __forceinline__ void multiply_add<Float16>(float (&sums)[4], const uint32_t (&a)[4], uint32_t b0,
                                                      uint32_t b1) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else  // Turing's takes half the depth, and halves of the same operands
  asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(b0));
  asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a[2]), "r"(a[3]), "r"(b1));
#endif
}

template <>
__device__ __forceinline__ void multiply_add<Bfloat16>(float (&sums)[4], const uint32_t (&a)[4], uint32_t b0,
                                                       uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

}  // namespace modnas_fast::cuda

#else
#include <emulated_tensor_core.h>
#endif
