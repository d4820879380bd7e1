// kernels/cuda/sampling against a twin that sorts, and under the emulation against the CPU's kernel
// as well. Compiled for the emulation and, by nvcc, for a GPU.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <numeric>
#include <random>

#include "kernels/cpu/philox.h"
#if !defined(__CUDACC__)  // C++20, which nvcc is not asked for
#include "kernels/cpu/sampling.h"
#endif
#include "kernels/cuda/launch.cuh"
#include "tests/check.h"
#include "tests/device_array.h"
#include "tests/schedules.h"
#include "tests/tolerance.h"

namespace tgv::test {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// Under ThreadSanitizer every read is a call, and what it looks for, races between blocks, shows
// with few rows as well: the 1024 threads of a block are fibers of one thread, whose order it
// cannot see.
#if defined(__SANITIZE_THREAD__)
constexpr bool kIsSlow = true;
#else
constexpr bool kIsSlow = false;
#endif
using Sizes = std::vector<int64_t>;
Sizes sizes(Sizes all, Sizes few) { return kIsSlow ? few : all; }
constexpr int64_t size(int64_t full, int64_t small) { return kIsSlow ? small : full; }

// cpu::SamplingParams but for its lists, which are the row's.
struct Params {
  float temperature = 0;
  int64_t top_k = 0;
  float top_p = 1, min_p = 0;
  float repetition_penalty = 1, presence_penalty = 0, frequency_penalty = 0;
  uint64_t seed = 0;
  uint32_t sample = 0;
};

struct Row {
  std::vector<float> logits;
  Params params = {};
  std::vector<int32_t> history = {};
  std::vector<std::pair<int32_t, float>> bias = {};
  std::vector<int32_t> banned = {};
  int64_t position = 0;
};

struct Result {
  std::vector<int32_t> ids, top_ids;
  std::vector<float> logprobs, top_logprobs;
};

std::vector<float> random_logits(int64_t vocab, uint32_t seed, float spread = 3.0f) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, spread);
  std::vector<float> out(static_cast<size_t>(vocab));
  for (float& value : out) value = std::round(normal(random) * 16) / 16;  // with equals
  return out;
}

// --- the twin -----------------------------------------------------------------------------------
// kernels/cpu/lanes.h, one number at a time; the host's baseline fuses nothing.
float exp_twin(float x) {
  if (x < -87.0f) return 0;
  const float shifted = x * 1.4426950408889634f + 12582912.0f, n = shifted - 12582912.0f;
  const float r = (x - n * 0.693145751953125f) - n * 1.4286068203094172e-6f;
  float p = r * 0.0013926250394433737f + 0.00836323294788599f;
  for (float c : {0.04166655242443085f, 0.16666576266288757f, 0.5f, 1.0f, 1.0f}) p = p * r + c;
  return p * std::ldexp(1.0f, static_cast<int>(n));
}

std::vector<float> process(const Row& row) {
  std::vector<float> l = row.logits;
  const Params& p = row.params;
  constexpr float kLargest = std::numeric_limits<float>::max();
  for (const auto& [id, bias] : row.bias) l[id] = std::min(l[id] + bias, kLargest);
  std::map<int32_t, int> counts;
  for (int32_t id : row.history) ++counts[id];
  for (const auto& [id, count] : counts) {
    const float r = p.repetition_penalty;
    if (r != 1) l[id] = l[id] < 0 ? l[id] * r : l[id] / r;
    l[id] = l[id] - p.frequency_penalty * static_cast<float>(count);
    l[id] = std::min(l[id] - p.presence_penalty, kLargest);
  }
  for (int32_t id : row.banned) l[id] = -kInfinity;
  return l;
}

