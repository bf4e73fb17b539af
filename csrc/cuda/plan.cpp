#include "cuda/plan.h"

#include "memory.h"

namespace modnas_fast::cuda {

namespace {
int64_t round_up(int64_t size) { return (size + 7) / 8 * 8; }
}  // namespace

int64_t tensor_bytes(const Tensor& tensor, Element element, const Size& padded) {
  return padded.images * (padded.rows >> tensor.shift) * (padded.columns >> tensor.shift) * tensor.padded_channels *
         element_bytes(element);
}

Plan make_plan(const PreparedStage& stage, Element element, size_t num_stages, const Size& size) {
  Plan plan = {};
  plan.padded = {size.images, round_up(size.rows), round_up(size.columns)};
  std::vector<Lifetime> lifetimes(stage.tensors.size());
  const int last = static_cast<int>(stage.steps.size()) - 1;
  for (int index = 0; index <= last; ++index) {
    const Step& step = stage.steps[index];
    if (step.written && step.kind != StepKind::kOutput) {
      lifetimes[step.output] = {tensor_bytes(stage.tensors[step.output], element, plan.padded), index, index};
    }
    for (const Operand& operand : {step.sources[0], step.sources[1], step.shortcut}) {
      if (operand.tensor > 0) lifetimes[operand.tensor].last_step = index;
    }
  }
  // The image between stages is written by a stage's last step, over the one that its stem has read.
  const int64_t image = plan.padded.images * plan.padded.rows * plan.padded.columns * stage.tensors[0].channels *
                        static_cast<int64_t>(sizeof(float));
  const bool continued = num_stages > 1 && !(plan.padded == size);
  lifetimes.push_back({image, 0, last});
  lifetimes.push_back({continued ? image : 0, 0, last});
  const Layout layout = lay_out(lifetimes);
  plan.offsets.assign(layout.offsets.begin(), layout.offsets.begin() + static_cast<int64_t>(stage.tensors.size()));
  for (size_t tensor = 0; tensor < stage.tensors.size(); ++tensor) {
    if (lifetimes[tensor].bytes == 0) plan.offsets[tensor] = -1;
  }
  plan.image_offset = layout.offsets[stage.tensors.size()];
  plan.noisy_offset = continued ? layout.offsets.back() : -1;
  plan.bytes = layout.bytes;
  return plan;
}

}  // namespace modnas_fast::cuda
