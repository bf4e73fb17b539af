#include "plan.h"

#include <algorithm>
#include <numeric>

#include "memory.h"

namespace modnas_fast {

namespace {

constexpr int64_t kSlack = 16;  // elements that a kernel may read beyond the last pixel
constexpr int64_t kInPlaceBytes = int64_t{1} << 20;  // smaller tensors stay in the L2 cache; bands cost waiting
constexpr int64_t kRollingColumns = 768;  // in narrower ones bands end so often that threads wait: 3 % at 512

int64_t aligned(int64_t bytes) { return (bytes + Arena::kAlignment - 1) / Arena::kAlignment * Arena::kAlignment; }

// What one of a rolling tensor's bands takes.
int64_t band_bytes(const Placement& tensor) {
  const int64_t rows = tensor.before + kBandRows + tensor.rows_after;
  return aligned((rows * tensor.row_stride() + kSlack) * element_bytes(tensor.storage));
}

// Makes the tensor's halo large enough for one that reads `before` to the left and above, and `after` beyond.
void widen(Placement& tensor, int64_t before, int64_t rows_after, int64_t columns_after) {
  tensor.before = std::max(tensor.before, before);
  tensor.rows_after = std::max(tensor.rows_after, rows_after);
  tensor.columns_after = std::max(tensor.columns_after, columns_after);
}

void widen_inputs(std::vector<Placement>& tensors, const PreparedLayer& layer) {
  if (layer.algorithm == Algorithm::kWinograd) {
    const int64_t reach = layer.facts.kernel / 2, outputs = winograd_outputs(layer.facts.kernel);
    for (int input : layer.facts.inputs) {
      Placement& tensor = tensors[input];
      // Tiles hang over the border by up to outputs − 1.
      widen(tensor, reach, reach + (outputs - tensor.rows % outputs) % outputs,
            reach + (outputs - tensor.columns % outputs) % outputs);
    }
  } else if (layer.algorithm == Algorithm::kSeparable) {
    const int64_t reach = int64_t{layer.facts.kernel / 2} * layer.facts.dilation;
    widen(tensors[layer.facts.inputs[0]], reach, reach, reach);
  } else {
    for (const Phase& phase : layer.phases) {
      for (const TapPlace& tap : phase.taps) {
        const int64_t after_rows = std::max<int64_t>(0, tap.dy), after_columns = tap.dx + tap.width - 1;
        widen(tensors[tap.tensor], std::max<int64_t>({0, -tap.dy, -tap.dx}), after_rows,
              std::max<int64_t>(0, after_columns));
      }
    }
  }
}

// Gives all tensors of a resolution, images apart, one halo, so that one may take another's place.
void unite_halos(const PreparedStage& stage, std::vector<Placement>& tensors) {
  const size_t end = tensors.size() - 1;
  for (size_t tensor = 1; tensor < end; ++tensor) {
    for (size_t other = 1; other < end; ++other) {
      if (stage.tensors[other].shift != stage.tensors[tensor].shift) continue;
      widen(tensors[tensor], tensors[other].before, tensors[other].rows_after, tensors[other].columns_after);
    }
  }
}

// Makes wide tensors rolling that only the next layer reads, where that has stride 1: it follows a band behind. Both
// layers are then one step of every lifetime.
void roll(const PreparedStage& stage, std::vector<Placement>& tensors, std::vector<Lifetime>& lifetimes) {
  std::vector<int> readings(tensors.size());
  for (const PreparedLayer& layer : stage.layers) {
    for (int input : layer.facts.inputs) ++readings[input];
    if (layer.facts.shortcut >= 0) readings[layer.facts.shortcut] += 2;
  }
  for (int step = 0; step + 1 < static_cast<int>(stage.layers.size()); ++step) {
    const LayerFacts &facts = stage.layers[step].facts, &next = stage.layers[step + 1].facts;
    const Algorithm reader = stage.layers[step + 1].algorithm;
    const bool read_next = std::find(next.inputs.begin(), next.inputs.end(), facts.output) != next.inputs.end();
    if (!read_next || readings[facts.output] != 1 || facts.shortcut >= 0 ||
        (reader != Algorithm::kWinograd && reader != Algorithm::kSeparable) ||
        tensors[facts.output].columns < kRollingColumns || tensors[facts.output].rows <= 2 * kBandRows) {
      continue;
    }
    tensors[facts.output].rolling = true;
    lifetimes[next.output].first_step = step;
    for (int input : facts.inputs) lifetimes[input].last_step = std::max(lifetimes[input].last_step, step + 1);
    ++step;
  }
}

// A residual block's sum replaces what its shortcut reads, for nobody after it: every task reads those pixels, and no
// others of them, before it writes them. Returns for each tensor the one whose memory it takes over, or itself.
std::vector<int> replaced_tensors(const PreparedStage& stage, const std::vector<Placement>& tensors,
                                  std::vector<Lifetime>& lifetimes) {
  std::vector<int> owners(tensors.size());
  std::iota(owners.begin(), owners.end(), 0);
  for (int step = 0; step < static_cast<int>(stage.layers.size()); ++step) {
    const PreparedLayer& layer = stage.layers[step];
    const LayerFacts& facts = layer.facts;
    if (layer.algorithm != Algorithm::kWinograd || facts.shortcut <= 0) continue;
    const bool read_otherwise =
        std::find(facts.inputs.begin(), facts.inputs.end(), facts.shortcut) != facts.inputs.end();
    const int owner = owners[facts.shortcut];
    if (read_otherwise || lifetimes[owner].last_step != step ||
        tensors[owner].channels != tensors[facts.output].channels) {
      continue;
    }
    owners[facts.output] = owner;
    lifetimes[owner].last_step = lifetimes[facts.output].last_step;
  }
  return owners;
}

// Convolutions whose output may overwrite the input that nobody reads after them: it lies so far before it that a band's
// rows end where the next band's operands begin. `owners` are those of `replaced_tensors`.
std::vector<Tie> in_place_ties(const PreparedStage& stage, const std::vector<Placement>& tensors,
                               const std::vector<int>& owners, const std::vector<Lifetime>& lifetimes,
                               std::vector<bool>& in_place) {
  std::vector<Tie> ties;
  for (int step = 0; step < static_cast<int>(stage.layers.size()); ++step) {
    const PreparedLayer& layer = stage.layers[step];
    const LayerFacts& facts = layer.facts;
    if (layer.algorithm != Algorithm::kWinograd || facts.shortcut >= 0) continue;
    const Placement& output = tensors[facts.output];
    if (output.rolling || output.bytes() < kInPlaceBytes || owners[facts.output] != facts.output) continue;
    for (int input : facts.inputs) {
      const Placement& from = tensors[input];
      const int owner = owners[input];
      if (input == 0 || from.rolling || lifetimes[owner].last_step != step) continue;
      if (output.row_stride() > from.row_stride()) continue;
      const int64_t bytes =
          ((output.before + kBandRows) * output.row_stride() + kSlack) * element_bytes(output.storage);
      ties.push_back({facts.output, owner, aligned(bytes)});
      in_place[step] = true;
      break;
    }
  }
  return ties;
}

}  // namespace

int64_t Placement::bytes() const {
  if (rolling) return 2 * band_bytes(*this);
  return ((before + rows + rows_after) * row_stride() + kSlack) * element_bytes(storage);
}

Placement Placement::band(int64_t row) const {
  Placement part = *this;
  part.rolling = false;
  part.rows = std::min(kBandRows, rows - row);
  part.offset += row / kBandRows % 2 * band_bytes(*this);
  return part;
}

Plan make_plan(const PreparedStage& stage, Storage storage, int64_t rows, int64_t columns, bool only_stage) {
  Plan plan = {};
  plan.rows = rows;
  plan.columns = columns;
  for (const Tensor& tensor : stage.tensors) {
    const int64_t height = rows >> tensor.shift, width = columns >> tensor.shift;
    plan.tensors.push_back({height, width, tensor.padded_channels, 0, 0, 0, storage, 0, false});
  }
  const int count = static_cast<int>(plan.tensors.size());
  std::vector<Lifetime> lifetimes(count);
  for (int step = 0; step < static_cast<int>(stage.layers.size()); ++step) {
    const PreparedLayer& layer = stage.layers[step];
    widen_inputs(plan.tensors, layer);
    lifetimes[layer.facts.output].first_step = lifetimes[layer.facts.output].last_step = step;
    for (int input : layer.facts.inputs) lifetimes[input].last_step = step;
    if (layer.facts.shortcut >= 0) lifetimes[layer.facts.shortcut].last_step = step;
  }
  unite_halos(stage, plan.tensors);
  Placement& image = plan.tensors.front();
  image.storage = Storage::kFloat32;
  plan.tensors.back() = image;  // the next stage's input
  roll(stage, plan.tensors, lifetimes);

  const std::vector<int> owners = replaced_tensors(stage, plan.tensors, lifetimes);
  for (int tensor = 1; tensor + 1 < count; ++tensor) {
    if (owners[tensor] != tensor) continue;  // its bytes stay 0
    lifetimes[tensor].bytes = plan.tensors[tensor].bytes();
  }
  lifetimes.front() = lifetimes.back() = {0, 0, 0};
  const int last = static_cast<int>(stage.layers.size());
  lifetimes.push_back({image.bytes(), 0, last});
  lifetimes.push_back({image.bytes(), only_stage ? last - 1 : 0, last});
  lifetimes.push_back({only_stage ? 0 : image.bytes(), 0, last});
  plan.in_place.assign(stage.layers.size(), false);
  const Layout layout =
      lay_out(lifetimes, in_place_ties(stage, plan.tensors, owners, lifetimes, plan.in_place));
  for (int tensor = 0; tensor < count; ++tensor) {
    plan.tensors[tensor].offset = layout.offsets[owners[tensor]];
  }
  for (int i = 0; i < 3; ++i) {
    plan.image_offsets[i] = layout.offsets[count + i];
  }
  plan.bytes = layout.bytes;
  plan.layer_seconds.assign(stage.layers.size(), 0);
  return plan;
}

}  // namespace modnas_fast