int32_t twin(const Row& row) {
  for (float x : row.logits) {
    if (!(x < kInfinity)) return -1;
  }
  const std::vector<float> l = process(row);
  const size_t best = static_cast<size_t>(std::max_element(l.begin(), l.end()) - l.begin());
  if (!(l[best] > -kInfinity)) return -1;
  const Params& p = row.params;
  if (p.temperature == 0) return static_cast<int32_t>(best);
  const float slope =
      p.temperature < 0x1p-126f ? std::numeric_limits<float>::max() : 1.0f / p.temperature;
  std::vector<size_t> order(l.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return l[a] > l[b]; });
  float least_logit = -kInfinity;
  if (p.top_k > 0 && p.top_k < static_cast<int64_t>(l.size())) least_logit = l[order[p.top_k - 1]];
  std::vector<float> e(l.size());
  uint64_t total = 0;
  const auto weight = [](float x) { return static_cast<uint64_t>(x * 0x1p40f); };
  for (size_t i = 0; i < l.size(); ++i) {
    e[i] = exp_twin((l[i] - l[best]) * slope);
    if (l[i] >= least_logit) total += weight(e[i]);
  }
  float least = p.min_p;
  if (p.top_p < 1) {
    const uint64_t wanted = std::max<uint64_t>(
        static_cast<uint64_t>(static_cast<double>(p.top_p) * static_cast<double>(total)), 1);
    uint64_t sum = 0;
    for (size_t at : order) {
      if (sum >= wanted) break;
      sum += weight(e[at]);
      if (sum >= wanted) least = std::max(least, e[at]);
    }
  }
  uint64_t kept = 0;
  const auto keeps = [&](size_t i) { return l[i] >= least_logit && e[i] >= least; };
  for (size_t i = 0; i < l.size(); ++i) kept += keeps(i) ? weight(e[i]) : 0;
  const uint64_t r = cpu::random_bits(p.seed, row.position, p.sample);
  __extension__ typedef unsigned __int128 Wide;
  const uint64_t target = static_cast<uint64_t>(Wide{kept} * r >> 64);
  uint64_t sum = 0;
  for (size_t i = 0; i < l.size(); ++i) {
    sum += keeps(i) ? weight(e[i]) : 0;
    if (sum > target) return static_cast<int32_t>(i);
  }
  return -1;
}

// --- running ------------------------------------------------------------------------------------
// Everything of several rows, as the kernel takes it.
struct Batch {
  std::vector<cuda::SamplingSettings> settings;
  std::vector<float> logits, bias_values;
  std::vector<int32_t> history, bias_ids, banned;
  std::vector<int64_t> positions;
};

constexpr int64_t kPadding = 3;  // columns behind each row of logits

Batch batch_of(const std::vector<Row>& rows) {
  Batch b;
  for (const Row& row : rows) {
    const Params& p = row.params;
    cuda::SamplingSettings s;
    s.temperature = p.temperature;
    s.top_p = p.top_p;
    s.min_p = p.min_p;
    s.repetition_penalty = p.repetition_penalty;
    s.presence_penalty = p.presence_penalty;
    s.frequency_penalty = p.frequency_penalty;
    s.top_k = static_cast<int32_t>(p.top_k);
    s.sample = p.sample;
    s.seed = p.seed;
    auto sorted = row.bias;
    std::stable_sort(sorted.begin(), sorted.end(),
                     [](const auto& x, const auto& y) { return x.first < y.first; });
    s.bias_begin = static_cast<int32_t>(b.bias_ids.size());
    for (const auto& [id, bias] : sorted) {
      b.bias_ids.push_back(id);
      b.bias_values.push_back(bias);
    }
    s.bias_end = static_cast<int32_t>(b.bias_ids.size());
    s.banned_begin = static_cast<int32_t>(b.banned.size());
    b.banned.insert(b.banned.end(), row.banned.begin(), row.banned.end());
    s.banned_end = static_cast<int32_t>(b.banned.size());
    b.logits.insert(b.logits.end(), row.logits.begin(), row.logits.end());
    b.logits.insert(b.logits.end(), kPadding, kNan);
    s.history_begin = static_cast<int32_t>(b.history.size());
    b.history.insert(b.history.end(), row.history.begin(), row.history.end());
    s.history_end = static_cast<int32_t>(b.history.size());
    b.settings.push_back(s);
    b.positions.push_back(row.position);
  }
  return b;
}

