// One vector type a variant. GCC's and clang's vector extensions give arithmetic; the rest is here.
//
// Only kernel files include this: everything is internal to the translation unit and in the variant's namespace, so
// that no function compiled for a newer processor can replace another's at link time.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX__)
#include <immintrin.h>
#endif

#define MODNAS_FAST_INLINE inline __attribute__((always_inline))

namespace modnas_fast {
namespace MODNAS_FAST_ISA {
namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

typedef float Vector __attribute__((vector_size(kLanes * sizeof(float))));
typedef float UnalignedVector __attribute__((vector_size(kLanes * sizeof(float)), aligned(4)));

MODNAS_FAST_INLINE Vector load(const float* from) { return *reinterpret_cast<const UnalignedVector*>(from); }
MODNAS_FAST_INLINE void store(float* to, Vector value) { *reinterpret_cast<UnalignedVector*>(to) = value; }

MODNAS_FAST_INLINE Vector broadcast(float value) { return value - Vector{}; }

// NaN stays NaN: the instruction returns its second operand then.
MODNAS_FAST_INLINE Vector relu(Vector value) {
#if defined(__AVX512F__)
  return _mm512_max_ps(Vector{}, value);
#elif defined(__AVX__)
  return _mm256_max_ps(Vector{}, value);
#else
  return value < 0 ? Vector{} : value;
#endif
}

#if defined(__AVX512F__)
// from[0], from[1], from[0], from[1], …
MODNAS_FAST_INLINE Vector broadcast_pair(const float* from) {
  double pair;
  std::memcpy(&pair, from, sizeof pair);
  return reinterpret_cast<Vector>(_mm512_set1_pd(pair));
}

// Lanes 0, 2, 4, …, to be the first 8.
MODNAS_FAST_INLINE __m512i even_lanes() {
  return _mm512_set_epi32(14, 12, 10, 8, 6, 4, 2, 0, 14, 12, 10, 8, 6, 4, 2, 0);
}

// The sums of neighbouring lanes, in the first 8.
MODNAS_FAST_INLINE Vector pair_sums(Vector value) {
  const Vector even = _mm512_moveldup_ps(value), odd = _mm512_movehdup_ps(value);
  return _mm512_permutexvar_ps(even_lanes(), even + odd);
}

// from[0], from[0], from[1], from[1], …
MODNAS_FAST_INLINE Vector load_twice(const float* from) {
  const __m512i order = _mm512_set_epi32(7, 7, 6, 6, 5, 5, 4, 4, 3, 3, 2, 2, 1, 1, 0, 0);
  return _mm512_permutexvar_ps(order, _mm512_castps256_ps512(_mm256_loadu_ps(from)));
}

// to[0 … 7] += lanes `first`, first + 2, …
MODNAS_FAST_INLINE void add_every_second(float* to, Vector value, int first) {
  const Vector chosen = _mm512_permutexvar_ps(_mm512_add_epi32(even_lanes(), _mm512_set1_epi32(first)), value);
  _mm256_storeu_ps(to, _mm256_loadu_ps(to) + _mm512_castps512_ps256(chosen));
}
#else  // no vector is wider than 8 channels, and none is shared
MODNAS_FAST_INLINE Vector broadcast_pair(const float*) { return Vector{}; }
MODNAS_FAST_INLINE Vector pair_sums(Vector value) { return value; }
MODNAS_FAST_INLINE Vector load_twice(const float*) { return Vector{}; }
MODNAS_FAST_INLINE void add_every_second(float*, Vector, int) {}
#endif

}  // namespace
}  // namespace MODNAS_FAST_ISA
}  // namespace modnas_fast
