// The int4 GEMV and paged attention at TinyGPT-V's sizes: GB/s from the bytes each declares, as a
// fraction of the read rate measured just before. Each answer is checked on sampled rows before it
// is timed. One JSON line per case.
//
// Operands rotate over copies that together are four times the L2 cache, as the weights of a
// decoding step do.
#include <cmath>
#include <memory>
#include <random>

#include "benchmarks/cuda/timing.h"
#include "tests/device_array.h"
#include "tests/half.h"
#include "tests/tolerance.h"

namespace tgv::bench {
namespace {

using test::DeviceArray;
using test::from_half;
using test::to_half;

struct Gpu {
  int multiprocessors;
  int64_t shared_bytes, l2_bytes;
  double read_rate;
};

int copies_beyond_cache(const Gpu& gpu, int64_t bytes) {
  return static_cast<int>(std::min<int64_t>(64, 4 * gpu.l2_bytes / bytes + 1));
}

template <class T>
std::vector<std::unique_ptr<DeviceArray<T>>> upload_copies(const std::vector<T>& values,
                                                           int copies) {
  std::vector<std::unique_ptr<DeviceArray<T>>> out;
  for (int i = 0; i < copies; ++i) out.push_back(std::make_unique<DeviceArray<T>>(values));
  return out;
}

struct Matrix {
  const char* name;
  int64_t n, k;
};

struct HostMatrix {
  std::vector<uint8_t> q;
  std::vector<Half> scales;
  std::vector<uint32_t> packed, packed_scales;
  int64_t groups;
};

HostMatrix make_matrix(const Matrix& m, int group) {
  HostMatrix h;
  std::mt19937 random(1);
  h.groups = (m.k + group - 1) / group;
  h.q.resize(static_cast<size_t>(m.n * m.k));
  for (uint8_t& code : h.q) code = random() & 15;
  h.scales.resize(static_cast<size_t>(m.n * h.groups));
  for (Half& scale : h.scales)
    scale = to_half(0.002f + 0.0001f * static_cast<float>(random() % 16));
  h.packed.resize(static_cast<size_t>(cuda::int4_gemv_weight_words(m.n, m.k, group)));
  h.packed_scales.resize(static_cast<size_t>(cuda::int4_gemv_scale_words(m.n, m.k, group)));
  cuda::int4_gemv_pack_weights(h.packed.data(), h.q.data(), m.n, m.k, group);
  cuda::int4_gemv_pack_groups(h.packed_scales.data(), h.scales.data(), m.n, m.k, group);
  return h;
}

void check_gemv(const Matrix& m, const HostMatrix& h, int group, const std::vector<Half>& x,
                const std::vector<float>& y) {
  for (int64_t row = 0; row < m.n; row += m.n / 37 + 1) {
    double expected = 0, magnitude = 0;
    for (int64_t k = 0; k < m.k; ++k) {
      const double sx = from_half(h.scales[row * h.groups + k / group]) * from_half(x[k]);
      expected += (h.q[row * m.k + k] - 8) * sx;
      magnitude += (40 + h.q[row * m.k + k]) * std::fabs(sx);
    }
    if (!(std::fabs(y[row] - expected) <=
          test::fp32_sum_bound(group + h.groups + 8.0, magnitude))) {
      throw Error(
          concat(m.name, " group ", group, ": y[", row, "] is ", y[row], ", expected ", expected));
    }
  }
}

void bench_gemv(const Gpu& gpu, const Matrix& m, int group) {
  const HostMatrix host = make_matrix(m, group);
  std::mt19937 random(2);
  std::normal_distribution<float> normal;
  std::vector<Half> x_host(static_cast<size_t>(8 * m.k));
  for (Half& value : x_host) value = to_half(normal(random));
  const int copies = copies_beyond_cache(gpu, static_cast<int64_t>(host.packed.size()) * 4);
  auto weights = upload_copies(host.packed, copies);
  auto scales = upload_copies(host.packed_scales, copies);
  DeviceArray<Half> x(x_host);
  DeviceArray<float> y(static_cast<size_t>(8 * m.n));
  for (int batch : {1, 2, 4, 8}) {
    cuda::Int4GemvParams p;
    p.n = m.n;
    p.k = m.k;
    p.batch = batch;
    p.group = group;
    p.x = x.data();
    p.y = y.data();
    p.weights = weights[0]->data();
    p.scales = scales[0]->data();
    cuda::Launch launch;
    launch.blocks = 4 * gpu.multiprocessors;
    launch.shared_bytes_per_block = gpu.shared_bytes;
    const std::string why_not = cuda::int4_gemv_why_not(p, gpu.shared_bytes);
    if (!why_not.empty()) {
      std::printf(
          "{\"name\": \"int4_gemv\", \"matrix\": \"%s\", \"group\": %d, \"batch\": %d, "
          "\"why_not\": \"%s\"}\n",
          m.name, group, batch, why_not.c_str());
      continue;
    }
    cuda::launch_int4_gemv(p, launch);
    check_gemv(m, host, group, x_host, y.download());
    const Spread t = time_graph(copies, [&](cudaStream_t stream) {
      launch.stream = stream;
      for (int i = 0; i < copies; ++i) {
        p.weights = weights[i]->data();
        p.scales = scales[i]->data();
        cuda::launch_int4_gemv(p, launch);
      }
    });
    report("int4_gemv",
           concat("\"matrix\": \"", m.name, "\", \"n\": ", m.n, ", \"k\": ", m.k,
                  ", \"group\": ", group, ", \"batch\": ", batch),
           t, static_cast<double>(cuda::int4_gemv_bytes(p)), gpu.read_rate);
  }
}

void bench_attention(const Gpu& gpu, int sequences, int length) {
  constexpr int H = 32, D = 80, PS = cuda::kPagePositions;
  const int pages_per_sequence = length / PS;
  const int64_t pool = int64_t{sequences} * pages_per_sequence * H * PS * D;
  const int copies = copies_beyond_cache(gpu, pool * 4);
  std::mt19937 random(3);
  std::vector<Half> values(static_cast<size_t>(pool)),
      q(static_cast<size_t>(sequences * H * D), to_half(0.0f));
  for (Half& value : values) value = to_half(static_cast<float>(random() % 2001) * 0.001f - 1.0f);
  auto k = upload_copies(values, copies), v = upload_copies(values, copies);
  std::vector<int32_t> table(static_cast<size_t>(sequences * pages_per_sequence));
  for (size_t i = 0; i < table.size(); ++i) table[i] = static_cast<int32_t>(table.size() - 1 - i);
  DeviceArray<int32_t> device_table(table), lengths(std::vector<int32_t>(sequences, length));
  DeviceArray<Half> device_q(q);
  DeviceArray<float> out(q.size());

  cuda::PagedAttentionParams p;
  p.sequences = sequences;
  p.heads = H;
  p.head_dim = D;
  p.max_pages = pages_per_sequence;
  p.scale = 1.0f / std::sqrt(static_cast<float>(D));
  DeviceArray<float> partial(static_cast<size_t>(cuda::paged_attention_partial_elems(p)));
  p.out = out.data();
  p.partial = partial.data();
  p.q = device_q.data();
  p.block_table = device_table.data();
  p.lengths = lengths.data();
  p.k_pages = k[0]->data();
  p.v_pages = v[0]->data();
  cuda::launch_paged_attention(p, {});
  // With q = 0 every weight is 1 / length: the output is the mean of the values.
  const std::vector<float> got = out.download();
  for (int d = 0; d < D; d += 13) {
    double mean = 0;
    for (int i = 0; i < length; ++i) {
      const int64_t page = table[static_cast<size_t>(i / PS)];
      mean += from_half(values[static_cast<size_t>((page * H * PS + i % PS) * D + d)]) / length;
    }
    if (!(std::fabs(got[d] - mean) <= test::fp32_sum_bound(length / 4.0 + 24, 4))) {
      throw Error(concat("attention: out[", d, "] is ", got[d], ", expected ", mean));
    }
  }
  const Spread t = time_graph(copies, [&](cudaStream_t stream) {
    cuda::Launch launch;
    launch.stream = stream;
    for (int i = 0; i < copies; ++i) {
      p.k_pages = k[i]->data();
      p.v_pages = v[i]->data();
      cuda::launch_paged_attention(p, launch);
    }
  });
  report("paged_attention",
         concat("\"sequences\": ", sequences, ", \"length\": ", length, ", \"kv\": \"f16\""), t,
         static_cast<double>(cuda::paged_attention_bytes(p, int64_t{sequences} * length)),
         gpu.read_rate);
}

int run() {
  cudaDeviceProp properties;
  check(cudaGetDeviceProperties(&properties, 0), "cudaGetDeviceProperties");
  Gpu gpu = {properties.multiProcessorCount,
             static_cast<int64_t>(properties.sharedMemPerBlockOptin), properties.l2CacheSize, 0};
  size_t free_bytes = 0, total_bytes = 0;
  check(cudaMemGetInfo(&free_bytes, &total_bytes), "cudaMemGetInfo");
  gpu.read_rate =
      measure_read_rate(gpu.multiprocessors, std::min(size_t{2} << 30, free_bytes / 4), false);
  std::printf("{\"name\": \"read_rate\", \"gbytes_per_s\": %.1f}\n", gpu.read_rate / 1e9);
  const Matrix matrices[] = {
      {"qkv+fc1", 17920, 2560}, {"out", 2560, 2560}, {"fc2", 2560, 10240}, {"head", 51200, 2560}};
  for (const Matrix& m : matrices) {
    for (int group : {32, 64, 128}) bench_gemv(gpu, m, group);
  }
  for (int sequences : {1, 8}) {
    for (int length : {128, 512, 2048}) bench_attention(gpu, sequences, length);
  }
  return 0;
}

}  // namespace
}  // namespace tgv::bench

int main() {
  try {
    return tgv::bench::run();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "bench_kernels: %s\n", error.what());
    return 1;
  }
}
