#include "prepare.h"

#include <utility>

#include "cpu/packing.h"

namespace modnas_fast {

namespace {

constexpr int64_t kSlack = 16;  // kernels load whole vectors, a last one beyond the end

Floats with_slack(const std::vector<float>& values) {
  Floats result(values.begin(), values.end());
  result.resize(result.size() + kSlack);
  return result;
}

// One layer's way from plain matrices to packed ones.
class Packing {
 public:
  Packing(const PlainLayer& layer, const std::vector<Tensor>& tensors, int lanes)
      : layer_(layer), tensors_(tensors), lanes_(lanes), columns_(tensors[layer.facts.output].padded_channels) {
    for (int input : layer.facts.inputs) rows_ += tensors[input].padded_channels;
  }

  PreparedLayer pack() {
    result_.facts = layer_.facts;
    switch (layer_.facts.op) {
      case Op::kConvolution:
      case Op::kTransposed:
      case Op::kSubPixel:
        if (winograd_wins()) {
          winograd();
        } else {
          direct();
        }
        break;
      case Op::kSeparable:
        result_.algorithm = Algorithm::kSeparable;
        result_.depthwise_weights = with_slack(layer_.depthwise_weights);
        result_.depthwise_bias = with_slack(layer_.depthwise_bias);
        result_.weights = packed(layer_.matrix);
        result_.bias = packed_bias(layer_.bias);
        break;
      case Op::kBilinear:
      case Op::kNearest: result_.algorithm = Algorithm::kUpsample; break;
      case Op::kOutput:
        result_.algorithm = Algorithm::kOutput;
        result_.weights = Floats(layer_.matrix.begin(), layer_.matrix.end());
        result_.bias = Floats(layer_.bias.begin(), layer_.bias.end());
        break;
    }
    return std::move(result_);
  }

 private:
  Floats packed(const std::vector<float>& matrix) const {
    return with_slack(pack_matrix(matrix, static_cast<int64_t>(matrix.size()) / columns_, columns_, lanes_));
  }
  Floats packed_bias(std::vector<float> bias) const {
    bias.resize(columns_);
    return with_slack(pack_bias(bias, columns_, lanes_));
  }

  // By arithmetic: 2.25 products an output instead of 9, or 9 instead of 25, but transforms whose cost a few channels
  // would not repay.
  bool winograd_wins() const {
    int64_t channels = 0;
    for (int input : layer_.facts.inputs) channels += tensors_[input].channels;
    return layer_.facts.op == Op::kConvolution && layer_.facts.input_scale == 1 &&
           (layer_.facts.kernel == 3 || layer_.facts.kernel == 5) && channels >= 8;
  }

  void winograd() {
    result_.algorithm = Algorithm::kWinograd;
    const PlainPhase& plain = layer_.phases.front();
    for (const std::vector<float>& matrix : winograd_weights(plain.matrix, layer_.facts.kernel, rows_, columns_)) {
      const std::vector<float> tile = pack_matrix(matrix, rows_, columns_, lanes_);
      result_.weight_stride = static_cast<int64_t>(tile.size());
      result_.weights.insert(result_.weights.end(), tile.begin(), tile.end());
    }
    result_.bias = packed_bias(plain.bias);
    if (layer_.facts.shortcut >= 0) {
      Phase phase;
      phase.taps.push_back({layer_.facts.shortcut, 0, 0, 1, false});
      phase.weights = packed(layer_.shortcut_matrix);
      phase.bias = packed_bias(whole_bias(layer_, plain, columns_));
      result_.phases.push_back(std::move(phase));
    }
  }

  void direct() {
    result_.algorithm = Algorithm::kTaps;
    for (const PlainPhase& plain : layer_.phases) {
      Phase phase;
      phase.row = plain.row;
      phase.column = plain.column;
      std::vector<float> matrix;
      for (size_t first = 0, next; first < plain.taps.size(); first = next) {
        next = first + 1;
        while (next < plain.taps.size() && plain.taps[next].dy == plain.taps[first].dy) ++next;
        add_row(phase, matrix, plain, first, next);
      }
      if (layer_.facts.shortcut >= 0) {
        phase.taps.push_back({layer_.facts.shortcut, 0, 0, 1, false});
        matrix.insert(matrix.end(), layer_.shortcut_matrix.begin(), layer_.shortcut_matrix.end());
      }
      phase.weights = packed(matrix);
      phase.bias = packed_bias(whole_bias(layer_, plain, columns_));
      result_.phases.push_back(std::move(phase));
    }
  }

  // The taps [first, end), which are neighbours, of one input after the other: together one tap of many pixels.
  void add_row(Phase& phase, std::vector<float>& matrix, const PlainPhase& plain, size_t first, size_t end) const {
    int64_t channel = 0;
    for (int input : layer_.facts.inputs) {
      const int64_t channels = tensors_[input].padded_channels;
      const TapOffset& offset = plain.taps[first];
      const int64_t width = static_cast<int64_t>(end - first);
      phase.taps.push_back({input, offset.dy, offset.dx, width, layer_.facts.relu_in});
      for (size_t tap = first; tap < end; ++tap) {
        const auto begin = plain.matrix.begin() + (static_cast<int64_t>(tap) * rows_ + channel) * columns_;
        matrix.insert(matrix.end(), begin, begin + channels * columns_);
      }
      channel += channels;
    }
  }

  const PlainLayer& layer_;
  const std::vector<Tensor>& tensors_;
  const int lanes_;
  const int64_t columns_;
  int64_t rows_ = 0;  // of one tap's matrix
  PreparedLayer result_;
};

}  // namespace

PreparedStage prepare_stage(const std::vector<Layer>& layers, int64_t image_channels, int lanes) {
  PlainStage plain = rewrite_stage(layers, image_channels);
  PreparedStage stage;
  for (const PlainLayer& layer : plain.layers) stage.layers.push_back(Packing(layer, plain.tensors, lanes).pack());
  stage.tensors = std::move(plain.tensors);
  return stage;
}

}  // namespace modnas_fast
