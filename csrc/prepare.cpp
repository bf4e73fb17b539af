#include "prepare.h"

#include <stdexcept>

#include "cpu/packing.h"

namespace modnas_fast {

namespace {

constexpr int64_t kSlack = 16;  // kernels load whole vectors, a last one beyond the end

int64_t round_up(int64_t size, int64_t to) { return (size + to - 1) / to * to; }

Floats with_slack(const std::vector<float>& values) {
  Floats result(values.begin(), values.end());
  result.resize(result.size() + kSlack);
  return result;
}

std::vector<float> padded(const std::vector<float>& values, int64_t size) {
  std::vector<float> result(values);
  result.resize(size);
  return result;
}

void require(bool condition, const Layer& layer, const char* what) {
  if (!condition) throw std::invalid_argument("layer " + layer.name + ": " + what);
}

// One layer's way from PyTorch's weights to packed ones.
class Preparation {
 public:
  Preparation(const Layer& layer, const std::vector<Tensor>& tensors, int lanes)
      : layer_(layer), tensors_(tensors), lanes_(lanes), columns_(tensors[layer.output].padded_channels) {}

  PreparedLayer prepare(bool relu_in, bool relu_out) {
    PreparedLayer& result = result_;
    result.name = layer_.name;
    result.op = layer_.op;
    result.inputs = layer_.inputs;
    result.output = layer_.output;
    result.shortcut = layer_.shortcut;
    result.kernel = layer_.kernel;
    result.dilation = layer_.dilation;
    result.relu_in = relu_in;
    result.relu_out = relu_out;
    result.delta = layer_.delta;
    channels_in_ = 0;
    for (int input : layer_.inputs) channels_in_ += tensors_[input].channels;
    switch (layer_.op) {
      case Op::kConvolution: convolution(); break;
      case Op::kSeparable: separable(); break;
      case Op::kTransposed: transposed(); break;
      case Op::kSubPixel: sub_pixel(); break;
      case Op::kBilinear:
      case Op::kNearest:
        result.algorithm = Algorithm::kUpsample;
        result.macs_a_pixel = 0;
        require(channels_in_ == layer_.channels, layer_, "interpolation changes no width");
        break;
      case Op::kOutput: output(); break;
    }
    return std::move(result_);
  }

 private:
  int64_t taps_of_kernel() const { return int64_t{layer_.kernel} * layer_.kernel; }

  void check_weights(size_t weights, size_t biases) const {
    require(layer_.weight.size() == weights, layer_, "weight has another size than its widths ask for");
    require(layer_.bias.size() == biases, layer_, "bias has another size than its width asks for");
  }

  // The matrices [rows, columns_] of `input` in a weight [out, in, k, k], at the kernel elements (y, x0…x0 + width),
  // one below the other. `first` and `step` say which of the weight's output channels are taken.
  void append_rows(std::vector<float>& matrix, size_t input, int64_t y, int64_t x0, int64_t width, int64_t first = 0,
                   int64_t step = 1) const {
    int64_t channel0 = 0;
    for (size_t i = 0; i < input; ++i) channel0 += tensors_[layer_.inputs[i]].channels;
    const Tensor& tensor = tensors_[layer_.inputs[input]];
    const int64_t begin = static_cast<int64_t>(matrix.size());
    matrix.resize(begin + width * tensor.padded_channels * columns_);
    for (int64_t x = 0; x < width; ++x) {
      for (int64_t k = 0; k < tensor.channels; ++k) {
        float* row = &matrix[begin + (x * tensor.padded_channels + k) * columns_];
        for (int64_t column = 0; column < layer_.channels; ++column) {
          const int64_t out = first + step * column;
          row[column] = layer_.weight[(out * channels_in_ + channel0 + k) * taps_of_kernel() + y * layer_.kernel + x0 +
                                      x];
        }
      }
    }
  }

  void append_shortcut(std::vector<float>& matrix) const {
    const Tensor& tensor = tensors_[layer_.shortcut];
    const int64_t begin = static_cast<int64_t>(matrix.size());
    matrix.resize(begin + tensor.padded_channels * columns_);
    for (int64_t k = 0; k < tensor.channels; ++k) {
      for (int64_t column = 0; column < layer_.channels; ++column) {
        matrix[begin + k * columns_ + column] = layer_.shortcut_weight[column * tensor.channels + k];
      }
    }
  }