// logit_rows: of each, empty: its own.
Result run(const std::vector<Row>& rows, int32_t top = 0,
           const std::vector<int32_t>& logit_rows = {}) {
  const Batch b = batch_of(rows);
  const size_t count = rows.size(), vocab = rows[0].logits.size();
  DeviceArray<float> logits(b.logits), bias_values(b.bias_values), row(count * vocab);
  DeviceArray<cuda::SamplingSettings> settings(b.settings);
  DeviceArray<int64_t> positions(b.positions);
  DeviceArray<int32_t> history(b.history), bias_ids(b.bias_ids);
  DeviceArray<int32_t> banned(b.banned), counts(std::vector<int32_t>(count * vocab, 0));
  DeviceArray<int32_t> ids(count), top_ids(count * static_cast<size_t>(top));
  DeviceArray<int32_t> sources(logit_rows);
  DeviceArray<float> logprobs(count), top_logprobs(count * static_cast<size_t>(top));
  cuda::SamplingParams p;
  p.sequences = static_cast<int32_t>(count);
  p.vocab = static_cast<int32_t>(vocab);
  p.top = top;
  p.logits = logits.data();
  p.logits_stride = static_cast<int64_t>(vocab) + kPadding;
  if (!logit_rows.empty()) p.logit_rows = sources.data();
  p.settings = settings.data();
  p.positions = positions.data();
  p.history = history.data();
  p.bias_ids = bias_ids.data();
  p.bias_values = bias_values.data();
  p.banned_ids = banned.data();
  p.row = row.data();
  p.counts = counts.data();
  p.ids = ids.data();
  p.logprobs = logprobs.data();
  p.top_ids = top_ids.data();
  p.top_logprobs = top_logprobs.data();
  cuda::launch_sampling(p, {});
  CHECK(ids.guards_intact() && logprobs.guards_intact() && row.guards_intact());
  CHECK(top_ids.guards_intact() && top_logprobs.guards_intact() && counts.guards_intact());
  for (int32_t left : counts.download()) CHECK_EQ(left, 0);
  return {ids.download(), top_ids.download(), logprobs.download(), top_logprobs.download()};
}

void check_logprob(const std::vector<float>& logits, int32_t id, float got) {
  if (id < 0) {
    CHECK(std::isnan(got));
    return;
  }
  const double peak = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (float x : logits) sum += std::exp(static_cast<double>(x) - peak);
  const double logit = logits[static_cast<size_t>(id)], expected = logit - peak - std::log(sum);
  // A thread's numbers, the tree, the warps; exp is within 2.5 units; two subtractions and log.
  const double chain = static_cast<double>(logits.size()) / 1024 + 1 + 5 + 32;
  const double bound = kFloatUnit * (chain + 4 + std::fabs(logit - peak) +
                                     std::fabs(std::log(sum)) + std::fabs(expected));
  if (!(std::fabs(got - expected) <= bound)) {
    fail(__FILE__, __LINE__,
         concat("logprob is ", got, ", expected ", expected, " within ", bound));
  }
}

int32_t cpu_choice(const Row& row) {
#if defined(__CUDACC__)
  return twin(row);
#else
  const int64_t vocab = static_cast<int64_t>(row.logits.size());
  const Params& q = row.params;
  const cpu::SamplingParams p = {q.temperature,
                                 q.top_k,
                                 q.top_p,
                                 q.min_p,
                                 q.repetition_penalty,
                                 q.presence_penalty,
                                 q.frequency_penalty,
                                 row.bias,
                                 row.banned,
                                 {},
                                 q.seed,
                                 q.sample};
  CHECK_EQ(cpu::sampling_why_not(p, vocab), std::string());
  std::vector<std::byte> memory(cpu::sampling_scratch_bytes(vocab) + 64);
  void* scratch = memory.data() + (64 - reinterpret_cast<uintptr_t>(memory.data()) % 64) % 64;
  return cpu::sample({row.logits.data(), vocab, row.history, row.position}, p, scratch,
                     Isa::kPortable)
      .id;
#endif
}

void check_rows(const std::vector<Row>& rows) {
  const Result result = run(rows);
  for (size_t i = 0; i < rows.size(); ++i) {
    const int32_t expected = twin(rows[i]);
    CHECK_EQ(cpu_choice(rows[i]), expected);
    if (result.ids[i] != expected) {
      const Params& p = rows[i].params;
      fail(__FILE__, __LINE__,
           concat("row ", i, " has id ", result.ids[i], ", expected ", expected, " (V ",
                  rows[i].logits.size(), ", temperature ", p.temperature, ", top_k ", p.top_k,
                  ", top_p ", p.top_p, ", min_p ", p.min_p, ")"));
    }
    check_logprob(rows[i].logits, expected, result.logprobs[i]);
  }
}

Params drawn(float temperature, int64_t top_k = 0, float top_p = 1, float min_p = 0) {
  Params p;
  p.temperature = temperature;
  p.top_k = top_k;
  p.top_p = top_p;
  p.min_p = min_p;
  p.seed = 0x123456789abcdefull;
  p.sample = 2;
  return p;
}

