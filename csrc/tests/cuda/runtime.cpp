// Devices that are the host's memory, with a size that tests choose. Work is done when it is enqueued, or, if tests ask
// for that, as late as it may be: then what nobody waited for shows.
#include "runtime.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

using Work = std::function<void()>;

struct CUgraphNode_st {
  std::vector<Work> launches;
};

struct CUgraph_st {
  std::vector<std::unique_ptr<CUgraphNode_st>> nodes;
};

struct CUgraphExec_st {
  std::vector<std::pair<cudaGraphNode_t, std::vector<Work>>> nodes;
};

struct CUstream_st {
  int device;
  std::deque<Work> waiting;
  int64_t enqueued = 0, done = 0;
  std::unique_ptr<CUgraph_st> capture;
};

struct CUevent_st {
  int device;
  cudaStream_t stream = nullptr;  // where it was recorded last
  int64_t place = 0;              // after so much of that stream's work
  std::shared_ptr<double> seconds = std::make_shared<double>(0);
};

namespace {

constexpr size_t kGraphBytes = 64 << 10;  // that must be free for a graph to be made

struct Block {
  int device;
  size_t bytes;
};

struct Machine {
  int devices = 1, capability = 90, driver = CUDART_VERSION;
  size_t bytes = size_t{1} << 30;  // a device
  size_t largest = SIZE_MAX;       // that can be had at once, as where memory is in pieces
  bool late = false;
  std::map<void*, Block> blocks;
  std::map<int, std::unique_ptr<CUstream_st>> default_streams;
  std::vector<std::unique_ptr<CUstream_st>> streams;  // never freed: handles stay valid, as events may know them
  std::map<std::string, int64_t> counts;              // of calls
  std::map<const void*, int> allowed;                 // shared memory of kernels that asked for more
};

Machine machine;
thread_local int current = 0;
std::recursive_mutex mutex;
using Lock = std::lock_guard<std::recursive_mutex>;

CUstream_st& stream_at(cudaStream_t stream) {
  if (stream != nullptr && stream != cudaStreamPerThread) return *stream;
  std::unique_ptr<CUstream_st>& made = machine.default_streams[current];
  if (!made) made.reset(new CUstream_st{current, {}, 0, 0, nullptr});
  return *made;
}

void drain(CUstream_st& stream, int64_t place) {
  while (stream.done < place && !stream.waiting.empty()) {
    const Work work = std::move(stream.waiting.front());
    stream.waiting.pop_front();
    work();
    ++stream.done;
  }
}

void drain_all() {
  for (auto& [device, stream] : machine.default_streams) drain(*stream, stream->enqueued);
  for (auto& stream : machine.streams) drain(*stream, stream->enqueued);
}

cudaError_t enqueue(cudaStream_t handle, Work work) {
  CUstream_st& stream = stream_at(handle);
  if (stream.device != current) return cudaErrorInvalidResourceHandle;
  if (stream.capture) return cudaErrorStreamCaptureUnsupported;
  stream.waiting.push_back(std::move(work));
  ++stream.enqueued;
  if (!machine.late) drain(stream, stream.enqueued);
  return cudaSuccess;
}

size_t taken(int device) {
  size_t bytes = 0;
  for (const auto& [data, block] : machine.blocks) bytes += block.device == device ? block.bytes : 0;
  return bytes;
}

}  // namespace

namespace emulation {

cudaError_t submit(cudaStream_t stream, const Launch& launch) {
  const Lock lock(mutex);
  constexpr int kSharedWithoutAsking = 48 << 10, kMostBlocks = 65535, kMostThreads = 1024;
  const auto asked = machine.allowed.find(launch.kernel);
  const int allowed = asked == machine.allowed.end() ? kSharedWithoutAsking : asked->second;
  if (launch.shared_bytes > static_cast<size_t>(std::max(allowed, kSharedWithoutAsking))) return cudaErrorInvalidValue;
  const dim3 &grid = launch.grid, &block = launch.block;
  if (grid.x == 0 || grid.x > INT32_MAX || grid.y == 0 || grid.y > kMostBlocks || grid.z == 0 ||
      grid.z > kMostBlocks || block.x * block.y * block.z > kMostThreads) {
    return cudaErrorInvalidConfiguration;
  }
  const Work work = [launch] {
    if (!launch.early) wait_for_launch_before();
    run(launch.grid, launch.block, launch.shared_bytes, launch.thread);
  };
  CUstream_st& to = stream_at(stream);
  if (!to.capture) {
    ++machine.counts["launches"];
    return enqueue(stream, work);
  }
  to.capture->nodes.push_back(std::make_unique<CUgraphNode_st>());
  to.capture->nodes.back()->launches.push_back(work);
  return cudaSuccess;
}

cudaError_t allow_shared_bytes(const void* kernel, int bytes) {
  const Lock lock(mutex);
  if (bytes < 0 || bytes > device.shared_bytes) return cudaErrorInvalidValue;
  machine.allowed[kernel] = bytes;
  return cudaSuccess;
}

}  // namespace emulation

