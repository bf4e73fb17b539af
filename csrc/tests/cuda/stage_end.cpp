#include "stage_end.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

namespace modnas_fast::cuda {

namespace {

constexpr int kGap = 3;  // columns of x's memory that are not x's

}  // namespace

StageEnd::StageEnd(int images, int image_channels, int rows, int columns, int channels)
    : images_(images), channels_(channels), y_(int64_t{images} * image_channels * rows * columns * 4),
      x_(int64_t{images} * image_channels * rows * (columns + kGap) * 4) {
  if (image_channels == 0) return;
  for (int i = 0; i < image_channels * channels; ++i) weights_.push_back(static_cast<float>(random_normal()));
  for (int i = 0; i < image_channels; ++i) bias_.push_back(static_cast<float>(random_normal()));
  float* y = reinterpret_cast<float*>(y_.data());
  for (int64_t i = 0; i < int64_t{images} * image_channels * rows * columns; ++i) y[i] = random_normal();
  const int64_t row = columns + kGap;
  output_ = {weights_.data(),
             bias_.data(),
             0.3f,
             image_channels,
             rows,
             columns,
             y,  // its channels are neighbours, x's are planes
             {int64_t{rows} * columns * image_channels, 1, int64_t{columns} * image_channels, image_channels},
             reinterpret_cast<float*>(x_.data()),
             {image_channels * rows * row, rows * row, row, 1},
             &flag_};
}

void StageEnd::poison_y() {
  const int64_t last = place(output_.y_strides, images_ - 1, output_.channels - 1, output_.rows - 1,
                             output_.columns - 1);
  reinterpret_cast<float*>(y_.data())[last] = std::numeric_limits<float>::infinity();
}

void StageEnd::judge(const Map& h, const Map& errors, Judge& judge) const {
  for (int image = 0; image < images_; ++image) {
    for (int channel = 0; channel < output_.channels; ++channel) {
      for (int row = 0; row < output_.rows; ++row) {
        for (int column = 0; column < output_.columns; ++column) {
          Answer v;
          v.add(1, bias_[channel]);
          for (int c = 0; c < channels_; ++c) {
            v.add(std::max(0.0, h.at(image, row, column, c)), weights_[channel * channels_ + c],
                  errors.at(image, row, column, c));
          }
          const double y = output_.y[place(output_.y_strides, image, channel, row, column)];
          const double x = v.value + output_.delta * (y - v.value);
          const double bound = v.sum_error() + 8 * kFloatError * (std::abs(v.value) + std::abs(y));
          judge.value(output_.x[place(output_.x_strides, image, channel, row, column)], x, bound);
        }
        for (int gap = 0; gap < kGap; ++gap) {  // must be as it was
          const float value = output_.x[place(output_.x_strides, image, channel, row, output_.columns + gap)];
          if (!std::isnan(value)) judge.value(value, 0, -1);
        }
      }
    }
  }
}

}  // namespace modnas_fast::cuda
