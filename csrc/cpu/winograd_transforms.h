// The four small matrices of Winograd's minimal filtering, and the adjoints that training needs, along one axis.
//
// y = Aᵀ[(G g) ⊙ (Bᵀ d)] makes kOutputs neighbouring outputs of a kernel of kTaps from kOutputs + kTaps − 1 inputs d:
// polynomials are evaluated at as many points, multiplied there, and interpolated. The points are 0, ±p₁ … ±pₘ and
// infinity, so that every transform splits into an even and an odd half.
#pragma once

#include "cpu/vector.h"
#include "cpu/winograd_points.h"

namespace modnas_fast {
namespace MODNAS_FAST_ISA {
namespace {

template <int kOutputs, int kTaps>
struct Winograd {
  static constexpr int kPoints = kOutputs + kTaps - 1, kPairs = (kPoints - 2) / 2;
  static_assert(kPoints == 6 || kPoints == 8);

  // The choice decides the rounding error: 6e-7 of the result with 6 points, and with 8, where no other three do better
  // than ½, 1 and 2, 3e-6.
  static constexpr double point(int pair) {
    constexpr double of_two[] = {kNear, kFar}, of_three[] = {0.5, 1, 2};
    return kPairs == 2 ? of_two[pair] : of_three[pair];
  }
  static constexpr double power(int pair, int exponent) {
    double value = 1;
    for (int i = 0; i < exponent; ++i) value *= point(pair);
    return value;
  }
  // The coefficient of x^(2·degree) in Π (x² − p²) over all pairs but `without`; kPairs leaves none out.
  static constexpr double coefficient(int without, int degree) {
    double product[kPairs + 1] = {1};
    for (int pair = 0; pair < kPairs; ++pair) {
      if (pair == without) continue;
      for (int i = kPairs; i >= 0; --i) product[i] = (i > 0 ? product[i - 1] : 0) - power(pair, 2) * product[i];
    }
    return product[degree];
  }
  // Lagrange's weight of a point: the reciprocal of its differences from the other finite ones; kPairs is the point 0.
  static constexpr double weight(int pair) {
    const double square = pair == kPairs ? 0 : power(pair, 2);
    double value = pair == kPairs ? 1 : 2 * square;  // from −p and from 0
    for (int other = 0; other < kPairs; ++other) value *= other == pair ? 1 : square - power(other, 2);
    return 1 / value;
  }

  // Bᵀ d.
  static MODNAS_FAST_INLINE void input(const Vector (&d)[kPoints], Vector (&t)[kPoints]) {
    t[0] = d[2 * kPairs];
    t[kPoints - 1] = d[2 * kPairs + 1];
#pragma GCC unroll 3
    for (int i = 0; i < kPairs; ++i) {
      t[0] += static_cast<float>(coefficient(kPairs, i)) * d[2 * i];
      t[kPoints - 1] += static_cast<float>(coefficient(kPairs, i)) * d[2 * i + 1];
    }
#pragma GCC unroll 3
    for (int pair = 0; pair < kPairs; ++pair) {
      Vector even = d[2 * kPairs], odd = d[2 * kPairs - 1];
#pragma GCC unroll 2
      for (int i = 0; i < kPairs - 1; ++i) {
        even += static_cast<float>(coefficient(pair, i)) * d[2 * i + 2];
        odd += static_cast<float>(coefficient(pair, i)) * d[2 * i + 1];
      }
      t[2 * pair + 1] = even + static_cast<float>(point(pair)) * odd;
      t[2 * pair + 2] = even - static_cast<float>(point(pair)) * odd;
    }
  }

  // Aᵀ m.
  static MODNAS_FAST_INLINE void output(const Vector (&m)[kPoints], Vector (&y)[kOutputs]) {
    evaluate_adjoint(m, y);
    y[0] += m[0];
    y[kOutputs - 1] += m[kPoints - 1];
  }

  // A y, its adjoint.
  static MODNAS_FAST_INLINE void output_gradient(const Vector (&y)[kOutputs], Vector (&m)[kPoints]) {
    evaluate(y, m);
    m[0] = y[0];
    m[kPoints - 1] = y[kOutputs - 1];
  }

  // G g.
  static MODNAS_FAST_INLINE void kernel(const Vector (&g)[kTaps], Vector (&u)[kPoints]) {
    evaluate(g, u);
    u[0] = static_cast<float>(weight(kPairs)) * g[0];
    u[kPoints - 1] = g[kTaps - 1];
#pragma GCC unroll 3
    for (int pair = 0; pair < kPairs; ++pair) {
      u[2 * pair + 1] *= static_cast<float>(weight(pair));
      u[2 * pair + 2] *= static_cast<float>(weight(pair));
    }
  }

  // Gᵀ u, its adjoint.
  static MODNAS_FAST_INLINE void kernel_gradient(const Vector (&u)[kPoints], Vector (&g)[kTaps]) {
    Vector weighted[kPoints];
#pragma GCC unroll 3
    for (int pair = 0; pair < kPairs; ++pair) {
      weighted[2 * pair + 1] = static_cast<float>(weight(pair)) * u[2 * pair + 1];
      weighted[2 * pair + 2] = static_cast<float>(weight(pair)) * u[2 * pair + 2];
    }
    evaluate_adjoint(weighted, g);
    g[0] += static_cast<float>(weight(kPairs)) * u[0];
    g[kTaps - 1] += u[kPoints - 1];
  }

 private:
  // The polynomial of these coefficients at ±p₁ … ±pₘ.
  template <int kTerms>
  static MODNAS_FAST_INLINE void evaluate(const Vector (&coefficients)[kTerms], Vector (&values)[kPoints]) {
#pragma GCC unroll 3
    for (int pair = 0; pair < kPairs; ++pair) {
      Vector even = coefficients[0], odd = static_cast<float>(point(pair)) * coefficients[1];
#pragma GCC unroll 5
      for (int i = 2; i < kTerms; ++i) {
        (i % 2 == 0 ? even : odd) += static_cast<float>(power(pair, i)) * coefficients[i];
      }
      values[2 * pair + 1] = even + odd;
      values[2 * pair + 2] = even - odd;
    }
  }

  template <int kTerms>
  static MODNAS_FAST_INLINE void evaluate_adjoint(const Vector (&values)[kPoints], Vector (&coefficients)[kTerms]) {
#pragma GCC unroll 3
    for (int pair = 0; pair < kPairs; ++pair) {
      const Vector even = values[2 * pair + 1] + values[2 * pair + 2];
      const Vector odd = values[2 * pair + 1] - values[2 * pair + 2];
#pragma GCC unroll 5
      for (int i = 0; i < kTerms; ++i) {
        const Vector term = static_cast<float>(power(pair, i)) * (i % 2 == 0 ? even : odd);
        coefficients[i] = pair == 0 ? term : coefficients[i] + term;
      }
    }
  }
};

}  // namespace
}  // namespace MODNAS_FAST_ISA
}  // namespace modnas_fast