// What tests call, by their names in the library.
extern "C" {
__attribute__((visibility("default"))) void emulation_set(int devices, int64_t bytes, int capability, int driver,
                                                          int late) {
  const Lock lock(mutex);
  drain_all();
  machine.devices = devices;
  machine.bytes = static_cast<size_t>(bytes);
  machine.capability = capability;
  machine.driver = driver;
  machine.late = late != 0;
  machine.largest = SIZE_MAX;
  machine.counts.clear();
  current = 0;
}
__attribute__((visibility("default"))) void emulation_break_up(int64_t largest) {
  machine.largest = static_cast<size_t>(largest);
}
__attribute__((visibility("default"))) int64_t emulation_count(const char* what) {
  const Lock lock(mutex);
  return machine.counts[what];
}
__attribute__((visibility("default"))) int64_t emulation_taken(int device) {
  const Lock lock(mutex);
  return static_cast<int64_t>(taken(device));
}
__attribute__((visibility("default"))) int emulation_current() { return current; }
__attribute__((visibility("default"))) int emulation_choose(int device) { return cudaSetDevice(device); }
__attribute__((visibility("default"))) int64_t emulation_stream(int device) {
  const Lock lock(mutex);
  machine.streams.push_back(std::unique_ptr<CUstream_st>(new CUstream_st{device, {}, 0, 0, nullptr}));
  return reinterpret_cast<int64_t>(machine.streams.back().get());
}
__attribute__((visibility("default"))) void emulation_capture(int64_t stream, int begin) {
  const cudaStream_t captured = reinterpret_cast<cudaStream_t>(stream);
  cudaGraph_t graph = nullptr;
  if (begin != 0) {
    cudaStreamBeginCapture(captured, cudaStreamCaptureModeRelaxed);
  } else if (cudaStreamEndCapture(captured, &graph) == cudaSuccess) {
    cudaGraphDestroy(graph);
  }
}
__attribute__((visibility("default"))) void emulation_wait(int64_t stream) {
  cudaStreamSynchronize(reinterpret_cast<cudaStream_t>(stream <= 2 ? 0 : stream));
}
}

cudaError_t cudaGetLastError() { return cudaSuccess; }

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaErrorInvalidValue: return "invalid argument";
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorInvalidResourceHandle: return "invalid resource handle";
    case cudaErrorStreamCaptureUnsupported: return "operation not permitted when stream is capturing";
    default: return "another error";
  }
}

cudaError_t cudaDriverGetVersion(int* version) {
  *version = machine.driver;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int* count) {
  if (machine.driver < CUDART_VERSION) return cudaErrorInsufficientDriver;
  *count = machine.devices;
  return machine.devices == 0 ? cudaErrorNoDevice : cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* facts, int device) {
  if (device < 0 || device >= machine.devices) return cudaErrorInvalidDevice;
  std::snprintf(facts->name, sizeof facts->name, "emulated device");
  facts->major = machine.capability / 10;
  facts->minor = machine.capability % 10;
  facts->totalGlobalMem = machine.bytes;
  return cudaSuccess;
}

cudaError_t cudaGetDevice(int* device) {
  *device = current;
  return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device >= machine.devices) return cudaErrorInvalidDevice;
  current = device;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  switch (attribute) {
    case cudaDevAttrComputeCapabilityMajor: *value = machine.capability / 10; return cudaSuccess;
    case cudaDevAttrMultiProcessorCount: *value = emulation::device.processors; return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = emulation::device.shared_bytes; return cudaSuccess;
  }
  return cudaErrorInvalidValue;
}

cudaError_t cudaMalloc(void** data, size_t bytes) {
  const Lock lock(mutex);
  if (bytes > machine.largest || taken(current) + bytes > machine.bytes) return cudaErrorMemoryAllocation;
  *data = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
  if (*data == nullptr) return cudaErrorMemoryAllocation;
  std::memset(*data, 0xFF, bytes);  // NaN in every element type
  machine.blocks[*data] = {current, bytes};
  return cudaSuccess;
}

cudaError_t cudaFree(void* data) {
  const Lock lock(mutex);
  drain_all();
  if (machine.blocks.erase(data) == 0) return cudaErrorInvalidValue;
  std::free(data);
  return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  const Lock lock(mutex);
  *total = machine.bytes;
  const size_t used = taken(current);
  *free = used < machine.bytes ? machine.bytes - used : 0;
  return cudaSuccess;
}