// --- tests --------------------------------------------------------------------------------------
TEST(greedy_at_every_edge) {
  for (int64_t vocab :
       sizes({1, 2, 31, 32, 33, 1000, 1023, 1024, 1025, 2049, 5000}, {1, 33, 1025})) {
    std::vector<Row> rows;
    for (uint32_t seed : {1u, 2u, 3u}) rows.push_back({random_logits(vocab, seed)});
    check_rows(rows);
  }
}

TEST(lowest_of_equals_and_both_zeros) {
  Row row{std::vector<float>(3000, -1.0f)};
  row.logits[2900] = 0.0f;
  row.logits[1717] = -0.0f;
  check_rows({row});
  CHECK_EQ(run({row}).ids[0], 1717);
}

TEST(draws_with_every_filter) {
  for (int64_t vocab : sizes({1, 7, 33, 1100, 5000}, {33})) {
    std::vector<Row> rows;
    int64_t position = 0;
    for (float temperature : {0.25f, 1.0f, 4.0f}) {
      for (const Params& p : {drawn(temperature), drawn(temperature, 5), drawn(temperature, 1),
                              drawn(temperature, 0, 0.9f), drawn(temperature, 0, 1e-6f),
                              drawn(temperature, 0, 1, 0.05f), drawn(temperature, 50, 0.8f, 0.02f),
                              drawn(temperature, 0, 0.5f, 0.3f), drawn(temperature, 2000, 0.99f)}) {
        rows.push_back({random_logits(vocab, static_cast<uint32_t>(position)), p});
        rows.back().position = (int64_t{1} << 33) + position++;
      }
    }
    check_rows(rows);
  }
}

TEST(lists_that_do_not_fit_are_searched_in_the_row) {
  const int64_t vocab = size(6000, 2400), top_k = size(4000, 2200);
  std::vector<Row> rows;
  for (int64_t position = 0; position < size(6, 2); ++position) {
    Row flat{random_logits(vocab, 5, 0.01f), drawn(1, position % 2 ? top_k : 0, 0.95f)};
    flat.position = position;
    rows.push_back(flat);
    Row even{std::vector<float>(vocab, 2.5f), drawn(1, position % 2 ? 10 : 0, 0.4f)};
    even.position = position;
    rows.push_back(even);
  }
  check_rows(rows);
}

TEST(draws_follow_the_probabilities) {
  const std::vector<float> logits = {0.0f, std::log(2.0f), std::log(5.0f)};
  std::vector<Row> rows;
  const int64_t draws = size(600, 40);
  for (int64_t position = 0; position < draws; ++position) {
    rows.push_back({logits, drawn(1)});
    rows.back().position = position;
  }
  int counts[3] = {};
  for (int32_t id : run(rows).ids) ++counts[id];
  for (int i = 0; i < 3; ++i) {  // five standard deviations
    const double share = std::exp(logits[static_cast<size_t>(i)]) / 8,
                 mean = static_cast<double>(draws) * share;
    CHECK(std::fabs(counts[i] - mean) <= 5 * std::sqrt(mean * (1 - share)));
  }
}

TEST(penalties_bias_and_bans) {
  std::mt19937 random(9);
  std::vector<Row> rows;
  for (int64_t position = 0; position < size(24, 6); ++position) {
    Row row{random_logits(1500, static_cast<uint32_t>(position)),
            drawn(position % 3 ? 0.8f : 0.0f, position % 4 ? 0 : 40, position % 2 ? 0.9f : 1.0f)};
    row.position = position;
    row.params.repetition_penalty = position % 5 ? 1.3f : 1.0f;
    row.params.frequency_penalty = position % 2 ? 0.1f : 0.0f;
    row.params.presence_penalty = position % 7 ? 0.0f : -0.5f;
    for (int i = 0; i < 40 * (position % 4); ++i) {
      row.history.push_back(static_cast<int32_t>(random() % (i % 2 ? 1500 : 20)));
    }
    for (int i = 0; i < 6 * (position % 3); ++i) {
      row.bias.emplace_back(static_cast<int32_t>(random() % 9), (i % 3) * 1.7f);
    }
    if (position % 6 == 1) row.bias.emplace_back(3, std::numeric_limits<float>::max());
    for (int i = 0; i < 50 * (position % 2); ++i) {
      row.banned.push_back(static_cast<int32_t>(random() % 1500));
    }
    rows.push_back(row);
  }
  check_rows(rows);
}

