#include <cstring>
#include <stdexcept>
#include <string>

#include "cpu/kernels.h"
#include "cpu/training.h"

namespace modnas_fast {

namespace {

constexpr int64_t kLine = 16;  // floats in a cache line

bool runs(const Kernels& kernels) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (std::strncmp(kernels.name, "avx512", 6) == 0) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("fma") &&
           (std::strcmp(kernels.name, "avx512_bf16") != 0 || __builtin_cpu_supports("avx512bf16"));
  }
  if (std::strcmp(kernels.name, "avx2") == 0) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  }
#endif
  return true;
}

}  // namespace

const Kernels* select_kernels(const char* name, Storage storage) {
  // The build says which variants it has.
  const Kernels* const candidates[] = {
#if defined(MODNAS_FAST_AVX512_BF16)
      &avx512_bf16::kernels,
#endif
#if defined(MODNAS_FAST_AVX512)
      &avx512::kernels,
#endif
#if defined(MODNAS_FAST_AVX2)
      &avx2::kernels,
#endif
      &portable::kernels};
  for (const Kernels* candidate : candidates) {
    // avx512_bf16 differs from avx512 in how it rounds to bfloat16, and in nothing else.
    const bool wanted = name != nullptr ? std::strcmp(name, candidate->name) == 0
                                        : storage == Storage::kBfloat16 ||
                                              std::strcmp(candidate->name, "avx512_bf16") != 0;
    if (wanted && runs(*candidate)) return candidate;
  }
  return nullptr;
}

const Kernels& require_kernels(const char* name, Storage storage) {
  const Kernels* kernels = select_kernels(*name == '\0' ? nullptr : name, storage);
  if (kernels == nullptr) {
    throw std::invalid_argument("this processor runs no kernels called '" + std::string(name) + "'");
  }
  return *kernels;
}

int64_t winograd_scratch(int64_t channels_in, int64_t channels_out, int64_t shortcut_channels) {
  const int64_t shortcut = shortcut_channels == 0 ? 0
                                                  : kWinogradShared * (16 * scratch_stride(channels_out) +
                                                                       4 * shortcut_channels);
  return 36 * (kWinogradTiles * (winograd_stride(channels_in) + winograd_stride(channels_out)) + 2 * kLine) + shortcut +
         4 * kLine;
}

int64_t convolution_scratch(int64_t kernel, int64_t channels_in, int64_t channels_out) {
  const int64_t points = 4 + kernel - 1, run = 8 * 4 + kernel - 1;
  const int64_t lines = (channels_in + kLine - 1) / kLine + (channels_out + kLine - 1) / kLine;
  const int64_t widest = channels_in < channels_out ? channels_out : channels_in;
  return points * points * (kTrainingTiles * lines + 2) * kLine + points * run * widest + kLine;
}

int64_t separable_scratch(int64_t channels_in, int64_t channels_out) {
  return kSeparablePixels * (scratch_stride(channels_in) + scratch_stride(channels_out)) + kLine;
}

}  // namespace modnas_fast
