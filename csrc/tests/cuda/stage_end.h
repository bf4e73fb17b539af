// The stage's end in tests: an image y, one x that is poisoned and has gaps, and what x should be.
#pragma once

#include "tensors.h"

namespace modnas_fast::cuda {

class StageEnd {
 public:
  // An image of `rows` × `columns` for a feature map of `channels`; `image_channels` 0: there is none.
  StageEnd(int images, int image_channels, int rows, int columns, int channels);
  Output output() const { return output_; }
  void poison_y();  // one pixel of it is not finite
  // From h's rows of channels with their errors, each [images, at least rows, at least columns, channels].
  void judge(const Map& h, const Map& errors, Judge& judge) const;
  bool found_not_finite() const { return flag_ != 0; }
  LaunchBefore::Bytes y_bytes() const { return {y_.data(), y_.bytes()}; }
  LaunchBefore::Bytes x_bytes() const { return {x_.data(), x_.bytes()}; }

 private:
  int64_t place(const int64_t (&strides)[4], int image, int channel, int row, int column) const {
    return image * strides[0] + channel * strides[1] + row * strides[2] + column * strides[3];
  }
  int images_, channels_;
  std::vector<float> weights_, bias_;
  DeviceMemory y_, x_;
  int flag_ = 0;
  Output output_ = {};
};

}  // namespace modnas_fast::cuda