TEST(several_draws_from_one_row) {
  std::vector<Row> rows;
  for (int64_t position = 0; position < 4; ++position) {
    rows.push_back({random_logits(1100, static_cast<uint32_t>(position)), drawn(1.5f)});
    rows.back().position = position;
    if (position % 2) rows.back().banned = {1, 2, 3};
  }
  const std::vector<int32_t> sources = {2, 0, 2, 2};
  const Result result = run(rows, 1, sources);
  for (size_t i = 0; i < rows.size(); ++i) {
    Row asked = rows[i];
    asked.logits = rows[static_cast<size_t>(sources[i])].logits;
    CHECK_EQ(result.ids[i], twin(asked));
    check_logprob(asked.logits, result.ids[i], result.logprobs[i]);
  }
  CHECK_EQ(result.top_ids[0], result.top_ids[3]);
}

TEST(rows_without_a_token) {
  std::vector<Row> rows;
  for (float bad : {kNan, -kNan, kInfinity}) {
    rows.push_back({random_logits(1200, 4), drawn(1)});
    rows.back().logits[1100] = bad;
  }
  rows.push_back({std::vector<float>(1200, -kInfinity)});
  rows.push_back({random_logits(1200, 4)});  // a good one between
  rows.push_back({random_logits(1200, 4)});
  rows.back().banned.resize(1200);
  std::iota(rows.back().banned.begin(), rows.back().banned.end(), 0);
  const Result result = run(rows, 2);
  for (size_t i : {0u, 1u, 2u, 3u}) {
    CHECK_EQ(result.ids[i], -1);
    CHECK(std::isnan(result.logprobs[i]));
    CHECK_EQ(result.top_ids[2 * i + 1], -1);
    CHECK(std::isnan(result.top_logprobs[2 * i]));
  }
  CHECK_EQ(result.ids[4], twin(rows[4]));
  CHECK_EQ(result.ids[5], -1);
  CHECK(std::isnan(result.logprobs[5]));
  CHECK_EQ(result.top_ids[10], twin(rows[4]));  // of the logits as given
}

TEST(minus_infinity_is_a_logit) {
  Row row{random_logits(2000, 6), drawn(2)};
  for (size_t i = 0; i < row.logits.size(); i += 2) row.logits[i] = -kInfinity;
  std::vector<Row> rows;
  for (int64_t position = 0; position < size(10, 3); ++position) {
    rows.push_back(row);
    rows.back().position = position;
  }
  check_rows(rows);
}

TEST(the_best_with_their_logprobs) {
  for (int64_t vocab : sizes({3, 40, 1500}, {3, 40})) {
    const int32_t top = static_cast<int32_t>(std::min<int64_t>(vocab, size(20, 5)));
    std::vector<Row> rows;
    for (uint32_t seed : {1u, 2u}) rows.push_back({random_logits(vocab, seed)});
    const Result result = run(rows, top);
    for (size_t i = 0; i < rows.size(); ++i) {
      const std::vector<float>& l = rows[i].logits;
      std::vector<int32_t> order(l.size());
      std::iota(order.begin(), order.end(), 0);
      std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return l[a] > l[b]; });
      for (int32_t n = 0; n < top; ++n) {
        const size_t at = i * static_cast<size_t>(top) + static_cast<size_t>(n);
        CHECK_EQ(result.top_ids[at], order[static_cast<size_t>(n)]);
        check_logprob(l, result.top_ids[at], result.top_logprobs[at]);
      }
    }
  }
}

TEST(real_vocabulary) {
  const int64_t vocab = size(51200, 5000);
  std::vector<Row> rows = {{random_logits(vocab, 1)},
                           {random_logits(vocab, 2), drawn(0.7f)},
                           {random_logits(vocab, 3), drawn(1, 50, 0.95f)},
                           {random_logits(vocab, 4), drawn(1.5f, 0, 0.9f, 0.001f)}};
  check_rows(rows);
}

std::vector<Row> everything() {
  Row row{random_logits(1300, 11), drawn(1.2f, 60, 0.9f)};
  row.params.repetition_penalty = 1.2f;
  row.history = {5, 7, 5, 1200, 5};
  row.bias = {{9, 0.5f}, {9, 0.25f}, {8, 1.0f}};
  row.banned = {1, 2, 3};
  return {row, {random_logits(1300, 12)}};
}

