#include <cstring>

#include "cpu/kernels.h"
#include "cpu/training.h"

namespace modnas_fast {

namespace {

constexpr int64_t kLine = 16;  // floats in a cache line

bool runs(const Kernels& kernels) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (std::strcmp(kernels.name, "avx512") == 0) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("fma");
  }
  if (std::strcmp(kernels.name, "avx2") == 0) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  }
#endif
  return true;
}

}  // namespace

const Kernels* select_kernels(const char* name) {
  // The build says which variants it has.
  const Kernels* const candidates[] = {
#if defined(MODNAS_FAST_AVX512)
      &avx512::kernels,
#endif
#if defined(MODNAS_FAST_AVX2)
      &avx2::kernels,
#endif
      &portable::kernels};
  for (const Kernels* candidate : candidates) {
    if (runs(*candidate) && (name == nullptr || std::strcmp(name, candidate->name) == 0)) return candidate;
  }
  return nullptr;
}

int64_t winograd_scratch(int64_t channels_in, int64_t channels_out) {
  return 36 * (kWinogradTiles * (winograd_stride(channels_in) + winograd_stride(channels_out)) + 2 * kLine) + 3 * kLine;
}

int64_t convolution_scratch(int64_t kernel, int64_t channels_in, int64_t channels_out) {
  const int64_t points = 4 + kernel - 1, run = 8 * 4 + kernel - 1;
  const int64_t lines = (channels_in + kLine - 1) / kLine + (channels_out + kLine - 1) / kLine;
  const int64_t widest = channels_in < channels_out ? channels_out : channels_in;
  return points * points * (kTrainingTiles * lines + 2) * kLine + points * run * widest + kLine;
}

int64_t separable_scratch(int64_t channels_in) { return kSeparablePixels * separable_stride(channels_in) + kLine; }

}  // namespace modnas_fast
