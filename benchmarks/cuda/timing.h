// Timing on a GPU and one JSON line per measurement, for the benchmarks of this folder.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "kernels/cuda/launch.cuh"

namespace tgv::bench {

using cuda::check;

struct Spread {
  double median_us, p10_us, p90_us;
};

inline Spread spread_of(std::vector<double> us) {
  std::sort(us.begin(), us.end());
  const auto at = [&](double q) {
    return us[static_cast<size_t>(q * static_cast<double>(us.size() - 1))];
  };
  return {at(0.5), at(0.1), at(0.9)};
}

// Microseconds per call when `enqueue(stream)` puts `calls` calls on a stream, captured once and
// replayed as a graph.
inline Spread time_graph(int calls, const std::function<void(cudaStream_t)>& enqueue,
                         int repeats = 30) {
  cudaStream_t stream;
  cudaGraph_t graph;
  cudaGraphExec_t executable;
  cudaEvent_t begin, end;
  check(cudaStreamCreate(&stream), "cudaStreamCreate");
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
  enqueue(stream);
  check(cudaStreamEndCapture(stream, &graph), "cudaStreamEndCapture");
  check(cudaGraphInstantiate(&executable, graph, 0), "cudaGraphInstantiate");
  check(cudaEventCreate(&begin), "cudaEventCreate");
  check(cudaEventCreate(&end), "cudaEventCreate");
  std::vector<double> us;
  for (int i = -3; i < repeats; ++i) {  // three to warm up
    check(cudaEventRecord(begin, stream), "cudaEventRecord");
    check(cudaGraphLaunch(executable, stream), "cudaGraphLaunch");
    check(cudaEventRecord(end, stream), "cudaEventRecord");
    check(cudaEventSynchronize(end), "a benchmark's graph");
    float ms = 0;
    check(cudaEventElapsedTime(&ms, begin, end), "cudaEventElapsedTime");
    if (i >= 0) us.push_back(ms * 1e3 / calls);
  }
  cudaGraphExecDestroy(executable);
  cudaGraphDestroy(graph);
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  cudaStreamDestroy(stream);
  return spread_of(us);
}

// The same for work that is launched rather than captured (a cooperative launch that clears its
// counter first).
inline Spread time_launches(const std::function<void()>& launch, int repeats = 20) {
  cudaEvent_t begin, end;
  check(cudaEventCreate(&begin), "cudaEventCreate");
  check(cudaEventCreate(&end), "cudaEventCreate");
  std::vector<double> us;
  for (int i = -3; i < repeats; ++i) {
    check(cudaEventRecord(begin), "cudaEventRecord");
    launch();
    check(cudaEventRecord(end), "cudaEventRecord");
    check(cudaEventSynchronize(end), "a benchmark's launch");
    float ms = 0;
    check(cudaEventElapsedTime(&ms, begin, end), "cudaEventElapsedTime");
    if (i >= 0) us.push_back(ms * 1e3);
  }
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  return spread_of(us);
}

// {"name": ..., <fields>, "us": ..., "p10_us": ..., "p90_us": ..., <"gbytes_per_s": ...,
// "fraction_of_read": ...>} bytes: what one call must move, 0 if that is not the point; read_rate:
// the measured roof in bytes/s, 0 if unknown.
inline void report(const std::string& name, const std::string& fields, const Spread& t,
                   double bytes = 0, double read_rate = 0) {
  std::printf("{\"name\": \"%s\", %s%s\"us\": %.3f, \"p10_us\": %.3f, \"p90_us\": %.3f",
              name.c_str(), fields.c_str(), fields.empty() ? "" : ", ", t.median_us, t.p10_us,
              t.p90_us);
  if (bytes > 0)
    std::printf(", \"bytes\": %.0f, \"gbytes_per_s\": %.1f", bytes, bytes / t.median_us / 1e3);
  if (bytes > 0 && read_rate > 0) {
    std::printf(", \"fraction_of_read\": %.4f", bytes / t.median_us * 1e6 / read_rate);
  }
  std::printf("}\n");
  std::fflush(stdout);
}

template <int kLoads>
__global__ void read_all(const uint4* data, size_t count, unsigned* out) {
  unsigned sum = 0;
  const size_t stride = static_cast<size_t>(gridDim.x) * blockDim.x;
  for (size_t i = blockIdx.x * static_cast<size_t>(blockDim.x) + threadIdx.x;
       i + (kLoads - 1) * stride < count; i += kLoads * stride) {
    uint4 v[kLoads];
#pragma unroll
    for (int u = 0; u < kLoads; ++u) v[u] = cuda::load_once_16(data + i + u * stride);
#pragma unroll
    for (int u = 0; u < kLoads; ++u) sum ^= v[u].x ^ v[u].y ^ v[u].z ^ v[u].w;
  }
  if (sum == 0x12345678u) *out = sum;  // keeps the loads
}

// The best read rate in bytes/s over a few shapes of launch: the roof for everything that streams
// weights. `report_each` also prints every shape.
inline double measure_read_rate(int multiprocessors, size_t bytes, bool report_each) {
  uint4* data = nullptr;
  unsigned* out = nullptr;
  check(cudaMalloc(&data, bytes), "cudaMalloc");
  check(cudaMalloc(&out, 4), "cudaMalloc");
  check(cudaMemset(data, 1, bytes), "cudaMemset");
  double best = 0;
  for (int threads : {256, 512, 1024}) {
    for (int blocks : {1, 2, 4}) {
      if (threads * blocks > 2048) continue;
      for (int loads : {1, 4, 8}) {
        const auto kernel = loads == 1 ? read_all<1> : loads == 4 ? read_all<4> : read_all<8>;
        const Spread t = time_graph(
            1,
            [&](cudaStream_t stream) {
              kernel<<<multiprocessors * blocks, threads, 0, stream>>>(data, bytes / 16, out);
            },
            10);
        best = std::max(best, static_cast<double>(bytes) / t.median_us * 1e6);
        if (report_each) {
          report("read",
                 concat("\"threads\": ", threads, ", \"blocks_per_sm\": ", blocks,
                        ", \"loads\": ", loads),
                 t, static_cast<double>(bytes));
        }
      }
    }
  }
  cudaFree(data);
  cudaFree(out);
  return best;
}

}  // namespace tgv::bench
