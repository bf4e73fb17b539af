// A network that runs on one CUDA device: its weights there, its arena, and graphs for the sizes that come again.
#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "cuda/device.h"
#include "cuda/graph.h"
#include "cuda/image.h"
#include "cuda/kernels.h"
#include "cuda/plan.h"
#include "cuda/prepare.h"

namespace modnas_fast::cuda {

struct RunRequest {
  size_t first_stage, last_stage;  // [first, last)
  Image x;                         // the first stage's input
  Image y;                         // the noisy image; x itself for the first stage of all
  Image out;                       // a window of the result
  int64_t top, left;               // where that window begins
};

struct StepReport {
  std::string name, kernel;
  int64_t rows, columns, channels_in, channels_out, macs;
  int64_t bytes;    // of what is written
  int64_t traffic;  // bytes that are read and written at least, weights included
  double seconds;   // 0 if it was not measured
};

class Network {
 public:
  static constexpr size_t kGraphs = 16;  // sizes remembered

  // All stages have the same layers and weights of their own. Raises std::invalid_argument, also where the device cannot
  // run such elements, and as `check`.
  Network(int64_t image_channels, const std::vector<std::vector<Layer>>& stages, int device, int capability,
          Element element);
  ~Network();

  // Enqueues the call on `stream`, after what earlier calls enqueued elsewhere. Sizes are remembered if all stages run
  // on a whole image; the second time such a call becomes a graph. Raises std::bad_alloc.
  void run(const RunRequest& request, cudaStream_t stream);

  void wait(cudaStream_t stream) const;
  // The same; whether all results of calls since the last `settle` were finite.
  bool settle(cudaStream_t stream);

  // Bytes that a call of this size needs beyond weights and images; and those that the device has for it.
  int64_t working_bytes(const Size& size) const;
  int64_t available_bytes() const;
  int64_t weight_bytes() const { return weights_.bytes(); }
  // The plan for this size; with the time of every launch, repeated by itself, if `timed`.
  std::vector<StepReport> report(const Size& size, bool timed);
  void release();  // gives the arena and the graphs back
  size_t stages() const { return prepared_.stages.size(); }
  int64_t image_channels() const { return image_channels_; }
  int device() const { return device_; }
  cudaStream_t stream() const { return stream_.get(); }  // for callers who have none
  int64_t graphs_made() const { return graphs_made_; }

 private:
  // One launch, or the copy that continues y (step −1).
  struct Call {
    size_t stage;
    int step;
  };
  struct Known {
    Size size;
    Plan plan;
    std::unique_ptr<GraphChain> graph;  // from the second call on
    std::vector<std::vector<Call>> parts;
    RunRequest request;  // the graph's
  };

  std::vector<Call> calls_of(const RunRequest& request, const Plan& plan) const;
  bool touches_callers_memory(const Call& call, const RunRequest& request, const Plan& plan) const;
  void enqueue(const Call& call, const RunRequest& request, const Plan& plan, cudaStream_t stream) const;
  void launch_step(const Step& step, const Image& x, const Image& y, const Image& out, const Plan& plan,
                   cudaStream_t stream) const;
  Image arena_image(int64_t offset, const Plan& plan) const;
  Known& known(const Size& size);
  void run_graph(Known& entry, const RunRequest& request, cudaStream_t stream);
  void reserve(int64_t bytes);
  double measure(const Step& step, const Plan& plan);

  const int64_t image_channels_;
  const int device_;
  const Kernels* const kernels_;
  PreparedNetwork prepared_;
  Memory weights_, arena_;
  HostFlag not_finite_;
  Stream stream_;  // captures, measures, and serves callers who have none
  Event enqueued_;
  std::list<Known> known_;  // latest first
  int64_t graphs_made_ = 0;
  std::mutex mutex_;
};

}  // namespace modnas_fast::cuda
