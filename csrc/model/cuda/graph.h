// Launches recorded once and put on the stream again in one call: a CUDA graph, or under the
// emulation a list of launches with their arguments by value.
//
// C++17: nvcc compiles it.
#pragma once

#include <cstddef>
#include <string>
#include <utility>

#include "model/cuda/device_memory.h"

namespace tgv::model {

class DeviceGraph {
 public:
  DeviceGraph() = default;  // nothing; not to be launched
  DeviceGraph(DeviceGraph&& other) noexcept { swap(other); }
  DeviceGraph& operator=(DeviceGraph&& other) noexcept {
    swap(other);
    return *this;
  }
  DeviceGraph(const DeviceGraph&) = delete;
  DeviceGraph& operator=(const DeviceGraph&) = delete;

  // Records what launches() puts on the stream, which must be kernels alone, of which none runs.
  // Nobody else uses the stream meanwhile. Throws SystemError, and what launches() throws.
  template <class Launches>
  static DeviceGraph capture(const DeviceStream& stream, const Launches& launches);

  void launch(const DeviceStream& stream) const;

#if defined(__CUDACC__)
  ~DeviceGraph() {
    if (exec_) (void)cudaGraphExecDestroy(exec_);
  }

 private:
  void swap(DeviceGraph& other) noexcept { std::swap(exec_, other.exec_); }
  cudaGraphExec_t exec_ = nullptr;
#else
  // Where the launches that another graph has recorded differ; empty: nowhere.
  std::string difference(const DeviceGraph& other) const { return graph_.difference(other.graph_); }
  size_t bytes() const { return graph_.bytes(); }
  size_t size() const { return graph_.size(); }

 private:
  void swap(DeviceGraph& other) noexcept { std::swap(graph_, other.graph_); }
  simt::Graph graph_;
#endif
};

// --- capture ------------------------------------------------------------------------------------
#if defined(__CUDACC__)

// Ends a capture that did not come to its end, so that the stream can be used.
class StreamCapture {
 public:
  explicit StreamCapture(cudaStream_t stream) : stream_(stream) {
    // Of this thread alone: others may allocate memory meanwhile.
    cuda::check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal),
                "beginning to capture a graph");
    is_open_ = true;
  }
  ~StreamCapture() {
    if (is_open_) (void)cudaStreamEndCapture(stream_, &graph_);
    if (graph_) (void)cudaGraphDestroy(graph_);
    (void)cudaGetLastError();  // of a capture that broke off
  }
  StreamCapture(const StreamCapture&) = delete;
  StreamCapture& operator=(const StreamCapture&) = delete;

  cudaGraph_t end() {
    is_open_ = false;
    cuda::check(cudaStreamEndCapture(stream_, &graph_), "capturing a graph");
    return graph_;
  }

 private:
  const cudaStream_t stream_;
  cudaGraph_t graph_ = nullptr;
  bool is_open_ = false;
};

template <class Launches>
DeviceGraph DeviceGraph::capture(const DeviceStream& stream, const Launches& launches) {
  stream.state().only_loads = true;
  try {
    launches();
  } catch (...) {
    stream.state().only_loads = false;
    throw;
  }
  stream.state().only_loads = false;
  DeviceGraph out;
  const int64_t before = stream.state().launches;
  StreamCapture capture(stream.get());
  launches();
  stream.state().launches = before;
  cuda::check(cudaGraphInstantiateWithFlags(&out.exec_, capture.end(), 0), "making a graph");
  cuda::check(cudaGraphUpload(out.exec_, stream.get()), "uploading a graph");
  stream.wait();
  return out;
}

inline void DeviceGraph::launch(const DeviceStream& stream) const {
  stream.count_graph();
  cuda::check(cudaGraphLaunch(exec_, stream.get()), "launching a graph");
}

#else

template <class Launches>
DeviceGraph DeviceGraph::capture(const DeviceStream& stream, const Launches& launches) {
  DeviceGraph out;
  const int64_t before = stream.state().launches;
  stream.get()->begin_capture();
  try {
    launches();
  } catch (...) {
    (void)stream.get()->end_capture();
    throw;
  }
  out.graph_ = stream.get()->end_capture();
  stream.state().launches = before;
  return out;
}

inline void DeviceGraph::launch(const DeviceStream& stream) const {
  stream.count_graph();
  graph_.run();
}

#endif

}  // namespace tgv::model
