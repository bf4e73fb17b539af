// The stand-alone check's second part: convolutions of training and their gradients, against plain loops in double.
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

#include "training.h"

namespace modnas_fast {
namespace {

std::mt19937 random_bits(2);

std::vector<float> random_floats(int64_t count) {
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float& value : values) value = normal(random_bits);
  return values;
}

struct Case {
  Images size;
  int64_t channels_in, channels_out;
};

struct Sums {
  std::vector<double> y, dweight, dbias;
};

// y of x and the gradient in the weights of x and dy, weights [k, k, C_in, C_out]; depthwise ones [k, k, C] where
// `each`.
Sums plain(const Images& size, int64_t k, int64_t dilation, int64_t channels_in, int64_t channels_out, bool each,
           const std::vector<float>& x, const std::vector<float>& weights, const std::vector<float>& dy) {
  Sums sums = {std::vector<double>(dy.size()), std::vector<double>(weights.size()),
               std::vector<double>(channels_out)};
  for (int64_t pixel = 0; pixel < size.images * size.rows * size.columns; ++pixel) {
    const int64_t column = pixel % size.columns, row = pixel / size.columns % size.rows;
    for (int64_t out = 0; out < channels_out; ++out) sums.dbias[out] += dy[pixel * channels_out + out];
    for (int64_t tap = 0; tap < k * k; ++tap) {
      const int64_t down = dilation * (tap / k - k / 2), right = dilation * (tap % k - k / 2);
      if (row + down < 0 || row + down >= size.rows || column + right < 0 || column + right >= size.columns) continue;
      const float* from = &x[(pixel + down * size.columns + right) * channels_in];
      for (int64_t out = 0; out < channels_out; ++out) {
        for (int64_t in = each ? out : 0; in < (each ? out + 1 : channels_in); ++in) {
          const int64_t weight = each ? tap * channels_out + out : (tap * channels_in + in) * channels_out + out;
          sums.y[pixel * channels_out + out] += double{from[in]} * weights[weight];
          sums.dweight[weight] += double{from[in]} * dy[pixel * channels_out + out];
        }
      }
    }
  }
  return sums;
}

double error(const std::vector<float>& got, const std::vector<double>& want) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    difference += (got[i] - want[i]) * (got[i] - want[i]);
    norm += want[i] * want[i];
  }
  return std::sqrt(difference / norm);
}

}  // namespace

int test_training() {
  int failures = 0;
  const auto check = [&](double relative, const char* what, const Kernels& kernels, int64_t k) {
    if (relative < 1e-5) return;
    std::printf("FAILED: %s, %s, kernel %d: relative error %.1e\n", what, kernels.name, static_cast<int>(k), relative);
    ++failures;
  };
  for (const char* variant : {"portable", "avx2", "avx512"}) {
    const Kernels* found = select_kernels(variant);
    if (found == nullptr) continue;
    const Kernels& kernels = *found;
    for (int64_t k : {3, 5}) {
      for (const auto& [size, channels_in, channels_out] :
           {Case{{3, 7, 11}, 24, 40}, Case{{3, 7, 11}, 36, 28}, Case{{1, 1, 2}, 20, 4}}) {
        const int64_t pixels = size.images * size.rows * size.columns;
        const std::vector<float> x = random_floats(pixels * channels_in), dy = random_floats(pixels * channels_out);
        const std::vector<float> weights = random_floats(k * k * channels_in * channels_out);
        const Sums want = plain(size, k, 1, channels_in, channels_out, false, x, weights, dy);
        std::vector<float> y(dy.size()), dweight(weights.size()), dbias(channels_out);
        ConvolutionArguments dense = {size,      Storage::kFloat32, k,       channels_in,   channels_out, x.data(),
                                      dy.data(), y.data(),          nullptr, weights.data(), nullptr};
        convolution(dense, kernels, 3);
        convolution_dweight(dense, dweight.data(), dbias.data(), kernels, 3);
        check(error(y, want.y), "convolution", kernels, k);
        check(error(dweight, want.dweight), "convolution_dweight", kernels, k);
        check(error(dbias, want.dbias), "convolution_dweight's bias", kernels, k);
        dense.rectified = dy.data();
        convolution(dense, kernels, 3);
        std::vector<double> where_positive = want.y;
        for (size_t i = 0; i < dy.size(); ++i) where_positive[i] *= dy[i] > 0;
        check(error(y, where_positive), "convolution, rectified", kernels, k);
        for (int64_t dilation : {1, 2}) {
          const std::vector<float> each = random_floats(k * k * channels_in);
          const Sums depth = plain(size, k, dilation, channels_in, channels_in, true, x, each, x);
          std::vector<float> z(x.size()), deach(each.size());
          DepthwiseArguments arguments = {size,     Storage::kFloat32, k,        dilation,   channels_in,
                                          x.data(), x.data(),          z.data(), each.data()};
          depthwise(arguments, kernels, 3);
          depthwise_dweight(arguments, deach.data(), kernels, 3);
          check(error(z, depth.y), "depthwise", kernels, k);
          check(error(deach, depth.dweight), "depthwise_dweight", kernels, k);
        }
      }
    }
  }
  return failures;
}

}  // namespace modnas_fast
