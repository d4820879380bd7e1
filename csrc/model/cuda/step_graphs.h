// The graphs of decode steps: for each of a few numbers of rows one whose kernels compute the
// logits, and one whose kernels draw from them as well.
//
// Rows     1, 2, 4, 8, ... and the most there may be. A step of other numbers takes the next graph
//          and has rows that nobody owns (StepInputs::pad, CudaSampler::pad).
// Captured All at once, when a runner is made: a step never waits for it, and what does not work
//          shows at the start.
//
// C++17: nvcc compiles it.
#pragma once

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "model/cuda/graph.h"
#include "model/graph_cost.h"

namespace tgv::model {

class StepGraphs {
 public:
  // For steps of at most so many rows; 0: for none.
  explicit StepGraphs(int64_t most_rows) {
    for (int64_t rows = 1; rows < most_rows; rows *= 2) of_.push_back({rows, {}});
    if (most_rows > 0) of_.push_back({most_rows, {}});
  }

  // The rows of the graph for a step of so many; 0: there is none.
  int64_t rows_for(int64_t rows) const {
    for (const Graphs& graphs : of_) {
      if (graphs.rows >= rows) return graphs.rows;
    }
    return 0;
  }

  // launches(rows, draws) puts the kernels of such a step on the stream. Throws SystemError.
  template <class Launches>
  void capture(const DeviceStream& stream, const Launches& launches) {
    const auto began = std::chrono::steady_clock::now();
    const size_t free_before = device_memory_info().free_bytes;
    for (Graphs& graphs : of_) {
      for (const bool draws : {false, true}) {
        graphs.with_draws[draws] =
            DeviceGraph::capture(stream, [&] { launches(graphs.rows, draws); });
        ++cost_.graphs;
      }
    }
    cost_.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
    cost_.bytes = bytes_since(free_before);
  }

  // Runs the graph for `rows`, one of rows_for(). Under the emulation also checks that it is what
  // launches(rows, draws) would do now: an argument that follows the step would be found here.
  template <class Launches>
  void run(const DeviceStream& stream, int64_t rows, bool draws, const Launches& launches) const {
    const DeviceGraph& graph = find(rows).with_draws[draws];
#if !defined(__CUDACC__)
    if (simt::options().check_replays) {
      const DeviceGraph now = DeviceGraph::capture(stream, [&] { launches(rows, draws); });
      const std::string difference = graph.difference(now);
      if (!difference.empty()) {
        throw SystemError(concat("the graph of ", rows, " rows is not the step: ", difference));
      }
    }
#else
    (void)launches;
#endif
    graph.launch(stream);
  }

  const GraphCost& cost() const { return cost_; }

 private:
  struct Graphs {
    int64_t rows = 0;
    std::array<DeviceGraph, 2> with_draws;  // without, with
  };

  const Graphs& find(int64_t rows) const {
    return *std::find_if(of_.begin(), of_.end(), [&](const Graphs& g) { return g.rows == rows; });
  }

  // What the driver took of the GPU's memory, as it says; others on the GPU blur it.
  int64_t bytes_since(size_t free_before) const {
#if defined(__CUDACC__)
    const size_t free_now = device_memory_info().free_bytes;
    return free_before > free_now ? static_cast<int64_t>(free_before - free_now) : 0;
#else
    (void)free_before;
    size_t bytes = 0;
    for (const Graphs& graphs : of_) {
      for (const DeviceGraph& graph : graphs.with_draws) bytes += graph.bytes();
    }
    return static_cast<int64_t>(bytes);
#endif
  }

  std::vector<Graphs> of_;  // by rows, ascending
  GraphCost cost_;
};

}  // namespace tgv::model
