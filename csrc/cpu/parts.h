// Channels that do not fill whole vectors: counts that are multiples of 4 where a vector has 8 or 16 lanes.
#pragma once

#include "cpu/elements.h"
#include "cpu/vector.h"

namespace modnas_fast {
namespace MODNAS_FAST_ISA {
namespace {

constexpr int64_t vectors_of(int64_t channels) { return (channels + kLanes - 1) / kLanes; }

// The lanes of a vector that exist: all, or the first 4, 8 or 12. AVX-512's masks cost nothing.
struct Part {
#if defined(__AVX512F__)
  explicit Part(int64_t channels_left) : mask(channels_left < kLanes ? (1 << channels_left) - 1 : 0xffff) {}
  __mmask16 mask;
#elif defined(__AVX2__)
  explicit Part(int64_t channels_left) : half(channels_left < kLanes) {}
  bool half;
#else
  explicit Part(int64_t) {}
#endif
};

#if !defined(__AVX512F__)
MODNAS_FAST_INLINE bool only_half([[maybe_unused]] Part part) {
#if defined(__AVX2__)
  return part.half;
#else
  return false;
#endif
}
#endif

MODNAS_FAST_INLINE Vector load(const float* from, [[maybe_unused]] Part part) {
#if defined(__AVX512F__)
  return _mm512_maskz_loadu_ps(part.mask, from);
#elif defined(__AVX2__)
  return part.half ? _mm256_zextps128_ps256(_mm_loadu_ps(from)) : load(from);
#else
  return load(from);
#endif
}

MODNAS_FAST_INLINE void store(float* to, Vector value, [[maybe_unused]] Part part) {
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(to, part.mask, value);
#elif defined(__AVX2__)
  if (part.half) {
    _mm_storeu_ps(to, _mm256_castps256_ps128(value));
  } else {
    store(to, value);
  }
#else
  store(to, value);
#endif
}

MODNAS_FAST_INLINE Vector load(const Bfloat16* from, [[maybe_unused]] Part part) {
#if defined(__AVX512F__)
  const __m512i bits = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(part.mask, from));
  return _mm512_castsi512_ps(_mm512_slli_epi32(bits, 16));
#else
  if (!only_half(part)) return load(from);
  HalfBits bits = {};
  std::memcpy(&bits, from, 4 * sizeof(Bfloat16));
  return reinterpret_cast<Vector>(__builtin_convertvector(bits, Bits) << 16);
#endif
}

MODNAS_FAST_INLINE void store(Bfloat16* to, Vector value, [[maybe_unused]] Part part) {
  const HalfBits bits = round_to_bfloat16(value);
#if defined(__AVX512F__)
  _mm256_mask_storeu_epi16(to, part.mask, reinterpret_cast<__m256i>(bits));
#else
  std::memcpy(to, &bits, only_half(part) ? 4 * sizeof(Bfloat16) : sizeof bits);
#endif
}

}  // namespace
}  // namespace MODNAS_FAST_ISA
}  // namespace modnas_fast