  Floats packed(const std::vector<float>& matrix) const {
    return with_slack(pack_matrix(matrix, static_cast<int64_t>(matrix.size()) / columns_, columns_, lanes_));
  }
  Floats packed_bias(const std::vector<float>& bias) const {
    return with_slack(pack_bias(padded(bias, columns_), columns_, lanes_));
  }

  std::vector<float> bias_with_shortcut() const {
    std::vector<float> bias = layer_.bias;
    for (size_t i = 0; layer_.shortcut >= 0 && i < bias.size(); ++i) bias[i] += layer_.shortcut_bias[i];
    return bias;
  }

  void convolution() {
    check_weights(layer_.channels * channels_in_ * taps_of_kernel(), layer_.channels);
    result_.macs_a_pixel = taps_of_kernel() * channels_in_ * layer_.channels;
    if (layer_.shortcut >= 0) {
      const int64_t channels = tensors_[layer_.shortcut].channels;
      require(layer_.shortcut_weight.size() == static_cast<size_t>(channels * layer_.channels) &&
                  layer_.shortcut_bias.size() == static_cast<size_t>(layer_.channels),
              layer_, "the shortcut's weights have another size than its widths ask for");
      result_.macs_a_pixel += channels * layer_.channels;
    }
    result_.input_scale = layer_.stride;
    result_.algorithm = winograd_wins() ? Algorithm::kWinograd : Algorithm::kTaps;
    if (result_.algorithm == Algorithm::kWinograd) {
      winograd();
    } else {
      direct();
    }
  }

  // By arithmetic: 2.25 products an output instead of 9, or 9 instead of 25, but transforms whose cost a few channels
  // would not repay.
  bool winograd_wins() const {
    return layer_.stride == 1 && (layer_.kernel == 3 || layer_.kernel == 5) && channels_in_ >= 8;
  }

  void winograd() {
    std::vector<float> taps;  // [k, k, rows, columns_]
    int64_t rows = 0;
    for (size_t input = 0; input < layer_.inputs.size(); ++input) {
      rows += tensors_[layer_.inputs[input]].padded_channels;
    }
    for (int64_t y = 0; y < layer_.kernel; ++y) {
      for (int64_t x = 0; x < layer_.kernel; ++x) {
        for (size_t input = 0; input < layer_.inputs.size(); ++input) append_rows(taps, input, y, x, 1);
      }
    }
    for (const std::vector<float>& matrix : winograd_weights(taps, layer_.kernel, rows, columns_)) {
      const std::vector<float> tile = pack_matrix(matrix, rows, columns_, lanes_);
      result_.weight_stride = static_cast<int64_t>(tile.size());
      result_.weights.insert(result_.weights.end(), tile.begin(), tile.end());
    }
    result_.bias = packed_bias(layer_.bias);
    if (layer_.shortcut >= 0) {
      Phase phase;
      std::vector<float> matrix;
      append_shortcut(matrix);
      phase.taps.push_back({layer_.shortcut, 0, 0, 1, false});
      phase.weights = packed(matrix);
      phase.bias = packed_bias(bias_with_shortcut());
      result_.phases.push_back(std::move(phase));
    }
  }

  void direct() {
    const int64_t padding = (layer_.kernel - 1) / 2;
    Phase phase;
    std::vector<float> matrix;
    for (int64_t y = 0; y < layer_.kernel; ++y) {
      for (size_t input = 0; input < layer_.inputs.size(); ++input) {
        phase.taps.push_back({layer_.inputs[input], y - padding, -padding, layer_.kernel, result_.relu_in});
        append_rows(matrix, input, y, 0, layer_.kernel);
      }
    }
    if (layer_.shortcut >= 0) {
      phase.taps.push_back({layer_.shortcut, 0, 0, 1, false});
      append_shortcut(matrix);
    }
    phase.weights = packed(matrix);
    phase.bias = packed_bias(bias_with_shortcut());
    result_.phases.push_back(std::move(phase));
  }