cudaError_t cudaHostAlloc(void** data, size_t bytes, unsigned) {
  *data = std::malloc(bytes);
  return *data == nullptr ? cudaErrorMemoryAllocation : cudaSuccess;
}

cudaError_t cudaFreeHost(void* data) {
  std::free(data);
  return cudaSuccess;
}

// From pageable memory it may return before the device has the last bytes.
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  return cudaMemcpyAsync(to, from, bytes, kind, nullptr);
}

// From the host's memory: as it is now. To it: at once, after all before it.
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  const Lock lock(mutex);
  if (kind == cudaMemcpyDeviceToHost) {
    const cudaError_t error = enqueue(stream, [=] { std::memcpy(to, from, bytes); });
    drain(stream_at(stream), stream_at(stream).enqueued);
    return error;
  }
  const char* begin = static_cast<const char*>(from);
  return enqueue(stream, [to, staged = std::vector<char>(begin, begin + bytes)] {
    std::memcpy(to, staged.data(), staged.size());
  });
}

cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
  const Lock lock(mutex);
  return enqueue(stream, [=] { std::memset(to, value, bytes); });
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = reinterpret_cast<cudaStream_t>(emulation_stream(current));
  return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) { return cudaStreamSynchronize(stream); }

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  const Lock lock(mutex);
  drain(stream_at(stream), stream_at(stream).enqueued);
  return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  const Lock lock(mutex);
  if (event->stream == nullptr) return cudaSuccess;
  return enqueue(stream, [from = event->stream, place = event->place] { drain(*from, place); });
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = new CUevent_st{current};
  return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  const Lock lock(mutex);
  if (event->device != current) return cudaErrorInvalidResourceHandle;
  event->stream = &stream_at(stream);
  event->place = event->stream->enqueued + 1;
  return enqueue(stream, [seconds = event->seconds] {
    *seconds = std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
  });
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  const Lock lock(mutex);
  if (event->stream != nullptr) drain(*event->stream, event->place);
  return cudaSuccess;
}

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin, cudaEvent_t end) {
  *milliseconds = static_cast<float>(1e3 * (*end->seconds - *begin->seconds));
  return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  const Lock lock(mutex);
  *status = stream_at(stream).capture ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  const Lock lock(mutex);
  if (stream == nullptr) return cudaErrorStreamCaptureUnsupported;
  stream->capture = std::make_unique<CUgraph_st>();
  return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  const Lock lock(mutex);
  *graph = stream->capture.release();
  return cudaSuccess;
}

cudaError_t cudaGraphCreate(cudaGraph_t* graph, unsigned) {
  *graph = new CUgraph_st;
  return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}

cudaError_t cudaGraphAddChildGraphNode(cudaGraphNode_t* node, cudaGraph_t graph, const cudaGraphNode_t* before,
                                       size_t count, cudaGraph_t child) {
  const bool chained = graph->nodes.empty() ? count == 0 : count == 1 && before[0] == graph->nodes.back().get();
  if (!chained) return cudaErrorInvalidValue;  // other orders are not emulated
  graph->nodes.push_back(std::make_unique<CUgraphNode_st>());
  for (const auto& launch : child->nodes) graph->nodes.back()->launches.push_back(launch->launches.front());
  *node = graph->nodes.back().get();
  return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
  const Lock lock(mutex);
  if (taken(current) + kGraphBytes > machine.bytes) return cudaErrorMemoryAllocation;
  ++machine.counts["graphs made"];
  *executable = new CUgraphExec_st;
  for (const auto& node : graph->nodes) (*executable)->nodes.emplace_back(node.get(), node->launches);
  return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  delete executable;
  return cudaSuccess;
}

cudaError_t cudaGraphExecChildGraphNodeSetParams(cudaGraphExec_t executable, cudaGraphNode_t node, cudaGraph_t child) {
  const Lock lock(mutex);
  for (auto& [known, launches] : executable->nodes) {
    if (known != node || launches.size() != child->nodes.size()) continue;
    for (size_t i = 0; i < launches.size(); ++i) launches[i] = child->nodes[i]->launches.front();
    ++machine.counts["parts replaced"];
    return cudaSuccess;
  }
  return cudaErrorInvalidValue;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
  const Lock lock(mutex);
  ++machine.counts["graph launches"];
  for (const auto& [node, launches] : executable->nodes) {
    for (const Work& launch : launches) {
      ++machine.counts["launches"];
      const cudaError_t error = enqueue(stream, launch);
      if (error != cudaSuccess) return error;
    }
  }
  return cudaSuccess;
}