TEST(hostile_schedules) {
  for_each_schedule([] {
    check_rows(everything());
    check_rows({{random_logits(1300, 13), drawn(1, 0, 0.9f)}});
  });
}

// Rows whose token hangs on one step having seen the whole of the one before it, done by other
// warps: ids and places in the lists are chosen accordingly.
Row copy_before_bias() {
  Row row{random_logits(1300, 21)};
  row.bias = {{1299, 100.0f}};
  return row;
}

Row bias_before_penalties() {
  Row row{std::vector<float>(1300, -1.0f)};
  for (int32_t id = 0; id < 40; ++id) row.bias.emplace_back(id, -1.0f);
  row.bias.emplace_back(700, 21.0f);  // 20, then 2; the other way round 11
  row.bias.emplace_back(800, 5.0f);
  row.params.repetition_penalty = 10;
  row.history = {700};
  return row;
}

Row counts_before_penalties() {
  Row row{std::vector<float>(1300, 0.0f)};
  row.logits[600] = 3;  // 1.5, or 0 if the presence penalty comes twice
  row.logits[601] = 1;
  row.history.assign(64, 600);
  row.params.presence_penalty = 1.5f;
  return row;
}

Row bans_before_the_best() {
  Row row{random_logits(1300, 22)};
  row.logits[1290] = 100;
  row.banned = {1290};
  return row;
}

// Barriers in order: the peak, the sum of exponentials; copy, counts where there are penalties, all
// changes but bans (it keeps two writes of one number apart, which the emulation does not
// interleave), bans; the best of the processed row.
TEST(schedules_see_every_missing_barrier) {
  if (kIsSlow) {
    std::printf("     not under ThreadSanitizer: about the order of fibers alone\n");
    return;
  }
  const auto seen = [](int barrier, Row row) {
    std::vector<Row> rows(row.params.temperature > 0 ? 16 : 1, row);
    for (size_t i = 0; i < rows.size(); ++i) rows[i].position = static_cast<int64_t>(i);
    if (!mutation_is_seen(barrier, false, [&rows] { check_rows(rows); })) {
      fail(__FILE__, __LINE__, concat("barrier ", barrier, " of ", rows.size(), " rows"));
    }
  };
  seen(0, copy_before_bias());
  seen(1, copy_before_bias());
  seen(2, copy_before_bias());
  seen(3, bias_before_penalties());
  seen(3, counts_before_penalties());
  seen(4, bans_before_the_best());
  seen(5, bans_before_the_best());
  // Of a draw behind the same two: the best, its peak, the sum of all, then the list of top_p (its
  // count set back, its values written); without top_p the sum of what is kept and the id.
  const Row plain{random_logits(1300, 23), drawn(1)};
  Row nucleus = plain;
  nucleus.params.top_p = 0.5f;
  seen(4, plain);
  seen(6, plain);
  seen(5, nucleus);
  seen(6, nucleus);
}

TEST(why_not_says_what_is_wrong) {
  float number = 0;
  int32_t word = 0;
  int64_t position = 0;
  cuda::SamplingSettings settings;
  cuda::SamplingParams p;
  const auto refused = [&p](const char* part) {
    const std::string why_not = cuda::sampling_why_not(p);
    if (!std::strstr(why_not.c_str(), part)) fail(__FILE__, __LINE__, why_not + " lacks " + part);
  };
  refused("S is 0");
  p.sequences = 1;
  refused("V is 0");
  p.vocab = 10;
  refused("logits_stride is 0");
  p.logits_stride = 10;
  p.top = 11;
  refused("top is 11, expected 0..10");
  p.top = 1;
  refused("logits, settings or positions");
  p.logits = &number;
  p.settings = &settings;
  p.positions = &position;
  refused("ids or logprobs");
  p.ids = &word;
  p.logprobs = &number;
  refused("top needs");
  p.top = 0;
  p.history = &word;
  refused("history needs");
  p.history = nullptr;
  p.bias_ids = &word;
  refused("bias_ids and bias_values");
  p.bias_values = &number;
  refused("need row");
  p.row = &number;
  CHECK_EQ(cuda::sampling_why_not(p), std::string());
  CHECK_EQ(cuda::sampling_bytes(p), int64_t{40 + sizeof(settings) + 16});
}

}  // namespace
}  // namespace tgv::test

TEST_MAIN()