  // Output pixel 2i takes kernel element 1 of input pixel i; 2i + 1 takes element 2 of i and element 0 of i + 1.
  void transposed() {
    require(layer_.kernel == 3, layer_, "transposed convolutions are 3×3");
    check_weights(channels_in_ * layer_.channels * 9, layer_.channels);
    result_.algorithm = Algorithm::kTaps;
    result_.output_scale = 2;
    result_.macs_a_pixel = channels_in_ * layer_.channels * 9 / 4;
    const Tensor& tensor = tensors_[layer_.inputs[0]];
    for (int64_t row = 0; row < 2; ++row) {
      for (int64_t column = 0; column < 2; ++column) {
        Phase phase;
        phase.row = row;
        phase.column = column;
        std::vector<float> matrix;
        for (int64_t dy = 0; dy <= row; ++dy) {
          phase.taps.push_back({layer_.inputs[0], dy, 0, 1 + column, result_.relu_in});
          const int64_t y = row == 0 ? 1 : 2 - 2 * dy;
          for (int64_t dx = 0; dx <= column; ++dx) {
            const int64_t x = column == 0 ? 1 : 2 - 2 * dx;
            const int64_t begin = static_cast<int64_t>(matrix.size());
            matrix.resize(begin + tensor.padded_channels * columns_);
            for (int64_t k = 0; k < tensor.channels; ++k) {
              for (int64_t out = 0; out < layer_.channels; ++out) {
                matrix[begin + k * columns_ + out] = layer_.weight[((k * layer_.channels + out) * 3 + y) * 3 + x];
              }
            }
          }
        }
        phase.weights = packed(matrix);
        phase.bias = packed_bias(layer_.bias);
        result_.phases.push_back(std::move(phase));
      }
    }
  }

  // Every fourth channel of the convolution goes to one of the 2×2 output pixels.
  void sub_pixel() {
    require(layer_.kernel == 3, layer_, "sub-pixel convolutions are 3×3");
    check_weights(4 * layer_.channels * channels_in_ * 9, 4 * layer_.channels);
    result_.algorithm = Algorithm::kTaps;
    result_.output_scale = 2;
    result_.macs_a_pixel = channels_in_ * layer_.channels * 9;
    for (int64_t which = 0; which < 4; ++which) {
      Phase phase;
      phase.row = which / 2;
      phase.column = which % 2;
      std::vector<float> matrix, bias;
      for (int64_t y = 0; y < 3; ++y) {
        phase.taps.push_back({layer_.inputs[0], y - 1, -1, 3, result_.relu_in});
        append_rows(matrix, 0, y, 0, 3, which, 4);
      }
      for (int64_t out = 0; out < layer_.channels; ++out) bias.push_back(layer_.bias[4 * out + which]);
      phase.weights = packed(matrix);
      phase.bias = packed_bias(bias);
      result_.phases.push_back(std::move(phase));
    }
  }

  void separable() {
    check_weights(channels_in_ * layer_.channels, layer_.channels);
    require(layer_.depthwise_weight.size() == static_cast<size_t>(channels_in_ * taps_of_kernel()) &&
                layer_.depthwise_bias.size() == static_cast<size_t>(channels_in_),
            layer_, "the depthwise weights have another size than their width asks for");
    result_.algorithm = Algorithm::kSeparable;
    result_.macs_a_pixel = channels_in_ * (taps_of_kernel() + layer_.channels);
    const Tensor& tensor = tensors_[layer_.inputs[0]];
    std::vector<float> depthwise(taps_of_kernel() * tensor.padded_channels);
    for (int64_t channel = 0; channel < tensor.channels; ++channel) {
      for (int64_t tap = 0; tap < taps_of_kernel(); ++tap) {
        depthwise[tap * tensor.padded_channels + channel] = layer_.depthwise_weight[channel * taps_of_kernel() + tap];
      }
    }
    std::vector<float> matrix(tensor.padded_channels * columns_);
    for (int64_t k = 0; k < channels_in_; ++k) {
      for (int64_t out = 0; out < layer_.channels; ++out) {
        matrix[k * columns_ + out] = layer_.weight[out * channels_in_ + k];
      }
    }
    result_.depthwise_weights = with_slack(depthwise);
    result_.depthwise_bias = with_slack(padded(layer_.depthwise_bias, tensor.padded_channels));
    result_.weights = packed(matrix);
    result_.bias = packed_bias(layer_.bias);
  }

