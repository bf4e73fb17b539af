// What activations are stored as: float32, or bfloat16, the upper half of a float32. Vectors in registers are float32.
#pragma once

#include "cpu/kernels.h"
#include "cpu/vector.h"

namespace modnas_fast {
namespace MODNAS_FAST_ISA {
namespace {

struct Bfloat16 {
  uint16_t bits;
};

typedef uint32_t Bits __attribute__((vector_size(kLanes * sizeof(uint32_t))));
typedef uint16_t HalfBits __attribute__((vector_size(kLanes * sizeof(uint16_t))));

MODNAS_FAST_INLINE Vector load(const Bfloat16* from) {
  HalfBits bits;
  std::memcpy(&bits, from, sizeof bits);
  return reinterpret_cast<Vector>(__builtin_convertvector(bits, Bits) << 16);
}

// To the nearest. Ties go to even where the processor has an instruction for it, away from zero elsewhere; NaN stays.
MODNAS_FAST_INLINE HalfBits round_to_bfloat16(Vector value) {
#if defined(__AVX512BF16__)
  return reinterpret_cast<HalfBits>(_mm512_cvtneps_pbh(value));
#else
  const Bits bits = reinterpret_cast<Bits>(value), ordered = reinterpret_cast<Bits>(value == value);
  return __builtin_convertvector((bits + (ordered & 0x8000)) >> 16, HalfBits);
#endif
}

MODNAS_FAST_INLINE void store(Bfloat16* to, Vector value) {
  const HalfBits bits = round_to_bfloat16(value);
  std::memcpy(to, &bits, sizeof bits);
}

// The first min(8, kLanes) lanes.
MODNAS_FAST_INLINE void store_eight(float* to, Vector value) {
  std::memcpy(to, &value, kLanes < 8 ? sizeof value : 8 * sizeof(float));
}
MODNAS_FAST_INLINE void store_eight(Bfloat16* to, Vector value) {
  const HalfBits bits = round_to_bfloat16(value);
  std::memcpy(to, &bits, kLanes < 8 ? sizeof bits : 8 * sizeof(Bfloat16));
}

// A vector, but no lane beyond the `left` channels, a multiple of 8, that a pixel has still.
template <typename Element>
MODNAS_FAST_INLINE void store_channels(Element* to, Vector value, int64_t left) {
  if (left < kLanes) {
    store_eight(to, value);
  } else {
    store(to, value);
  }
}

// Pixel (y, x) of a source or target that stores `Element`s.
template <typename Element>
MODNAS_FAST_INLINE const Element* pixel_of(const Source& source, int64_t y, int64_t x) {
  return static_cast<const Element*>(source.data) + y * source.row_stride + x * source.pixel_stride;
}
template <typename Element>
MODNAS_FAST_INLINE Element* pixel_of(const Target& target, int64_t y, int64_t x) {
  return static_cast<Element*>(target.data) + y * target.row_stride + x * target.pixel_stride;
}

// Calls function(element), whose type alone matters.
template <typename Function>
MODNAS_FAST_INLINE void with_element(Storage storage, const Function& function) {
  if (storage == Storage::kBfloat16) {
    function(Bfloat16());
  } else {
    function(float());
  }
}

}  // namespace
}  // namespace MODNAS_FAST_ISA
}  // namespace modnas_fast
