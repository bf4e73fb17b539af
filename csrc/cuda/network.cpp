#include "cuda/network.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <utility>

#include "check.h"

namespace modnas_fast::cuda {

namespace {

constexpr int kTimedLaunches = 20;

const Kernels& require_kernels(Element element, int capability) {
  const Kernels* kernels = select_kernels(element, capability);
  if (kernels == nullptr) throw std::invalid_argument("the device cannot run kernels of this element type");
  return *kernels;
}

const char* kernel_name(const Step& step) {
  switch (step.kind) {
    case StepKind::kStem: return "stem";
    case StepKind::kConvolution: return step.shortcut.tensor >= 0 ? "convolution + 1x1" : "convolution";
    case StepKind::kSeparable: return "depthwise + 1x1";
    case StepKind::kOutput: return "1x1 + relaxation";
  }
  return "";
}

void refuse_capture(cudaStream_t stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  if (cudaStreamIsCapturing(stream, &status) != cudaSuccess) cudaGetLastError();
  if (status == cudaStreamCaptureStatusActive) {
    throw CudaError("the stream is being captured in a CUDA graph; call the engine outside, it makes graphs itself");
  }
}

bool same(const Image& a, const Image& b) {
  return a.data == b.data && std::equal(a.strides, a.strides + 4, b.strides);
}

}  // namespace

Network::Network(int64_t image_channels, const std::vector<std::vector<Layer>>& stages, int device, int capability,
                 Element element)
    : image_channels_(image_channels),
      device_(device),
      kernels_(&require_kernels(element, capability)),
      prepared_((check_network(image_channels, stages, 1), prepare_network(stages, image_channels, *kernels_))),
      weights_(static_cast<int64_t>(prepared_.weights.size())) {
  // A plain cudaMemcpy may return before its last bytes are there, and streams like ours would not wait for them.
  check(cudaMemcpyAsync(weights_.data(), prepared_.weights.data(), prepared_.weights.size(), cudaMemcpyHostToDevice,
                        stream_.get()),
        "copying weights");
  check(cudaStreamSynchronize(stream_.get()), "copying weights");
  prepared_.weights = {};
}

Network::~Network() {
  try {
    release();
  } catch (const std::exception&) {  // at the process's end the driver may be gone, and all memory with it
  }
}

std::vector<Network::Call> Network::calls_of(const RunRequest& request, const Plan& plan) const {
  std::vector<Call> calls;
  if (plan.noisy_offset >= 0) calls.push_back({request.first_stage, -1});
  for (size_t stage = request.first_stage; stage < request.last_stage; ++stage) {
    const int steps = static_cast<int>(prepared_.stages[stage].steps.size());
    for (int step = 0; step < steps; ++step) calls.push_back({stage, step});
  }
  return calls;
}

bool Network::touches_callers_memory(const Call& call, const RunRequest& request, const Plan& plan) const {
  if (call.step < 0) return true;
  const Step& step = prepared_.stages[call.stage].steps[call.step];
  if (step.kind == StepKind::kStem) return call.stage == request.first_stage;
  return step.ends && (call.stage + 1 == request.last_stage || plan.noisy_offset < 0);
}

Image Network::arena_image(int64_t offset, const Plan& plan) const {
  const auto& [images, rows, columns] = plan.padded;
  return {reinterpret_cast<float*>(arena_.data() + offset),
          images,
          image_channels_,
          rows,
          columns,
          {image_channels_ * rows * columns, rows * columns, columns, 1}};
}

void Network::enqueue(const Call& call, const RunRequest& request, const Plan& plan, cudaStream_t stream) const {
  const bool continued = plan.noisy_offset >= 0;
  const Image noisy = continued ? arena_image(plan.noisy_offset, plan) : request.y;
  if (call.step < 0) {
    check(copy_image(request.y, noisy, stream), "copying an image");
    return;
  }
  const Image between = arena_image(plan.image_offset, plan);
  const bool whole = request.top == 0 && request.left == 0;
  const bool last = call.stage + 1 == request.last_stage;
  const Step& step = prepared_.stages[call.stage].steps[call.step];
  launch_step(step, call.stage == request.first_stage ? request.x : between, noisy,
              last && whole ? request.out : between, plan, stream);
  if (step.ends && last && !whole) {
    Image window = between;
    window.data += request.top * between.strides[2] + request.left;
    window.rows = request.out.rows;
    window.columns = request.out.columns;
    check(copy_image(window, request.out, stream), "copying an image");
  }
}

void Network::launch_step(const Step& step, const Image& x, const Image& y, const Image& out, const Plan& plan,
                          cudaStream_t stream) const {
  const std::vector<Tensor>& tensors = prepared_.stages.front().tensors;
  const auto source = [&](const Operand& operand) {
    if (operand.tensor < 0) return Source{};
    const Tensor& tensor = tensors[operand.tensor];
    return Source{arena_.data() + plan.offsets[operand.tensor], static_cast<int>(plan.padded.rows >> tensor.shift),
                  static_cast<int>(plan.padded.columns >> tensor.shift), static_cast<int>(tensor.padded_channels),
                  operand.interpolation};
  };
  const auto weights = [&](int64_t offset) { return reinterpret_cast<const float*>(weights_.data() + offset); };
  const int images = static_cast<int>(plan.padded.images);
  const Tensor& made = tensors[step.output];
  const Target target = {step.written && step.kind != StepKind::kOutput ? arena_.data() + plan.offsets[step.output]
                                                                        : nullptr,
                         static_cast<int>(plan.padded.rows >> made.shift),
                         static_cast<int>(plan.padded.columns >> made.shift), static_cast<int>(made.padded_channels),
                         step.relu_out};
  Output output = {};
  if (step.ends) {
    output.weights = weights(step.end.weights);
    output.bias = weights(step.end.bias);
    output.delta = step.end.delta;
    output.channels = static_cast<int>(image_channels_);
    output.rows = static_cast<int>(out.rows);
    output.columns = static_cast<int>(out.columns);
    output.y = y.data;
    output.x = out.data;
    std::copy(y.strides, y.strides + 4, output.y_strides);
    std::copy(out.strides, out.strides + 4, output.x_strides);
    output.not_finite = not_finite_.data();
  }
  switch (step.kind) {
    case StepKind::kStem: {
      Stem stem = {images, x.data, {}, static_cast<int>(x.channels), static_cast<int>(x.rows),
                   static_cast<int>(x.columns), weights(step.weights), weights(step.bias), target};
      std::copy(x.strides, x.strides + 4, stem.strides);
      check(kernels_->stem(stem, stream), step.name.c_str());
      break;
    }
    case StepKind::kConvolution: {
      Convolution convolution = {};
      convolution.images = images;
      for (int i = 0; i < 2; ++i) convolution.sources[i] = source(step.sources[i]);
      convolution.relu = step.relu_in;
      convolution.stride = step.stride;
      convolution.scale = step.scale;
      convolution.num_phases = static_cast<int>(step.phases.size());
      for (size_t i = 0; i < step.phases.size(); ++i) {
        convolution.phases[i] = step.phases[i].phase;
        convolution.phases[i].weights = weights(step.phases[i].weights);
      }
      convolution.bias = weights(step.bias);
      convolution.shortcut = source(step.shortcut);
      convolution.out = target;
      convolution.output = output;
      check(kernels_->convolution(convolution, stream), step.name.c_str());
      break;
    }
    case StepKind::kSeparable: {
      const Separable separable = {images, source(step.sources[0]), step.relu_in, step.kernel, step.dilation,
                                   weights(step.depthwise_weights), weights(step.depthwise_bias),
                                   weights(step.weights), weights(step.bias), target, output};
      check(kernels_->separable(separable, stream), step.name.c_str());
      break;
    }
    case StepKind::kOutput:
      check(kernels_->output(images, source(step.sources[0]), output, stream), step.name.c_str());
      break;
  }
}

Network::Known& Network::known(const Size& size) {
  const auto found =
      std::find_if(known_.begin(), known_.end(), [&](const Known& entry) { return entry.size == size; });
  if (found != known_.end()) {
    known_.splice(known_.begin(), known_, found);
  } else {
    if (known_.size() == kGraphs) {
      enqueued_.wait();  // the graph that goes may still run
      known_.pop_back();
    }
    known_.push_front({size, make_plan(prepared_.stages.front(), kernels_->element, stages(), size), nullptr, {}, {}});
  }
  return known_.front();
}

void Network::run(const RunRequest& request, cudaStream_t stream) {
  std::lock_guard<std::mutex> lock(mutex_);
  const CurrentDevice current(device_);
  const Size size = {request.y.images, request.y.rows, request.y.columns};
  const bool whole = request.last_stage - request.first_stage == stages() && same(request.x, request.y) &&
                     request.out.rows == size.rows && request.out.columns == size.columns;
  refuse_capture(stream);
  enqueued_.hold_back(stream);
  if (whole) {
    const bool again = std::any_of(known_.begin(), known_.end(), [&](const Known& k) { return k.size == size; });
    Known& entry = known(size);
    const int64_t before = arena_.bytes();
    reserve(entry.plan.bytes);
    if (again && arena_.bytes() == before) {
      run_graph(entry, request, stream);
    } else {
      for (const Call& call : calls_of(request, entry.plan)) enqueue(call, request, entry.plan, stream);
    }
  } else {
    const size_t count = request.last_stage - request.first_stage;
    const Plan plan = make_plan(prepared_.stages.front(), kernels_->element, count, size);
    reserve(plan.bytes);
    for (const Call& call : calls_of(request, plan)) enqueue(call, request, plan, stream);
  }
  enqueued_.record(stream);
}

void Network::run_graph(Known& entry, const RunRequest& request, cudaStream_t stream) {
  const auto enqueue_all = [&](const std::vector<Call>& calls) {
    return [&, calls](cudaStream_t to) {
      for (const Call& call : calls) enqueue(call, request, entry.plan, to);
    };
  };
  if (entry.graph == nullptr) {
    // Launches that know the caller's memory are parts of their own, so that they alone are replaced.
    entry.parts.clear();
    bool apart = true;
    for (const Call& call : calls_of(request, entry.plan)) {
      const bool touches = touches_callers_memory(call, request, entry.plan);
      if (touches || apart) entry.parts.emplace_back();
      entry.parts.back().push_back(call);
      apart = touches;
    }
    std::vector<Enqueue> parts;
    for (const std::vector<Call>& calls : entry.parts) parts.emplace_back(enqueue_all(calls));
    entry.graph = std::make_unique<GraphChain>(parts, stream_.get());
    ++graphs_made_;
  } else if (!same(entry.request.y, request.y) || !same(entry.request.out, request.out)) {
    try {
      for (size_t part = 0; part < entry.parts.size(); ++part) {
        if (!touches_callers_memory(entry.parts[part].front(), request, entry.plan)) continue;
        entry.graph->replace(part, enqueue_all(entry.parts[part]), stream_.get());
      }
    } catch (...) {
      entry.graph.reset();  // some of its parts know one caller's memory and some another's
      throw;
    }
  }
  entry.request = request;
  entry.graph->launch(stream);
}

void Network::wait(cudaStream_t stream) const {
  const CurrentDevice current(device_);
  check(cudaStreamSynchronize(stream), "computing");
}

bool Network::settle(cudaStream_t stream) {
  std::lock_guard<std::mutex> lock(mutex_);
  wait(stream);
  return std::exchange(*not_finite_.data(), 0) == 0;
}

void Network::reserve(int64_t bytes) {
  if (bytes <= arena_.bytes()) return;
  enqueued_.wait();
  for (Known& entry : known_) entry.graph.reset();  // they know the arena's place
  arena_.reserve(bytes);
}

int64_t Network::working_bytes(const Size& size) const {
  return make_plan(prepared_.stages.front(), kernels_->element, stages(), size).bytes;
}

int64_t Network::available_bytes() const {
  const CurrentDevice current(device_);
  size_t free = 0, total = 0;
  check(cudaMemGetInfo(&free, &total), "asking for free memory");
  return static_cast<int64_t>(free) + arena_.bytes();
}

double Network::measure(const Step& step, const Plan& plan) {
  const Image image = arena_image(plan.image_offset, plan);
  Event begin(true), end(true);
  launch_step(step, image, image, image, plan, stream_.get());
  begin.record(stream_.get());
  for (int i = 0; i < kTimedLaunches; ++i) launch_step(step, image, image, image, plan, stream_.get());
  end.record(stream_.get());
  end.wait();
  return end.seconds_since(begin) / kTimedLaunches;
}

std::vector<StepReport> Network::report(const Size& size, bool timed) {
  std::lock_guard<std::mutex> lock(mutex_);
  const CurrentDevice current(device_);
  const PreparedStage& stage = prepared_.stages.front();
  const Plan plan = make_plan(stage, kernels_->element, 1, size);
  if (timed) {
    enqueued_.wait();
    reserve(plan.bytes);
    check(cudaMemsetAsync(arena_.data(), 0, static_cast<size_t>(plan.bytes), stream_.get()), "clearing memory");
  }
  std::vector<StepReport> lines;
  for (const Step& step : stage.steps) {
    const Tensor& made = stage.tensors[step.output];
    const int64_t rows = plan.padded.rows >> made.shift, columns = plan.padded.columns >> made.shift;
    const int64_t image = plan.padded.images * plan.padded.rows * plan.padded.columns * image_channels_ *
                          static_cast<int64_t>(sizeof(float));
    const bool stored = step.written && step.kind != StepKind::kOutput;
    StepReport line = {step.name, kernel_name(step), rows, columns, 0, made.channels,
                       step.macs_a_pixel * rows * columns * plan.padded.images, 0, 0, 0};
    line.bytes = stored ? tensor_bytes(made, kernels_->element, plan.padded) : image;
    line.traffic = line.bytes + step.weight_bytes + (step.ends ? image : 0);
    if (step.kind == StepKind::kStem) {
      line.channels_in = image_channels_;
      line.traffic += image;
    }
    for (const Operand& operand : step.sources) {
      if (operand.tensor >= 0) line.channels_in += stage.tensors[operand.tensor].channels;
    }
    for (const Operand& operand : {step.sources[0], step.sources[1], step.shortcut}) {
      if (operand.tensor >= 0) line.traffic += tensor_bytes(stage.tensors[operand.tensor], kernels_->element, plan.padded);
    }
    if (timed) line.seconds = measure(step, plan);
    lines.push_back(std::move(line));
  }
  *not_finite_.data() = 0;
  return lines;
}

void Network::release() {
  std::lock_guard<std::mutex> lock(mutex_);
  const CurrentDevice current(device_);
  enqueued_.wait();
  known_.clear();
  arena_.release();
}

}  // namespace modnas_fast::cuda
