#include "cuda/prepare.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <utility>

namespace modnas_fast::cuda {

namespace {

constexpr size_t kAlignment = 256;

void require(bool condition, const LayerFacts& layer, const char* what) {
  if (!condition) throw std::invalid_argument("layer " + layer.name + ": " + what);
}

// Bytes that are uploaded together; each part begins on an aligned offset.
class Blob {
 public:
  explicit Blob(const Kernels& kernels) : kernels_(kernels) {}

  int64_t add(const std::vector<float>& values) {
    return add(values.data(), values.size() * sizeof(float));
  }

  int64_t add_in_element_type(const std::vector<float>& values) {
    if (kernels_.element == Element::kFloat32) return add(values);
    std::vector<uint16_t> halves(values.size());
    for (size_t i = 0; i < values.size(); ++i) {
      const __half half = __float2half_rn(values[i]);
      const __nv_bfloat16 bfloat = __float2bfloat16_rn(values[i]);
      const bool is_half = kernels_.element == Element::kFloat16;
      std::memcpy(&halves[i], is_half ? static_cast<const void*>(&half) : &bfloat, sizeof(uint16_t));
    }
    return add(halves.data(), halves.size() * sizeof(uint16_t));
  }

  int64_t add_packed(const std::vector<float>& matrix, const std::vector<float>& shortcut, int64_t columns) {
    std::vector<float> whole = matrix;
    whole.insert(whole.end(), shortcut.begin(), shortcut.end());
    const int rows = static_cast<int>(static_cast<int64_t>(matrix.size()) / columns);
    const int shortcut_rows = static_cast<int>(static_cast<int64_t>(shortcut.size()) / columns);
    std::vector<char> packed(kernels_.packed_bytes(rows, shortcut_rows, static_cast<int>(columns)));
    kernels_.pack(whole.data(), rows, shortcut_rows, static_cast<int>(columns), packed.data());
    return add(packed.data(), packed.size());
  }

  int64_t size() const { return static_cast<int64_t>(bytes_.size()); }
  std::vector<char> take() { return std::move(bytes_); }

 private:
  int64_t add(const void* data, size_t count) {
    const size_t begin = (bytes_.size() + kAlignment - 1) / kAlignment * kAlignment;
    bytes_.resize(begin + count);
    std::memcpy(bytes_.data() + begin, data, count);
    return static_cast<int64_t>(begin);
  }

  const Kernels& kernels_;
  std::vector<char> bytes_;
};

std::vector<float> padded(std::vector<float> values, int64_t size) {
  values.resize(size);
  return values;
}

class StagePreparation {
 public:
  StagePreparation(const PlainStage& stage, const Kernels& kernels, Blob& blob)
      : stage_(stage), kernels_(kernels), blob_(blob) {}

  PreparedStage prepare() {
    for (const PlainLayer& layer : stage_.layers) {
      const int64_t begin = blob_.size();
      const bool launched = add(layer);
      if (launched) result_.steps.back().weight_bytes += blob_.size() - begin;
    }
    result_.tensors = stage_.tensors;
    return std::move(result_);
  }

 private:
  bool add(const PlainLayer& layer) {
    const LayerFacts& facts = layer.facts;
    const bool reads_image = std::find(facts.inputs.begin(), facts.inputs.end(), 0) != facts.inputs.end();
    if (reads_image || facts.shortcut == 0) {
      stem(layer);
      return true;
    }
    switch (facts.op) {
      case Op::kBilinear:
      case Op::kNearest: check_readers(facts); return false;
      case Op::kConvolution:
      case Op::kTransposed:
      case Op::kSubPixel: convolution(layer); break;
      case Op::kSeparable: separable(layer); break;
      case Op::kOutput: output(layer); break;
    }
    return true;
  }

  void check_readers(const LayerFacts& facts) const {
    for (const PlainLayer& layer : stage_.layers) {
      const std::vector<int>& inputs = layer.facts.inputs;
      const bool reads = std::find(inputs.begin(), inputs.end(), facts.output) != inputs.end();
      require(layer.facts.shortcut != facts.output && (!reads || layer.facts.op == Op::kConvolution), facts,
              "an interpolation is read by convolutions alone");
    }
  }

  // The tensor, or what it is interpolated from.
  Operand operand(int tensor) const {
    if (tensor < 0) return {};
    const LayerFacts& maker = stage_.layers[tensor - 1].facts;
    if (maker.op == Op::kBilinear) return {maker.inputs[0], Interpolation::kBilinear};
    if (maker.op == Op::kNearest) return {maker.inputs[0], Interpolation::kNearest};
    return {tensor, Interpolation::kNone};
  }

