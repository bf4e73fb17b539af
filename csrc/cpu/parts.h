// Channels that do not fill whole vectors: counts that are multiples of 8 where a vector has 16 lanes.
#pragma once

#include "cpu/vector.h"

namespace modnas_fast {
namespace MODNAS_FAST_ISA {
namespace {

constexpr int64_t vectors_of(int64_t channels) { return (channels + kLanes - 1) / kLanes; }

// The lanes of a vector that exist: all, or the first 8. Masks cost nothing where there are any.
struct Part {
#if defined(__AVX512F__)
  explicit Part(int64_t channels_left) : mask(channels_left < kLanes ? 0xff : 0xffff) {}
  __mmask16 mask;
#else
  explicit Part(int64_t) {}
#endif
};

MODNAS_FAST_INLINE Vector load(const float* from, [[maybe_unused]] Part part) {
#if defined(__AVX512F__)
  return _mm512_maskz_loadu_ps(part.mask, from);
#else
  return load(from);
#endif
}

MODNAS_FAST_INLINE void store(float* to, Vector value, [[maybe_unused]] Part part) {
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(to, part.mask, value);
#else
  store(to, value);
#endif
}

}  // namespace
}  // namespace MODNAS_FAST_ISA
}  // namespace modnas_fast
