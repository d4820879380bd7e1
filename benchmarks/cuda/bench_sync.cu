// What does a decoding step cost before any arithmetic? One JSON line per measurement:
//   grid_barrier   one barrier of a cooperative launch: cooperative groups, and our counter
//   (device/sync.cuh) graph_node     one empty kernel of a CUDA graph, plain and with programmatic
//   dependent launch read           read-only bandwidth by shape of launch phases         the 97
//   weight phases of a step streamed with a barrier after each: loads that start after the barrier,
//                  and loads that run ahead of it through a ring in shared memory: the ceiling of a
//                  persistent kernel
// It decides between graphs and a persistent kernel.
#include <cooperative_groups.h>

#include "benchmarks/cuda/timing.h"
#include "kernels/cuda/device/copy_async.cuh"
#include "kernels/cuda/device/sync.cuh"

namespace tgv::bench {
namespace {

__global__ void barriers_cooperative_groups(int count) {
  cooperative_groups::grid_group grid = cooperative_groups::this_grid();
  for (int i = 0; i < count; ++i) grid.sync();
}

__global__ void barriers_counter(unsigned* counter, int count) {
  for (int i = 1; i <= count; ++i) cuda::grid_barrier(counter, static_cast<unsigned>(i));
}

__global__ void nothing(float* p) {
  if (p) *p = 1;
}

__global__ void nothing_dependent(float* p) {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
  if (p) *p = 1;
}

constexpr int kSlotBytes = 8192;  // of the ring: 512 threads x 16 bytes

// slots[phase]: ring slots per block of a phase; the blocks' shares of a phase are contiguous.
// Threads copy for themselves, so that no block barrier is needed around the ring.
template <int kStages, bool kAhead>
__global__ void __launch_bounds__(512, 1)
    stream_phases(const uint8_t* weights, const int* slots, int phases, unsigned* counter,
                  unsigned* out) {
  extern __shared__ __align__(128) uint8_t ring[];
  const int thread_offset = threadIdx.x * 16;
  unsigned sum = 0;
  int issued = 0, used = 0, next_phase = 0, next_slot = 0;
  size_t next_base = 0;
  const auto issue =
      [&](int last_phase) {  // one slot, if any is left up to last_phase; always commits a group
        if (next_phase < phases && next_phase <= last_phase) {
          const size_t slot = static_cast<size_t>(blockIdx.x) * slots[next_phase] + next_slot;
          cuda::copy_async_16(ring + (issued % kStages) * kSlotBytes + thread_offset,
                              weights + next_base + slot * kSlotBytes + thread_offset);
          ++issued;
          if (++next_slot == slots[next_phase]) {
            next_base += static_cast<size_t>(gridDim.x) * slots[next_phase] * kSlotBytes;
            ++next_phase;
            next_slot = 0;
          }
        }
        cuda::commit_copies();
      };
  for (int s = 0; s < kStages - 1; ++s) issue(kAhead ? phases : 0);
  for (int phase = 0; phase < phases; ++phase) {
    if (!kAhead && phase) {
      for (int s = 0; s < kStages - 1; ++s) issue(phase);
    }
    for (int s = 0; s < slots[phase]; ++s) {
      cuda::wait_copies<kStages - 2>();
      const uint4 v =
          *reinterpret_cast<const uint4*>(ring + (used++ % kStages) * kSlotBytes + thread_offset);
      sum ^= v.x ^ v.y ^ v.z ^ v.w;
      issue(kAhead ? phases : phase);
    }
    if (!kAhead) cuda::wait_copies<0>();
    cuda::grid_barrier(counter, static_cast<unsigned>(phase + 1));
  }
  if (sum == 0x12345678u) *out = sum;
}

struct Gpu {
  int multiprocessors, capability;
  int64_t shared_bytes;
};

template <class Kernel>
void launch_cooperative(Kernel kernel, int blocks, int threads, size_t shared, void** arguments) {
  check(cudaLaunchCooperativeKernel(reinterpret_cast<const void*>(kernel), dim3(blocks),
                                    dim3(threads), arguments, shared, nullptr),
        "cudaLaunchCooperativeKernel");
}

void bench_barriers(const Gpu& gpu, unsigned* counter) {
  int count = 1000;
  const auto per_barrier = [&](Spread t) {
    return Spread{t.median_us / count, t.p10_us / count, t.p90_us / count};
  };
  for (int threads : {128, 512, 1024}) {
    const std::string fields =
        concat("\"blocks\": ", gpu.multiprocessors, ", \"threads\": ", threads);
    void* groups[] = {&count};
    report("grid_barrier", fields + ", \"kind\": \"cooperative_groups\"",
           per_barrier(time_launches([&] {
             launch_cooperative(barriers_cooperative_groups, gpu.multiprocessors, threads, 0,
                                groups);
           })));
    void* ours[] = {&counter, &count};
    report("grid_barrier", fields + ", \"kind\": \"counter\"", per_barrier(time_launches([&] {
             check(cudaMemsetAsync(counter, 0, 4), "cudaMemsetAsync");
             launch_cooperative(barriers_counter, gpu.multiprocessors, threads, 0, ours);
           })));
  }
}

void bench_graph_nodes(const Gpu& gpu) {
  constexpr int kNodes = 224;  // seven kernels in each of 32 layers
  for (bool dependent : {false, true}) {
    if (dependent && gpu.capability < 90) continue;
    for (int blocks : {gpu.multiprocessors, 4 * gpu.multiprocessors}) {
      const Spread t = time_graph(kNodes, [&](cudaStream_t stream) {
        for (int i = 0; i < kNodes; ++i) {
          cudaLaunchAttribute attribute;
          attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
          attribute.val.programmaticStreamSerializationAllowed = 1;
          cudaLaunchConfig_t config = {};
          config.gridDim = dim3(blocks);
          config.blockDim = dim3(256);
          config.stream = stream;
          config.attrs = &attribute;
          config.numAttrs = dependent ? 1 : 0;
          check(cudaLaunchKernelEx(&config, dependent ? nothing_dependent : nothing,
                                   static_cast<float*>(nullptr)),
                "cudaLaunchKernelEx");
        }
      });
      report(
          "graph_node",
          concat("\"blocks\": ", blocks, ", \"dependent_launch\": ", dependent ? "true" : "false"),
          t);
    }
  }
}

// Slots per block of each phase of a step: group 64, int8 head, 512 positions of int8 cache.
std::vector<int> phase_slots(const Gpu& gpu) {
  const auto slots = [&](double bytes) {
    return static_cast<int>(bytes / gpu.multiprocessors / kSlotBytes + 0.999);
  };
  std::vector<int> out;
  for (int layer = 0; layer < 32; ++layer) {
    out.push_back(slots(24.37e6));  // qkv and fc1
    out.push_back(slots(16.62e6));  // fc2, and the cache
    out.push_back(slots(3.48e6));   // out
  }
  out.push_back(slots(133.1e6));  // head
  return out;
}

template <int kStages, bool kAhead>
void bench_phases(const Gpu& gpu, const uint8_t* weights, const int* slots, int phases,
                  unsigned* counter, unsigned* out, double bytes) {
  constexpr int kShared = kStages * kSlotBytes;
  if (kShared > gpu.shared_bytes) return;
  const auto kernel = stream_phases<kStages, kAhead>;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared),
        "cudaFuncSetAttribute");
  void* arguments[] = {&weights, &slots, &phases, &counter, &out};
  const Spread t = time_launches([&] {
    check(cudaMemsetAsync(counter, 0, 4), "cudaMemsetAsync");
    launch_cooperative(kernel, gpu.multiprocessors, 512, kShared, arguments);
  });
  report("phases",
         concat("\"ring_bytes\": ", kShared, ", \"loads_cross_the_barrier\": ",
                kAhead ? "true" : "false", ", \"phases\": ", phases),
         t, bytes);
}

