#include "cpu/packing.h"

#include <array>

#include "cpu/columns.h"
#include "cpu/winograd_points.h"

namespace modnas_fast {

std::vector<float> pack_matrix(const std::vector<float>& matrix, int64_t rows, int64_t columns, int lanes) {
  const ColumnTiles tiles(columns, lanes);
  std::vector<float> packed;
  for (int64_t index = 0; index < tiles.count(); ++index) {
    const Tile tile = tiles[index];
    for (int64_t row = 0; row < rows; row += 2) {
      for (int64_t half = 0; half < 2; ++half) {
        const float* from = &matrix[(row + half) * columns + tile.column];
        packed.insert(packed.end(), from, from + tile.full * lanes);
      }
      for (int64_t lane = 0; tile.paired && lane < lanes; ++lane) {
        packed.push_back(matrix[(row + lane % 2) * columns + tile.column + tile.full * lanes + lane / 2]);
      }
    }
  }
  return packed;
}

std::vector<float> pack_bias(const std::vector<float>& bias, int64_t columns, int lanes) {
  std::vector<float> packed(bias.begin(), bias.begin() + columns / lanes * lanes);
  for (int64_t column = columns / lanes * lanes; column < columns; ++column) {
    packed.push_back(bias[column]);
    packed.push_back(0.0f);
  }
  return packed;
}

namespace {

// G[point][tap]: the Lagrange weights by which a filter of `kernel` taps is evaluated at the points.
std::vector<std::array<double, 5>> filter_transform(int kernel) {
  const double points[5] = {0, kNear, -kNear, kFar, -kFar};
  std::vector<std::array<double, 5>> transform(kWinogradPoints);
  for (int point = 0; point < 5; ++point) {
    double value = 1;
    for (int other = 0; other < 5; ++other) {
      if (other != point) value /= points[point] - points[other];
    }
    for (int tap = 0; tap < kernel; ++tap, value *= points[point]) transform[point][tap] = value;
  }
  transform[5][kernel - 1] = 1;  // the point at infinity
  return transform;
}

}  // namespace

std::vector<std::vector<float>> winograd_weights(const std::vector<float>& weight, int kernel, int64_t rows,
                                                 int64_t columns) {
  const auto transform = filter_transform(kernel);
  const int64_t size = rows * columns;
  std::vector<std::vector<float>> matrices;
  for (int64_t i = 0; i < kWinogradPoints; ++i) {
    for (int64_t j = 0; j < kWinogradPoints; ++j) {
      std::vector<double> sum(size);
      for (int64_t y = 0; y < kernel; ++y) {
        for (int64_t x = 0; x < kernel; ++x) {
          const double factor = transform[i][y] * transform[j][x];
          const float* tap = &weight[(y * kernel + x) * size];
          for (int64_t k = 0; factor != 0 && k < size; ++k) sum[k] += factor * tap[k];
        }
      }
      matrices.emplace_back(sum.begin(), sum.end());
    }
  }
  return matrices;
}

}  // namespace modnas_fast
