#include "rewrite.h"

#include <stdexcept>
#include <utility>

namespace modnas_fast {

namespace {

int64_t round_up(int64_t size, int64_t to) { return (size + to - 1) / to * to; }

void require(bool condition, const Layer& layer, const char* what) {
  if (!condition) throw std::invalid_argument("layer " + layer.name + ": " + what);
}

// One layer's way from PyTorch's weights to matrices.
class Rewriting {
 public:
  Rewriting(const Layer& layer, const std::vector<Tensor>& tensors)
      : layer_(layer), tensors_(tensors), columns_(tensors[layer.output].padded_channels) {
    for (int input : layer_.inputs) channels_in_ += tensors_[input].channels;
  }

  PlainLayer rewrite(bool relu_in, bool relu_out) {
    LayerFacts& facts = result_.facts;
    facts.name = layer_.name;
    facts.op = layer_.op;
    facts.inputs = layer_.inputs;
    facts.output = layer_.output;
    facts.shortcut = layer_.shortcut;
    facts.kernel = layer_.kernel;
    facts.dilation = layer_.dilation;
    facts.relu_in = relu_in;
    facts.relu_out = relu_out;
    facts.delta = layer_.delta;
    switch (layer_.op) {
      case Op::kConvolution: convolution(); break;
      case Op::kSeparable: separable(); break;
      case Op::kTransposed: transposed(); break;
      case Op::kSubPixel: sub_pixel(); break;
      case Op::kBilinear:
      case Op::kNearest:
        facts.macs_a_pixel = 0;
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

  // Appends a zero matrix [rows, columns_] and returns where it begins.
  float* appended(std::vector<float>& matrix, int64_t rows) const {
    const size_t begin = matrix.size();
    matrix.resize(begin + rows * columns_);
    return &matrix[begin];
  }

  // One tap of all inputs, from the kernel element (y, x) of a weight [out, in, k, k]. `first` and `step` say which of
  // its output channels are taken.
  void add_tap(PlainPhase& phase, TapOffset offset, int64_t y, int64_t x, int64_t first = 0, int64_t step = 1) const {
    phase.taps.push_back(offset);
    int64_t channel = 0;
    for (int input : layer_.inputs) {
      float* to = appended(phase.matrix, tensors_[input].padded_channels);
      for (int64_t k = 0; k < tensors_[input].channels; ++k, ++channel) {
        for (int64_t column = 0; column < layer_.channels; ++column) {
          const int64_t out = first + step * column;
          to[k * columns_ + column] =
              layer_.weight[(out * channels_in_ + channel) * taps_of_kernel() + y * layer_.kernel + x];
        }
      }
    }
  }

  // The 1×1 weight [channels, `channels`] turned around, as [`padded`, columns_].
  std::vector<float> turned(const std::vector<float>& weight, int64_t channels, int64_t padded) const {
    std::vector<float> matrix(padded * columns_);
    for (int64_t k = 0; k < channels; ++k) {
      for (int64_t out = 0; out < layer_.channels; ++out) matrix[k * columns_ + out] = weight[out * channels + k];
    }
    return matrix;
  }

  void convolution() {
    check_weights(layer_.channels * channels_in_ * taps_of_kernel(), layer_.channels);
    result_.facts.macs_a_pixel = taps_of_kernel() * channels_in_ * layer_.channels;
    result_.facts.input_scale = layer_.stride;
    if (layer_.shortcut >= 0) {
      const Tensor& tensor = tensors_[layer_.shortcut];
      require(layer_.shortcut_weight.size() == static_cast<size_t>(tensor.channels * layer_.channels) &&
                  layer_.shortcut_bias.size() == static_cast<size_t>(layer_.channels),
              layer_, "the shortcut's weights have another size than its widths ask for");
      result_.facts.macs_a_pixel += tensor.channels * layer_.channels;
      result_.shortcut_matrix = turned(layer_.shortcut_weight, tensor.channels, tensor.padded_channels);
      result_.shortcut_bias = layer_.shortcut_bias;
    }
    const int64_t padding = (layer_.kernel - 1) / 2;
    PlainPhase phase = {0, 0, {}, {}, layer_.bias};
    for (int64_t y = 0; y < layer_.kernel; ++y) {
      for (int64_t x = 0; x < layer_.kernel; ++x) add_tap(phase, {y - padding, x - padding}, y, x);
    }
    result_.phases.push_back(std::move(phase));
  }

  // Output pixel 2i takes kernel element 1 of input pixel i; 2i + 1 takes element 2 of i and element 0 of i + 1.
  void transposed() {
    require(layer_.kernel == 3, layer_, "transposed convolutions are 3×3");
    check_weights(channels_in_ * layer_.channels * 9, layer_.channels);
    result_.facts.output_scale = 2;
    result_.facts.macs_a_pixel = channels_in_ * layer_.channels * 9 / 4;
    const Tensor& tensor = tensors_[layer_.inputs[0]];
    const auto element = [](int64_t phase, int64_t offset) { return phase == 0 ? 1 : 2 - 2 * offset; };
    for (int64_t row = 0; row < 2; ++row) {
      for (int64_t column = 0; column < 2; ++column) {
        PlainPhase phase = {row, column, {}, {}, layer_.bias};
        for (int64_t dy = 0; dy <= row; ++dy) {
          for (int64_t dx = 0; dx <= column; ++dx) {
            phase.taps.push_back({dy, dx});
            float* to = appended(phase.matrix, tensor.padded_channels);
            const int64_t tap = element(row, dy) * 3 + element(column, dx);
            for (int64_t k = 0; k < tensor.channels; ++k) {
              for (int64_t out = 0; out < layer_.channels; ++out) {
                to[k * columns_ + out] = layer_.weight[(k * layer_.channels + out) * 9 + tap];
              }
            }
          }
        }
        result_.phases.push_back(std::move(phase));
      }
    }
  }

  // Every fourth channel of the convolution goes to one of the 2×2 output pixels.
  void sub_pixel() {
    require(layer_.kernel == 3, layer_, "sub-pixel convolutions are 3×3");
    check_weights(4 * layer_.channels * channels_in_ * 9, 4 * layer_.channels);
    result_.facts.output_scale = 2;
    result_.facts.macs_a_pixel = channels_in_ * layer_.channels * 9;
    for (int64_t which = 0; which < 4; ++which) {
      PlainPhase phase = {which / 2, which % 2, {}, {}, {}};
      for (int64_t y = 0; y < 3; ++y) {
        for (int64_t x = 0; x < 3; ++x) add_tap(phase, {y - 1, x - 1}, y, x, which, 4);
      }
      for (int64_t out = 0; out < layer_.channels; ++out) phase.bias.push_back(layer_.bias[4 * out + which]);
      result_.phases.push_back(std::move(phase));
    }
  }

  void separable() {
    check_weights(channels_in_ * layer_.channels, layer_.channels);
    require(layer_.depthwise_weight.size() == static_cast<size_t>(channels_in_ * taps_of_kernel()) &&
                layer_.depthwise_bias.size() == static_cast<size_t>(channels_in_),
            layer_, "the depthwise weights have another size than their width asks for");
    result_.facts.macs_a_pixel = channels_in_ * (taps_of_kernel() + layer_.channels);
    const int64_t padded = tensors_[layer_.inputs[0]].padded_channels;
    result_.depthwise_weights.resize(taps_of_kernel() * padded);
    for (int64_t channel = 0; channel < channels_in_; ++channel) {
      for (int64_t tap = 0; tap < taps_of_kernel(); ++tap) {
        result_.depthwise_weights[tap * padded + channel] = layer_.depthwise_weight[channel * taps_of_kernel() + tap];
      }
    }
    result_.depthwise_bias = layer_.depthwise_bias;
    result_.depthwise_bias.resize(padded);
    result_.matrix = turned(layer_.weight, channels_in_, padded);
    result_.bias = layer_.bias;
  }

  void output() {
    check_weights(channels_in_ * layer_.channels, layer_.channels);
    result_.facts.macs_a_pixel = channels_in_ * layer_.channels;
    const int64_t width = tensors_[layer_.inputs[0]].padded_channels;
    for (int64_t image = 0; image < layer_.channels; ++image) {
      const auto begin = layer_.weight.begin() + image * channels_in_;
      result_.matrix.insert(result_.matrix.end(), begin, begin + channels_in_);
      result_.matrix.resize((image + 1) * width);
    }
    result_.bias = layer_.bias;
  }

  const Layer& layer_;
  const std::vector<Tensor>& tensors_;
  const int64_t columns_;
  int64_t channels_in_ = 0;
  PlainLayer result_;
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

PlainStage rewrite_stage(const std::vector<Layer>& layers, int64_t image_channels) {
  PlainStage stage;
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
    stage.layers.push_back(Rewriting(layer, stage.tensors).rewrite(relu, rectified[layer.output]));
  }
  return stage;
}

std::vector<float> whole_bias(const PlainLayer& layer, const PlainPhase& phase, int64_t columns) {
  std::vector<float> bias = phase.bias;
  for (size_t i = 0; i < layer.shortcut_bias.size(); ++i) bias[i] += layer.shortcut_bias[i];
  bias.resize(columns);
  return bias;
}

}  // namespace modnas_fast
