#include "network.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <stdexcept>

#include "check.h"
#include "image.h"

namespace modnas_fast {

namespace {

constexpr size_t kPlans = 4;            // sizes remembered
constexpr int64_t kTasksAThread = 8;    // row-wise kernels: enough to balance, few enough to be worth taking
constexpr int64_t kSizeMultiple = 8;

int64_t round_up(int64_t size, int64_t to) { return (size + to - 1) / to * to; }

const char* kernel_name(const PreparedLayer& layer) {
  switch (layer.algorithm) {
    case Algorithm::kTaps: return "direct";
    case Algorithm::kWinograd: return layer.facts.kernel == 3 ? "winograd F(4x4,3x3)" : "winograd F(2x2,5x5)";
    case Algorithm::kSeparable: return "depthwise + 1x1";
    case Algorithm::kUpsample: return "interpolation";
    case Algorithm::kOutput: return "1x1 + relaxation";
  }
  return "";
}

int64_t scratch_floats(const PreparedLayer& layer, const std::vector<Tensor>& tensors) {
  const int64_t channels_out = tensors[layer.facts.output].padded_channels;
  int64_t channels_in = 0, floats = 0;
  for (int input : layer.facts.inputs) channels_in += tensors[input].padded_channels;
  if (layer.algorithm == Algorithm::kWinograd) {
    return winograd_scratch(channels_in, channels_out,
                            layer.facts.shortcut < 0 ? 0 : tensors[layer.facts.shortcut].padded_channels);
  }
  if (layer.algorithm == Algorithm::kSeparable) return separable_scratch(channels_in, channels_out);
  for (const Phase& phase : layer.phases) {
    int64_t spans = 0;
    for (const TapPlace& tap : phase.taps) {
      const int64_t channels = tensors[tap.tensor].padded_channels;
      spans += taps_span(layer.facts.input_scale * channels, tap.width * channels);
    }
    floats = std::max(floats, spans + kTapsPixels * scratch_stride(channels_out));
  }
  return floats;
}

template <typename Work>
void timed(double& seconds, const Work& work) {
  const auto begin = std::chrono::steady_clock::now();
  work();
  const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - begin;
  seconds += taken.count();
}

// Tiles a task, whole register tiles: an equal share where that is less than a task can take.
int64_t winograd_chunk(int64_t tiles, int64_t threads) {
  return std::min(kWinogradTiles, round_up((tiles + threads - 1) / threads, 8));
}

}  // namespace

Network::Network(int64_t image_channels, const std::vector<std::vector<Layer>>& stages, int threads,
                 const std::string& variant, Storage storage)
    : image_channels_(image_channels),
      storage_(storage),
      kernels_(&require_kernels(variant.c_str(), storage)),
      threads_((check_network(image_channels, stages, threads), threads)) {
  for (const std::vector<Layer>& layers : stages) {
    stages_.push_back(prepare_stage(layers, image_channels, kernels_->lanes));
  }
  int64_t scratch = 0;
  for (const PreparedLayer& layer : stages_.front().layers) {
    scratch = std::max(scratch, scratch_floats(layer, stages_.front().tensors));
  }
  scratch_stride_ = round_up(scratch * static_cast<int64_t>(sizeof(float)), 4096);  // threads write to own pages
  scratch_.reserve(scratch_stride_ * threads_.size());
}

Plan& Network::plan_for(int64_t rows, int64_t columns) {
  const auto known = std::find_if(plans_.begin(), plans_.end(),
                                  [&](const Plan& plan) { return plan.rows == rows && plan.columns == columns; });
  if (known != plans_.end()) {
    plans_.splice(plans_.begin(), plans_, known);
  } else {
    plans_.push_front(make_plan(stages_.front(), storage_, rows, columns, stages_.size() == 1));
    if (plans_.size() > kPlans) plans_.pop_back();
  }
  return plans_.front();
}

bool Network::run(const RunRequest& request, const Progress& progress) {
  std::lock_guard<std::mutex> lock(mutex_);
  const int64_t rows = round_up(request.rows, kSizeMultiple), columns = round_up(request.columns, kSizeMultiple);
  Plan& plan = plan_for(rows, columns);
  arena_.reserve(plan.bytes);
  const Placement& image = plan.tensors.front();
  float* buffers[3];
  for (int i = 0; i < 3; ++i) buffers[i] = reinterpret_cast<float*>(arena_.data() + plan.image_offsets[i]);

  read_image(request.y, image_channels_, request.rows, request.columns, image, buffers[0]);
  float* x = buffers[0];
  if (request.x.data != request.y.data) {
    x = buffers[1];
    read_image(request.x, image_channels_, request.rows, request.columns, image, x);
  }
  const size_t layers = stages_.front().layers.size();
  const double steps = static_cast<double>(layers * (request.last_stage - request.first_stage));
  double done = 0;
  for (size_t stage = request.first_stage; stage < request.last_stage; ++stage) {
    const StageImages images = {x, buffers[0], x == buffers[1] ? buffers[2] : buffers[1]};
    for (size_t index = 0; index < layers;) {
      const int run = run_layers(stages_[stage], index, plan, images);
      index += run;
      done += run;
      if (progress && !progress(done / steps)) return false;
    }
    ++plan.measured;
    x = images.output;
  }
  write_image(x, image, image_channels_, request.window, request.out);
  return true;
}

int Network::run_layers(const PreparedStage& stage, size_t index, Plan& plan, const StageImages& images) {
  const PreparedLayer& layer = stage.layers[index];
  const Placement& place = plan.tensors[layer.facts.output];
  double* seconds = &plan.layer_seconds[index];
  const auto part = [&](const PreparedLayer& of, int64_t begin) {
    run_rows(of, plan, images, {begin, std::min(begin + kBandRows, place.rows)}, false);
  };
  if (place.rolling) {
    const PreparedLayer& reader = stage.layers[index + 1];
    for (int64_t row = 0; row < place.rows + kBandRows; row += kBandRows) {
      timed(seconds[0], [&] {
        if (row >= place.rows) return;
        part(layer, row);
        join_bands(place, row, arena_.data());
      });
      timed(seconds[1], [&] {
        if (row > 0) part(reader, row - kBandRows);
      });
    }
    const Placement& output = plan.tensors[reader.facts.output];
    timed(seconds[1], [&] { zero_halo(output, arena_.data() + output.offset); });
    return 2;
  }
  timed(seconds[0], [&] {
    if (!plan.in_place[index]) return run_rows(layer, plan, images, {0, place.rows}, true);
    for (int64_t row = 0; row < place.rows; row += kBandRows) part(layer, row);
    zero_halo(place, arena_.data() + place.offset);  // where operands were until now
  });
  return 1;
}

void Network::run_rows(const PreparedLayer& layer, const Plan& plan, const StageImages& images, Rows rows,
                       bool halo) {
  const LayerFacts& facts = layer.facts;
  const int last = static_cast<int>(plan.tensors.size()) - 1;
  // Where a tensor lies; a rolling one, as if its other bands were there too.
  const auto memory = [&](int tensor) -> void* {
    if (tensor == 0) return images.input;
    if (tensor == last) return images.output;
    const Placement& of = plan.tensors[tensor];
    if (!of.rolling) return arena_.data() + of.offset;
    return arena_.data() + of.band(rows.begin).offset - rows.begin * of.row_stride() * element_bytes(of.storage);
  };
  // Element `offset` of what a tensor stores, from pixel (0, 0) on.
  const auto element = [&](int tensor, int64_t offset) -> void* {
    const Placement& place = plan.tensors[tensor];
    return static_cast<char*>(memory(tensor)) + (place.origin() + offset) * element_bytes(place.storage);
  };
  const auto source = [&](int tensor, int64_t scale, bool relu) {
    const Placement& place = plan.tensors[tensor];
    return Source{element(tensor, 0), place.storage, scale * place.row_stride(), scale * place.pixel_stride(),
                  place.channels, relu};
  };
  const Placement& place = plan.tensors[facts.output];
  const Target target = {element(facts.output, 0), place.storage, place.row_stride(), place.pixel_stride(),
                         place.rows, place.columns, place.channels, facts.relu_out};

  // Phases of the taps kernel, and a shortcut, which is one.
  std::vector<std::vector<Source>> taps;
  std::vector<TapsArguments> phases;
  for (const Phase& phase : layer.phases) {
    std::vector<Source> sources;
    for (const TapPlace& tap : phase.taps) {
      Source from = source(tap.tensor, tap.tensor == facts.shortcut ? 1 : facts.input_scale, tap.relu);
      const Placement& tensor = plan.tensors[tap.tensor];
      from.data = element(tap.tensor, tap.dy * tensor.row_stride() + tap.dx * tensor.pixel_stride());
      from.channels *= tap.width;
      sources.push_back(from);
    }
    taps.push_back(std::move(sources));
    Target out = target;
    out.data = element(facts.output, phase.row * place.row_stride() + phase.column * place.pixel_stride());
    out.row_stride *= facts.output_scale;
    out.pixel_stride *= facts.output_scale;
    out.rows /= facts.output_scale;
    out.columns /= facts.output_scale;
    phases.push_back({taps.back().data(), static_cast<int64_t>(taps.back().size()), phase.weights.data(),
                      phase.bias.data(), out});
  }
  const auto scratch = [&](int thread) {
    return reinterpret_cast<float*>(scratch_.data() + thread * scratch_stride_);
  };

  // The last task zeroes the output's halo; the others compute.
  const auto in_rows = [&](int64_t passes, const auto& compute) {
    const int64_t first = rows.begin / facts.output_scale, end = rows.end / facts.output_scale;
    const int64_t chunk = std::max<int64_t>(1, (end - first) * passes / (threads_.size() * kTasksAThread));
    const int64_t chunks = (end - first + chunk - 1) / chunk;
    threads_.run(passes * chunks + (halo ? 1 : 0), [&](int64_t task, int thread) {
      if (task == passes * chunks) return zero_halo(place, memory(facts.output));
      const int64_t begin = first + task / passes * chunk;
      compute(task % passes, begin, std::min(begin + chunk, end), thread);
    });
  };

  switch (layer.algorithm) {
    case Algorithm::kTaps:
      in_rows(static_cast<int64_t>(phases.size()), [&](int64_t phase, int64_t begin, int64_t end, int thread) {
        kernels_->taps(phases[phase], scratch(thread), {begin, end, 0, phases[phase].out.columns});
      });
      break;
    case Algorithm::kWinograd: {
      Source sources[2];
      for (size_t i = 0; i < facts.inputs.size(); ++i) sources[i] = source(facts.inputs[i], 1, facts.relu_in);
      WinogradArguments arguments = {sources, static_cast<int64_t>(facts.inputs.size()), facts.kernel,
                                     layer.weights.data(), layer.weight_stride, layer.bias.data(), nullptr, target};
      if (!phases.empty()) {
        phases.front().out.relu = false;  // the sum is rectified, not this part of it
        arguments.shortcut = &phases.front();
      }
      const int64_t outputs = winograd_outputs(facts.kernel);
      const int64_t across = (place.columns + outputs - 1) / outputs;
      const int64_t first = rows.begin / outputs * across, end = (rows.end + outputs - 1) / outputs * across;
      const int64_t chunk = winograd_chunk(end - first, threads_.size()), chunks = (end - first + chunk - 1) / chunk;
      threads_.run(chunks + (halo ? 1 : 0), [&](int64_t task, int thread) {
        if (task == chunks) return zero_halo(place, memory(facts.output));
        const int64_t begin = first + task * chunk;
        kernels_->winograd(arguments, scratch(thread), begin, std::min(begin + chunk, end));
      });
      break;
    }
    case Algorithm::kSeparable: {
      const SeparableArguments arguments = {source(facts.inputs[0], 1, facts.relu_in), facts.kernel, facts.dilation,
                                            layer.depthwise_weights.data(), layer.depthwise_bias.data(),
                                            layer.weights.data(), layer.bias.data(), target};
      in_rows(1, [&](int64_t, int64_t begin, int64_t end, int thread) {
        kernels_->separable(arguments, scratch(thread), {begin, end, 0, place.columns});
      });
      break;
    }
    case Algorithm::kUpsample: {
      const UpsampleArguments arguments = {source(facts.inputs[0], 1, false), facts.op == Op::kBilinear, target};
      in_rows(1, [&](int64_t, int64_t begin, int64_t end, int) {
        kernels_->upsample(arguments, {begin, end, 0, place.columns});
      });
      break;
    }
    case Algorithm::kOutput: {
      const OutputArguments arguments = {source(facts.inputs[0], 1, true), layer.weights.data(), layer.bias.data(),
                                         facts.delta, image_channels_, images.noisy + place.origin(), target};
      in_rows(1, [&](int64_t, int64_t begin, int64_t end, int) {
        kernels_->output(arguments, {begin, end, 0, place.columns});
      });
      break;
    }
  }
}

int64_t Network::working_bytes(int64_t rows, int64_t columns) const {
  check_size(rows, columns);
  const int64_t padded_rows = round_up(rows, kSizeMultiple), padded_columns = round_up(columns, kSizeMultiple);
  const Plan plan = make_plan(stages_.front(), storage_, padded_rows, padded_columns, stages_.size() == 1);
  return plan.bytes + scratch_.bytes();
}

int64_t Network::weight_bytes() const {
  size_t floats = 0;
  for (const PreparedStage& stage : stages_) {
    for (const PreparedLayer& layer : stage.layers) {
      floats += layer.weights.size() + layer.bias.size() + layer.depthwise_weights.size() + layer.depthwise_bias.size();
      for (const Phase& phase : layer.phases) floats += phase.weights.size() + phase.bias.size();
    }
  }
  return static_cast<int64_t>(floats * sizeof(float));
}

std::vector<LayerReport> Network::report(int64_t rows, int64_t columns) {
  check_size(rows, columns);
  std::lock_guard<std::mutex> lock(mutex_);
  const Plan& plan = plan_for(round_up(rows, kSizeMultiple), round_up(columns, kSizeMultiple));
  std::vector<LayerReport> lines;
  const PreparedStage& stage = stages_.front();
  for (size_t index = 0; index < stage.layers.size(); ++index) {
    const LayerFacts& facts = stage.layers[index].facts;
    const Placement& place = plan.tensors[facts.output];
    int64_t channels_in = 0;
    for (int input : facts.inputs) channels_in += stage.tensors[input].channels;
    lines.push_back({facts.name, kernel_name(stage.layers[index]), place.rows, place.columns, channels_in,
                     stage.tensors[facts.output].channels, facts.macs_a_pixel * place.rows * place.columns,
                     place.bytes(),
                     plan.measured == 0 ? 0 : plan.layer_seconds[index] / static_cast<double>(plan.measured)});
  }
  return lines;
}

void Network::release() {
  std::lock_guard<std::mutex> lock(mutex_);
  arena_.release();
}

}  // namespace modnas_fast
