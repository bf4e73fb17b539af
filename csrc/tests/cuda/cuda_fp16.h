// Stands in for NVIDIA's header of this name: float16 as bits, rounded to the nearest even number.
#pragma once

#include <cstdint>
#include <cstring>

#include "emulation.h"

struct __half {
  uint16_t bits;
};
struct alignas(4) __half2 {
  __half x, y;
};

inline float __half2float(__half value) {
  const uint32_t sign = uint32_t{value.bits} >> 15 << 31;
  const uint32_t exponent = value.bits >> 10 & 31, mantissa = value.bits & 1023;
  if (exponent == 31) return __uint_as_float(sign | 0x7F800000u | mantissa << 13);
  if (exponent != 0) return __uint_as_float(sign | (exponent + 112) << 23 | mantissa << 13);
  const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
  return sign != 0 ? -magnitude : magnitude;
}

inline __half __float2half_rn(float value) {
  const uint32_t bits = __float_as_uint(value), sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7FFFFFFFu;
  uint32_t result;
  if (magnitude > 0x7F800000u) {
    return {0x7FFF};
  } else if (magnitude >= 0x477FF000u) {  // 65520 and beyond
    result = 0x7C00u;
  } else if (magnitude >= 0x38800000u) {
    const uint32_t rebased = magnitude - (112u << 23);
    result = (rebased + 0xFFFu + (rebased >> 13 & 1)) >> 13;
  } else {  // subnormal: adding 0.5 leaves the rounded multiple of 2⁻²⁴ in the last bits
    result = __float_as_uint(__uint_as_float(magnitude) + 0.5f) - 0x3F000000u;
  }
  return {static_cast<uint16_t>(sign | result)};
}

inline __half2 __floats2half2_rn(float x, float y) { return {__float2half_rn(x), __float2half_rn(y)}; }
inline float2 __half22float2(__half2 value) { return {__half2float(value.x), __half2float(value.y)}; }