  Step& add_step(StepKind kind, const LayerFacts& facts) {
    Step step = {};
    step.name = facts.name;
    step.kind = kind;
    for (size_t i = 0; i < facts.inputs.size() && kind != StepKind::kStem; ++i) {
      step.sources[i] = operand(facts.inputs[i]);
    }
    step.shortcut = operand(facts.shortcut);
    step.output = facts.output;
    step.written = true;
    step.relu_in = facts.relu_in;
    step.relu_out = facts.relu_out;
    step.stride = static_cast<int>(facts.input_scale);
    step.scale = static_cast<int>(facts.output_scale);
    step.kernel = facts.kernel;
    step.dilation = facts.dilation;
    step.macs_a_pixel = facts.macs_a_pixel;
    result_.steps.push_back(std::move(step));
    return result_.steps.back();
  }

  int64_t columns(const LayerFacts& facts) const { return stage_.tensors[facts.output].padded_channels; }

  void stem(const PlainLayer& layer) {
    const LayerFacts& facts = layer.facts;
    require(facts.op == Op::kConvolution && facts.kernel == 3 && facts.input_scale == 1 && facts.inputs.size() == 1 &&
                facts.shortcut < 0 && !facts.relu_in,
            facts, "only a 3×3 convolution of stride 1 without ReLU reads the image");
    const Tensor& image = stage_.tensors[0];
    const PlainPhase& phase = layer.phases.front();
    std::vector<float> matrix;  // without the image's padding
    for (int64_t row = 0; row < 9 * image.padded_channels; ++row) {
      if (row % image.padded_channels >= image.channels) continue;
      const auto begin = phase.matrix.begin() + row * columns(facts);
      matrix.insert(matrix.end(), begin, begin + columns(facts));
    }
    Step& step = add_step(StepKind::kStem, facts);
    step.weights = blob_.add(matrix);
    step.bias = blob_.add(padded(phase.bias, columns(facts)));
  }

  void convolution(const PlainLayer& layer) {
    const LayerFacts& facts = layer.facts;
    require(layer.phases.front().taps.size() <= kMostTaps, facts, "its kernel has at most 5 rows");
    Step& step = add_step(StepKind::kConvolution, facts);
    std::vector<float> bias;
    for (const PlainPhase& plain : layer.phases) {
      StepPhase made = {};
      made.phase.row = static_cast<int>(plain.row);
      made.phase.column = static_cast<int>(plain.column);
      made.phase.num_taps = static_cast<int>(plain.taps.size());
      for (size_t tap = 0; tap < plain.taps.size(); ++tap) {
        made.phase.taps[tap] = {static_cast<int8_t>(plain.taps[tap].dy), static_cast<int8_t>(plain.taps[tap].dx)};
      }
      made.weights = blob_.add_packed(plain.matrix, layer.shortcut_matrix, columns(facts));
      step.phases.push_back(made);
      const std::vector<float> part = whole_bias(layer, plain, columns(facts));
      bias.insert(bias.end(), part.begin(), part.end());
    }
    step.bias = blob_.add(bias);
  }

  void separable(const PlainLayer& layer) {
    const LayerFacts& facts = layer.facts;
    require(facts.kernel <= 5 && facts.dilation <= 2, facts, "a depthwise kernel has at most 5 rows, of dilation 1 or 2");
    Step& step = add_step(StepKind::kSeparable, facts);
    step.depthwise_weights = blob_.add_in_element_type(layer.depthwise_weights);
    step.depthwise_bias = blob_.add(layer.depthwise_bias);
    step.weights = blob_.add_packed(layer.matrix, {}, columns(facts));
    step.bias = blob_.add(padded(layer.bias, columns(facts)));
  }

  void output(const PlainLayer& layer) {
    const LayerFacts& facts = layer.facts;
    const StageEnd end = {blob_.add(layer.matrix), blob_.add(layer.bias), facts.delta};
    const int h = facts.inputs[0];
    Step* last = result_.steps.empty() ? nullptr : &result_.steps.back();
    if (last != nullptr && last->output == h && last->kind != StepKind::kStem && last->scale == 1 &&
        readers_of(h) == 1 && kernels_.fuses_output(static_cast<int>(stage_.tensors[h].padded_channels))) {
      last->name += " + " + facts.name;
      last->written = false;
      last->macs_a_pixel += facts.macs_a_pixel;
    } else {
      last = &add_step(StepKind::kOutput, facts);
    }
    last->ends = true;
    last->end = end;
  }

  int readers_of(int tensor) const {
    int count = 0;
    for (const PlainLayer& layer : stage_.layers) {
      count += static_cast<int>(std::count(layer.facts.inputs.begin(), layer.facts.inputs.end(), tensor));
      count += layer.facts.shortcut == tensor ? 1 : 0;
    }
    return count;
  }

  const PlainStage& stage_;
  const Kernels& kernels_;
  Blob& blob_;
  PreparedStage result_;
};

}  // namespace

PreparedNetwork prepare_network(const std::vector<std::vector<Layer>>& stages, int64_t image_channels,
                                const Kernels& kernels) {
  PreparedNetwork network;
  Blob blob(kernels);
  for (const std::vector<Layer>& layers : stages) {
    const PlainStage plain = rewrite_stage(layers, image_channels);
    network.stages.push_back(StagePreparation(plain, kernels, blob).prepare());
  }
  network.weights = blob.take();
  return network;
}

}  // namespace modnas_fast::cuda