int run() {
  cudaDeviceProp properties;
  check(cudaGetDeviceProperties(&properties, 0), "cudaGetDeviceProperties");
  const Gpu gpu = {properties.multiProcessorCount, properties.major * 10 + properties.minor,
                   static_cast<int64_t>(properties.sharedMemPerBlockOptin)};
  unsigned *counter, *out;
  check(cudaMalloc(&counter, 256), "cudaMalloc");
  check(cudaMalloc(&out, 256), "cudaMalloc");
  bench_barriers(gpu, counter);
  bench_graph_nodes(gpu);
  measure_read_rate(gpu.multiprocessors, size_t{1} << 30, true);

  const std::vector<int> slots = phase_slots(gpu);
  double bytes = 0;
  for (int s : slots) bytes += static_cast<double>(s) * kSlotBytes * gpu.multiprocessors;
  uint8_t* weights;
  int* device_slots;
  check(cudaMalloc(&weights, static_cast<size_t>(bytes)), "cudaMalloc");
  check(cudaMemset(weights, 1, static_cast<size_t>(bytes)), "cudaMemset");
  check(cudaMalloc(&device_slots, slots.size() * sizeof(int)), "cudaMalloc");
  check(cudaMemcpy(device_slots, slots.data(), slots.size() * sizeof(int), cudaMemcpyHostToDevice),
        "cudaMemcpy");
  const int phases = static_cast<int>(slots.size());
  bench_phases<4, false>(gpu, weights, device_slots, phases, counter, out, bytes);
  bench_phases<8, false>(gpu, weights, device_slots, phases, counter, out, bytes);
  bench_phases<4, true>(gpu, weights, device_slots, phases, counter, out, bytes);
  bench_phases<8, true>(gpu, weights, device_slots, phases, counter, out, bytes);
  bench_phases<12, true>(gpu, weights, device_slots, phases, counter, out, bytes);
  bench_phases<24, true>(gpu, weights, device_slots, phases, counter, out, bytes);
  return 0;
}

}  // namespace
}  // namespace tgv::bench

int main() {
  try {
    return tgv::bench::run();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "bench_sync: %s\n", error.what());
    return 1;
  }
}