  void output() {
    check_weights(channels_in_ * layer_.channels, layer_.channels);
    result_.algorithm = Algorithm::kOutput;
    result_.macs_a_pixel = channels_in_ * layer_.channels;
    const int64_t width = tensors_[layer_.inputs[0]].padded_channels;
    for (int64_t image = 0; image < layer_.channels; ++image) {
      const auto begin = layer_.weight.begin() + image * channels_in_;
      result_.weights.insert(result_.weights.end(), begin, begin + channels_in_);
      result_.weights.resize((image + 1) * width);
    }
    result_.bias = Floats(layer_.bias.begin(), layer_.bias.end());
  }

  const Layer& layer_;
  const std::vector<Tensor>& tensors_;
  const int lanes_;
  const int64_t columns_;
  int64_t channels_in_ = 0;
  PreparedLayer result_;
};

int shift_of(const Layer& layer, int shift) {
  switch (layer.op) {
    case Op::kConvolution: return shift + (layer.stride == 2 ? 1 : 0);
    case Op::kTransposed:
    case Op::kSubPixel:
    case Op::kBilinear:
    case Op::kNearest: return shift - 1;
    default: return shift;
  }
}

}  // namespace

PreparedStage prepare_stage(const std::vector<Layer>& layers, int64_t image_channels, int lanes) {
  PreparedStage stage;
  stage.tensors.push_back({image_channels, round_up(image_channels, 2), 0});
  for (const Layer& layer : layers) {
    const int next = static_cast<int>(stage.tensors.size());
    require(layer.output == next, layer, "tensors are numbered in the order in which they are made");
    require(layer.inputs.size() == 1 || (layer.inputs.size() == 2 && layer.op == Op::kConvolution), layer,
            "takes one input, or two if it is a convolution");
    for (int input : layer.inputs) require(input >= 0 && input < next, layer, "reads a tensor that is not made yet");
    require(layer.shortcut < next, layer, "reads a tensor that is not made yet");
    const int shift = shift_of(layer, stage.tensors[layer.inputs[0]].shift);
    require(shift >= 0 && shift <= 3, layer, "leaves the four resolutions of a stage");
    for (int input : layer.inputs) {
      require(stage.tensors[input].shift == stage.tensors[layer.inputs[0]].shift, layer, "joins two resolutions");
    }
    require(layer.shortcut < 0 || stage.tensors[layer.shortcut].shift == shift, layer, "joins two resolutions");
    require(layer.op != Op::kOutput || shift == 0, layer, "the output has the image's resolution");
    require((layer.op == Op::kOutput) == (&layer == &layers.back()), layer, "the output, and it alone, comes last");
    const int64_t multiple = layer.op == Op::kOutput ? 2 : 8;
    stage.tensors.push_back({layer.channels, round_up(layer.channels, multiple), shift});
  }
  require(layers.back().channels == image_channels, layers.back(), "has another width than images");

  std::vector<bool> rectified(stage.tensors.size(), true);
  rectified[0] = false;
  for (const Layer& layer : layers) {
    for (int input : layer.inputs) {
      if (!layer.relu && layer.op != Op::kOutput) rectified[input] = false;
    }
    if (layer.shortcut >= 0) rectified[layer.shortcut] = false;
  }
  rectified[layers.back().output] = false;
  for (const Layer& layer : layers) {
    bool relu = false;
    for (int input : layer.inputs) relu = relu || (layer.relu && !rectified[input]);
    const bool can_rectify = layer.op != Op::kBilinear && layer.op != Op::kNearest;
    require(can_rectify || !rectified[layer.output], layer, "an interpolation's output is read as it is");
    stage.layers.push_back(
        Preparation(layer, stage.tensors, lanes).prepare(relu, rectified[layer.output]));
  }
  return stage;
}

}  // namespace modnas_fast
