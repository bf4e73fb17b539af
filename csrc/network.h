// A network that runs: its stages' packed weights, its threads, its arena, and the plan of the last image sizes.
#pragma once

#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "cpu/kernels.h"
#include "layer.h"
#include "memory.h"
#include "plan.h"
#include "prepare.h"
#include "threads.h"

namespace modnas_fast {

// A strided float32 image [channels, rows, columns]; strides count floats.
template <typename Value>
struct ImageView {
  Value* data;
  int64_t channel_stride, row_stride, column_stride;
};

struct RunRequest {
  size_t first_stage, last_stage;  // [first, last)
  ImageView<const float> x;        // the first stage's input [image channels, rows, columns]
  ImageView<const float> y;        // the noisy image; x itself for the first stage of all
  int64_t rows, columns;           // padded (replicate, right and bottom) to multiples of 8
  ImageView<float> out;            // [image channels, window's rows, window's columns]
  Window window;                   // of the result, that is written to `out`
};

// Called after every layer with the share of the run that is done; false cancels it.
using Progress = std::function<bool(double)>;

struct StageImages {
  float *input, *noisy, *output;  // all placed as the plan's tensors[0] is
};

struct Rows {
  int64_t begin, end;
};

struct LayerReport {
  std::string name, kernel;
  int64_t rows, columns, channels_in, channels_out, macs, bytes;
  double seconds;  // of one stage's, the mean over the runs and stages measured; 0 if there is none
};

class Network {
 public:
  // All stages have the same layers and weights of their own. An empty `variant` means the fastest kernels.
  // Raises std::invalid_argument.
  Network(int64_t image_channels, const std::vector<std::vector<Layer>>& stages, int threads,
          const std::string& variant, Storage storage = Storage::kFloat32);

  // Returns false if `progress` cancelled it. Calls from several threads take turns. Raises std::bad_alloc.
  bool run(const RunRequest& request, const Progress& progress);

  // Bytes that a run on this size needs beyond the weights.
  int64_t working_bytes(int64_t rows, int64_t columns) const;
  int64_t weight_bytes() const;
  // The plan for this size, with the times measured on it if any were.
  std::vector<LayerReport> report(int64_t rows, int64_t columns);
  void release();  // gives the arena back
  const char* variant() const { return kernels_->name; }
  int threads() const { return threads_.size(); }
  size_t stages() const { return stages_.size(); }
  int64_t image_channels() const { return image_channels_; }

 private:
  Plan& plan_for(int64_t rows, int64_t columns);
  // A layer, and the next one too where the tensor between them is rolling; returns how many.
  int run_layers(const PreparedStage& stage, size_t index, Plan& plan, const StageImages& images);
  // Rows of a layer's output, and all of its halo if so asked.
  void run_rows(const PreparedLayer& layer, const Plan& plan, const StageImages& images, Rows rows, bool halo);

  const int64_t image_channels_;
  const Storage storage_;  // of activations
  const Kernels* const kernels_;
  std::vector<PreparedStage> stages_;
  Threads threads_;
  Arena arena_, scratch_;
  int64_t scratch_stride_ = 0;  // bytes a thread
  std::list<Plan> plans_;       // latest first
  std::mutex mutex_;
};

}  // namespace modnas_fast
