// kernels/cuda/paged_attention against double precision. Compiled for the emulation and, by nvcc,
// for a GPU.
#include <cmath>
#include <random>

#include "kernels/cuda/launch.cuh"
#include "tests/check.h"
#include "tests/device_array.h"
#include "tests/paged_cache.h"
#include "tests/schedules.h"
#include "tests/tolerance.h"

namespace tgv::test {
namespace {

using cuda::KvKind;

struct Problem {
  PagedCache cache;
  std::vector<uint8_t> q;  // [S, H, D]

  int sequences() const { return cache.sequences(); }
  size_t row_elements() const { return static_cast<size_t>(cache.heads * cache.head_dim); }
};

Problem make_problem(KvKind kind, int heads, int head_dim, const std::vector<int32_t>& lengths,
                     unsigned seed, float deviation = 2) {
  std::mt19937 random(seed);
  Problem p;
  p.cache = make_cache(kind, heads, head_dim, lengths, random);
  p.q = make_queries(kind, p.row_elements() * lengths.size(), deviation, random);
  return p;
}

// half: out is f16.
std::vector<float> run(const Problem& problem, bool half = false) {
  const PagedCache& cache = problem.cache;
  DeviceArray<uint8_t> q(problem.q), k(cache.k), v(cache.v);
  DeviceArray<Half> k_scales(cache.k_scales), v_scales(cache.v_scales);
  DeviceArray<int32_t> table(cache.table), lengths(cache.lengths);
  const size_t count = problem.row_elements() * cache.lengths.size();
  DeviceArray<float> out(half ? 0 : count);
  DeviceArray<Half> out_half(half ? count : 0);
  cuda::PagedAttentionParams p;
  p.sequences = cache.sequences();
  p.heads = cache.heads;
  p.head_dim = cache.head_dim;
  p.max_pages = cache.max_pages;
  p.scale = 1.0f / std::sqrt(static_cast<float>(cache.head_dim));
  p.kind = cache.kind;
  DeviceArray<float> partial(static_cast<size_t>(cuda::paged_attention_partial_elems(p)));
  p.out = half ? static_cast<void*>(out_half.data()) : out.data();
  p.out_is_half = half;
  p.partial = partial.data();
  p.q = q.data();
  p.k_pages = k.data();
  p.v_pages = v.data();
  if (cuda::kv_has_scales(p.kind)) {
    p.k_scales = k_scales.data();
    p.v_scales = v_scales.data();
  }
  p.block_table = table.data();
  p.lengths = lengths.data();
  cuda::launch_paged_attention(p, {});
  CHECK(out.guards_intact() && out_half.guards_intact() && partial.guards_intact());
  std::vector<float> values = out.download();
  for (Half value : out_half.download()) values.push_back(static_cast<float>(from_half(value)));
  return values;
}

// Exact scores and output of one head, and a bound on the kernel's error: a score is off by at most
// `score_bound`, so a weight by that factor (twice: in the weight and in the sum), plus the sums of
// up to `length` terms. A weight below the smallest normal float may count as zero. 8-bit elements
// are multiplied exactly; their scales round twice more.
void check_head(const Problem& problem, const std::vector<float>& out, int s, int h) {
  const PagedCache& cache = problem.cache;
  const int head_dim = cache.head_dim;
  const size_t row = static_cast<size_t>((s * cache.heads + h) * head_dim);
  const int length = cache.lengths[static_cast<size_t>(s)];
  std::vector<double> score(length), value(head_dim, 0), magnitude(head_dim, 0),
      unweighted(head_dim, 0);
  double max = -INFINITY, score_bound = 0, sum = 0;
  const double scale = 1 / std::sqrt(static_cast<double>(head_dim));
  for (int i = 0; i < length; ++i) {
    double dot = 0, absolute = 0;
    for (int d = 0; d < head_dim; ++d) {
      const double product =
          read_element(query_kind(cache.kind), problem.q, row + d) * cache.key(s, h, i, d);
      dot += product;
      absolute += std::fabs(product);
    }
    score[i] = dot * scale;
    max = std::max(max, score[i]);
    score_bound = std::max(score_bound, fp32_sum_bound(head_dim + 6, absolute * scale));
  }
  for (int i = 0; i < length; ++i) {
    const double weight = std::exp(score[i] - max);
    sum += weight;
    for (int d = 0; d < head_dim; ++d) {
      const double v = cache.value(s, h, i, d);
      value[d] += weight * v;
      magnitude[d] += weight * std::fabs(v);
      unweighted[d] += std::fabs(v);
    }
  }
  for (int d = 0; d < head_dim; ++d) {
    const double expected = length ? value[d] / sum : 0;
    const double relative = 2 * score_bound + fp32_sum_bound(length / 4.0 + 26, 1);
    const double bound =
        length ? relative * 2 * magnitude[d] / sum + std::ldexp(unweighted[d], -125) : 0;
    const double error = std::fabs(out[row + d] - expected);
    if (!(error <= bound)) {
      fail(__FILE__, __LINE__,
           concat("out[", s, ",", h, ",", d, "] is ", out[row + d], ", expected ", expected,
                  " within ", bound, " (length ", length, ", D ", head_dim, ", kind ",
                  static_cast<int>(cache.kind), ")"));
    }
  }
}

void check_problem(const Problem& problem) {
  const std::vector<float> out = run(problem);
  for (int s = 0; s < problem.sequences(); ++s) {
    for (int h = 0; h < problem.cache.heads; ++h) check_head(problem, out, s, h);
  }
}

TEST(lengths_around_pages_and_cuts) {
  for (KvKind kind : kEveryKind) {
    check_problem(make_problem(
        kind, 3, 80, {1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129}, 1));
  }
}

TEST(a_long_context) {
  for (KvKind kind : kEveryKind) check_problem(make_problem(kind, 2, 80, {1031}, 2));
}

TEST(head_dim_64) {
  for (KvKind kind : kEveryKind) check_problem(make_problem(kind, 2, 64, {1, 40, 200}, 3));
}

TEST(an_empty_sequence_gives_zeros) {
  for (KvKind kind : kEveryKind) check_problem(make_problem(kind, 2, 80, {0, 5}, 4));
}

TEST(large_scores_do_not_overflow) {
  for (KvKind kind : kEveryKind) check_problem(make_problem(kind, 1, 80, {90}, 5, 60));
}

TEST(f16_results_are_the_f32_results_rounded) {
  for (KvKind kind : kEveryKind) {
    const Problem problem = make_problem(kind, 2, 80, {5, 70}, 17);
    const std::vector<float> all = run(problem), half = run(problem, true);
    CHECK_EQ(half.size(), all.size());
    for (size_t i = 0; i < all.size(); ++i) {
      CHECK_EQ(to_half(half[i]).bits, to_half(all[i]).bits);
    }
  }
}

TEST(hostile_schedules) {
  for_each_schedule([] {
    for (KvKind kind : kEveryKind) check_problem(make_problem(kind, 3, 80, {3, 70, 150}, 6));
  });
}

TEST(a_sequence_does_not_depend_on_the_others) {
  for (KvKind kind : kEveryKind) {
    const Problem all = make_problem(kind, 2, 80, {70, 5, 200}, 7);
    const std::vector<float> together = run(all);
    for (int s = 0; s < 3; ++s) {
      Problem one = all;
      const size_t row = all.row_elements(), bytes = row * cuda::kv_query_bytes(kind);
      one.cache.lengths = {all.cache.lengths[s]};
      one.cache.table.assign(all.cache.table.begin() + s * all.cache.max_pages,
                             all.cache.table.begin() + (s + 1) * all.cache.max_pages);
      one.q.assign(all.q.begin() + s * bytes, all.q.begin() + (s + 1) * bytes);
      const std::vector<float> alone = run(one);
      CHECK(std::memcmp(alone.data(), together.data() + s * row, row * sizeof(float)) == 0);
    }
  }
}

// A level of each sign at its edge, and the largest and smallest e4m3: what random data seldom has.
TEST(extreme_elements_of_8_bit_pages) {
  const uint8_t codes[2][4] = {{0x80, 0x7f, 0x81, 0x00}, {0x7e, 0xfe, 0x01, 0x80}};
  for (KvKind kind : {KvKind::kI8, KvKind::kE4M3}) {
    Problem problem = make_problem(kind, 1, 80, {37}, 8, 0.01f);
    for (int position = 0; position < 37; ++position) {
      const size_t row = problem.cache.row(0, 0, position) * 80;
      for (size_t d = 0; d < 80; ++d) {
        const size_t pick = (d * 7 + static_cast<size_t>(position)) % 4;
        problem.cache.k[row + d] = codes[kind == KvKind::kE4M3][pick];
        problem.cache.v[row + d] = codes[kind == KvKind::kE4M3][3 - pick];
      }
    }
    check_problem(problem);
  }
}

TEST(declared_bytes) {
  cuda::PagedAttentionParams p;
  p.sequences = 3;
  p.heads = 2;
  p.head_dim = 80;
  const int64_t q_and_out = 3 * 2 * 80 * (2 + 4);
  CHECK_EQ(cuda::paged_attention_bytes(p, 100), 100 * 2 * 2 * 160 + q_and_out);
  p.kind = KvKind::kI8;
  CHECK_EQ(cuda::paged_attention_bytes(p, 100), 100 * 2 * 2 * 82 + q_and_out);
}

TEST(why_not_says_what_is_wrong) {
  alignas(16) float memory[8] = {};
  int32_t numbers[1] = {1};
  cuda::PagedAttentionParams p;
  p.head_dim = 96;
  CHECK_EQ(cuda::paged_attention_why_not(p), std::string("head_dim is 96, expected 64 or 80"));
  p.head_dim = 80;
  CHECK_EQ(cuda::paged_attention_why_not(p),
           std::string("S=0, H=0, max_pages=0, expected all >= 1"));
  p.sequences = p.heads = p.max_pages = 1;
  CHECK_EQ(cuda::paged_attention_why_not(p), std::string("a pointer is null"));
  CHECK_THROWS(InvalidArgument, cuda::launch_paged_attention(p, {}), "paged_attention: a pointer");
  p.out = p.partial = memory;
  p.q = p.k_pages = p.v_pages = memory;
  p.block_table = p.lengths = numbers;
  CHECK_EQ(cuda::paged_attention_why_not(p), std::string());
  const std::string scales =
      "k_scales and v_scales belong to int8 and e4m3 pages, and to no others";
  p.kind = KvKind::kE4M3;
  CHECK_EQ(cuda::paged_attention_why_not(p), scales);
  const Half one[1] = {{0x3c00}};
  p.k_scales = one;
  CHECK_EQ(cuda::paged_attention_why_not(p), scales);
  p.v_scales = one;
  CHECK_EQ(cuda::paged_attention_why_not(p), std::string());
  p.kind = KvKind::kBF16;
  CHECK_EQ(cuda::paged_attention_why_not(p), scales);
  p.kind = static_cast<KvKind>(9);
  CHECK_EQ(cuda::paged_attention_why_not(p), std::string("kind is 9, expected one of KvKind"));
  p.kind = KvKind::kI8;
  p.k_pages = memory + 1;
  CHECK_EQ(cuda::paged_attention_why_not(p),
           std::string("q, k_pages or v_pages is not 16-byte aligned"));
}

}  // namespace
}  // namespace tgv::test

TEST_MAIN()
