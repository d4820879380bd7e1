// kernels/cuda/prefill_attention against double precision. Compiled for the emulation and, by nvcc,
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

constexpr KvKind kKinds[] = {KvKind::kF16, KvKind::kBF16, KvKind::kI8, KvKind::kE4M3};

// New tokens after older ones that the cache holds already.
struct Part {
  int tokens, older;
};

// Rows of q and out lie in the order of the sequences, with a row that nobody owns before each.
struct Problem {
  PagedCache cache;  // lengths: contexts
  std::vector<int32_t> first_tokens, tokens;
  std::vector<uint8_t> q;  // [rows, H, D]

  size_t row_elements() const { return static_cast<size_t>(cache.heads * cache.head_dim); }
  size_t row_bytes() const { return row_elements() * cuda::kv_query_bytes(cache.kind); }
  int rows() const { return static_cast<int>(q.size() / row_bytes()); }
};

Problem make_problem(KvKind kind, int heads, int head_dim, const std::vector<Part>& parts,
                     unsigned seed, float deviation = 2) {
  std::mt19937 random(seed);
  Problem p;
  std::vector<int32_t> contexts;
  int rows = 0;
  for (const Part& part : parts) {
    p.first_tokens.push_back(rows + 1);
    p.tokens.push_back(part.tokens);
    contexts.push_back(part.tokens + part.older);
    rows += part.tokens + 1;
  }
  p.cache = make_cache(kind, heads, head_dim, contexts, random);
  p.q = make_queries(kind, p.row_elements() * static_cast<size_t>(rows), deviation, random);
  size_t unowned = 0;
  for (const Part& part : parts) {
    std::memset(p.q.data() + unowned * p.row_bytes(), 0xff, p.row_bytes());
    unowned += static_cast<size_t>(part.tokens) + 1;
  }
  return p;
}

// half: out is f16.
std::vector<float> run(const Problem& problem, bool half = false) {
  const PagedCache& cache = problem.cache;
  DeviceArray<uint8_t> q(problem.q), k(cache.k), v(cache.v);
  DeviceArray<Half> k_scales(cache.k_scales), v_scales(cache.v_scales);
  DeviceArray<int32_t> table(cache.table), contexts(cache.lengths);
  DeviceArray<int32_t> first_tokens(problem.first_tokens), tokens(problem.tokens);
  const size_t count = problem.row_elements() * static_cast<size_t>(problem.rows());
  DeviceArray<float> out(half ? 0 : count);
  DeviceArray<Half> out_half(half ? count : 0);
  cuda::PrefillAttentionParams p;
  p.sequences = cache.sequences();
  p.heads = cache.heads;
  p.head_dim = cache.head_dim;
  p.max_pages = cache.max_pages;
  p.max_tokens = *std::max_element(problem.tokens.begin(), problem.tokens.end());
  p.scale = 1.0f / std::sqrt(static_cast<float>(cache.head_dim));
  p.kind = cache.kind;
  p.out = half ? static_cast<void*>(out_half.data()) : out.data();
  p.out_is_half = half;
  p.q = q.data();
  p.k_pages = k.data();
  p.v_pages = v.data();
  if (cuda::kv_has_scales(p.kind)) {
    p.k_scales = k_scales.data();
    p.v_scales = v_scales.data();
  }
  p.block_table = table.data();
  p.first_tokens = first_tokens.data();
  p.tokens = tokens.data();
  p.contexts = contexts.data();
  cuda::launch_prefill_attention(p, {});
  CHECK(out.guards_intact() && out_half.guards_intact());
  std::vector<float> values = out.download();
  for (Half value : out_half.download()) values.push_back(static_cast<float>(from_half(value)));
  return values;
}

// Keys or values of one head of a sequence as doubles, [length, D].
template <class Element>
std::vector<double> gather(const PagedCache& cache, int s, Element element) {
  std::vector<double> rows;
  for (int i = 0; i < cache.lengths[static_cast<size_t>(s)]; ++i) {
    for (int d = 0; d < cache.head_dim; ++d) rows.push_back(element(i, d));
  }
  return rows;
}

// How far the kernel may be from the exact result of a query that sees `length` positions. A score
// is off by at most `score_bound`, and so a weight by that factor, in the numerator and in the sum.
// Weights are rounded to 16 bits for the numerator, relative to a unit that no weight passes: that
// of an f16 below its smallest normal, 2^-14, by 2^-25 of the unit. (Scales of V in these tests
// differ by a factor of two at most.) The sums: a term a position, a rescaling a step of keys.
double relative_bound(KvKind kind, double score_bound, int length) {
  const double weight = kind == KvKind::kBF16 ? 0x1p-8 : 0x1p-11;
  return 1.25 * (2 * score_bound + weight + fp32_sum_bound(length + length / 32.0 + 32, 1));
}

void check_row(const Problem& problem, const std::vector<double>& keys,
               const std::vector<double>& values, size_t row, int h, int length,
               const std::vector<float>& out) {
  const PagedCache& cache = problem.cache;
  const int D = cache.head_dim;
  const size_t at = row * problem.row_elements() + static_cast<size_t>(h * D);
  std::vector<double> q(D), score(length), value(D, 0), magnitude(D, 0), unweighted(D, 0);
  for (int d = 0; d < D; ++d) q[d] = read_element(query_kind(cache.kind), problem.q, at + d);
  double max = -INFINITY, score_bound = 0, sum = 0;
  const double scale = 1 / std::sqrt(static_cast<double>(D));
  for (int i = 0; i < length; ++i) {
    double dot = 0, absolute = 0;
    for (int d = 0; d < D; ++d) {
      const double product = q[d] * keys[static_cast<size_t>(i * D + d)];
      dot += product;
      absolute += std::fabs(product);
    }
    score[i] = dot * scale;
    max = std::max(max, score[i]);
    score_bound = std::max(score_bound, fp32_sum_bound(D + 6, absolute * scale));
  }
  for (int i = 0; i < length; ++i) {
    const double weight = std::exp(score[i] - max);
    sum += weight;
    for (int d = 0; d < D; ++d) {
      const double v = values[static_cast<size_t>(i * D + d)];
      value[d] += weight * v;
      magnitude[d] += weight * std::fabs(v);
      unweighted[d] += std::fabs(v);
    }
  }
  for (int d = 0; d < D; ++d) {
    const double expected = value[d] / sum;
    const double tiny = cache.kind == KvKind::kBF16 ? 0x1p-125 : 0x1p-24;
    const double bound = relative_bound(cache.kind, score_bound, length) * magnitude[d] / sum +
                         tiny * unweighted[d] / sum;
    if (!(std::fabs(out[at + d] - expected) <= bound)) {
      fail(__FILE__, __LINE__,
           concat("out[", row, ",", h, ",", d, "] is ", out[at + d], ", expected ", expected,
                  " within ", bound, " (", length, " positions, D ", D, ", kind ",
                  static_cast<int>(cache.kind), ")"));
    }
  }
}

// Every row that a sequence owns against double precision, every other row untouched.
void check_problem(const Problem& problem) {
  const std::vector<float> out = run(problem);
  const PagedCache& cache = problem.cache;
  std::vector<bool> owned(static_cast<size_t>(problem.rows()));
  for (int s = 0; s < cache.sequences(); ++s) {
    const int tokens = problem.tokens[s], older = cache.lengths[s] - tokens;
    for (int h = 0; h < cache.heads; ++h) {
      const auto keys = gather(cache, s, [&](int i, int d) { return cache.key(s, h, i, d); });
      const auto values = gather(cache, s, [&](int i, int d) { return cache.value(s, h, i, d); });
      for (int i = 0; i < tokens; ++i) {
        const size_t row = static_cast<size_t>(problem.first_tokens[s] + i);
        owned[row] = true;
        check_row(problem, keys, values, row, h, older + i + 1, out);
      }
    }
  }
  for (size_t i = 0; i < out.size(); ++i) {
    uint32_t bits;
    std::memcpy(&bits, &out[i], sizeof bits);
    if (!owned[i / problem.row_elements()]) CHECK_EQ(bits, 0xffffffffu);
  }
}

TEST(lengths_around_pages_and_tiles) {
  for (KvKind kind : kKinds) {
    check_problem(make_problem(kind, 2, 80,
                               {{1, 0},
                                {1, 15},
                                {1, 63},
                                {1, 64},
                                {2, 62},
                                {15, 1},
                                {16, 0},
                                {17, 31},
                                {33, 64},
                                {63, 1},
                                {64, 0},
                                {65, 63},
                                {129, 0}},
                               1));
  }
}

TEST(a_long_context) {
  for (KvKind kind : kKinds) check_problem(make_problem(kind, 1, 80, {{70, 500}}, 2));
}

TEST(head_dim_64) {
  for (KvKind kind : kKinds) {
    check_problem(make_problem(kind, 2, 64, {{1, 0}, {65, 16}, {20, 130}}, 3));
  }
}

TEST(a_sequence_without_new_tokens_writes_nothing) {
  for (KvKind kind : kKinds) check_problem(make_problem(kind, 1, 80, {{0, 0}, {5, 3}, {0, 40}}, 4));
}

TEST(large_scores_do_not_overflow) {
  for (KvKind kind : kKinds) check_problem(make_problem(kind, 1, 80, {{30, 60}}, 5, 60));
}

// f16 weights times such scales, without a unit of their own, would lose most of their bits.
TEST(tiny_values_keep_their_bits) {
  for (KvKind kind : {KvKind::kI8, KvKind::kE4M3}) {
    Problem problem = make_problem(kind, 1, 80, {{70, 3}}, 6);
    for (Half& scale : problem.cache.v_scales) {
      if (scale.bits != 0x7fff) scale = Half{static_cast<uint16_t>(0x10 + scale.bits % 16)};
    }
    check_problem(problem);
  }
}

TEST(scales_of_zero_give_zeros) {
  Problem problem = make_problem(KvKind::kI8, 1, 80, {{20, 50}}, 7);
  for (Half& scale : problem.cache.v_scales) {
    if (scale.bits != 0x7fff) scale = Half{0};
  }
  check_problem(problem);
}

TEST(f16_results_are_the_f32_results_rounded) {
  for (KvKind kind : kKinds) {
    const Problem problem = make_problem(kind, 2, 80, {{5, 0}, {20, 50}}, 17);
    const std::vector<float> all = run(problem), half = run(problem, true);
    CHECK_EQ(half.size(), all.size());
    for (size_t i = 0; i < all.size(); ++i) {  // rows of nobody are NaN, as they were
      CHECK(std::isnan(all[i]) ? std::isnan(half[i])
                               : to_half(half[i]).bits == to_half(all[i]).bits);
    }
  }
}

TEST(hostile_schedules) {
  for_each_schedule([] {
    for (KvKind kind : kKinds) check_problem(make_problem(kind, 1, 80, {{70, 66}, {3, 10}}, 8));
  });
}

// Barriers of f16 in order: one a step of keys. Of int8: stored elements landed, halves made, for
// each step. Few tokens after many positions, so that all steps are computed by the one warp that
// has queries, with what all four have copied; with 64 tokens all four read.
TEST(schedules_see_every_missing_barrier_and_wait) {
  const auto one_warp = [](KvKind kind) {
    check_problem(make_problem(kind, 1, 80, {{5, 180}}, 9));
  };
  const auto all_warps = [](KvKind kind) {
    check_problem(make_problem(kind, 1, 80, {{64, 128}}, 10));
  };
  for (int barrier = 0; barrier < 3; ++barrier) {
    CHECK(mutation_is_seen(barrier, false, [&] { all_warps(KvKind::kF16); }));
    CHECK(mutation_is_seen(barrier, false, [&] { one_warp(KvKind::kF16); }));
  }
  for (int barrier = 0; barrier < 6; ++barrier) {
    CHECK(mutation_is_seen(barrier, false, [&] { all_warps(KvKind::kI8); }));
  }
  for (KvKind kind : kKinds) CHECK(mutation_is_seen(-1, true, [&] { all_warps(kind); }));
}

// One sequence of `all` alone, of whose new tokens only `count` from `begin` on are new; the cache
// holds nothing else of it.
std::vector<float> run_part(const Problem& all, int s, int begin, int count) {
  Problem part = all;
  const int older = all.cache.lengths[s] - all.tokens[s];
  part.cache.lengths = {older + begin + count};
  part.cache.table.assign(all.cache.table.begin() + s * all.cache.max_pages,
                          all.cache.table.begin() + (s + 1) * all.cache.max_pages);
  part.tokens = {count};
  part.first_tokens = {all.first_tokens[s] + begin};
  const std::vector<float> out = run(part);
  const auto from = out.begin() + part.first_tokens[0] * static_cast<int64_t>(all.row_elements());
  return {from, from + count * static_cast<int64_t>(all.row_elements())};
}

TEST(a_token_depends_on_its_own_sequence_alone_and_not_on_the_cut) {
  for (KvKind kind : kKinds) {
    const Problem all = make_problem(kind, 2, 80, {{20, 5}, {150, 21}, {3, 90}}, 11);
    const std::vector<float> together = run(all);
    const auto same = [&](int s, int begin, int count) {
      const std::vector<float> part = run_part(all, s, begin, count);
      const size_t row = static_cast<size_t>(all.first_tokens[s] + begin) * all.row_elements();
      return std::memcmp(part.data(), together.data() + row, part.size() * sizeof(float)) == 0;
    };
    for (int s = 0; s < 3; ++s) CHECK(same(s, 0, all.tokens[s]));
    CHECK(same(1, 0, 37) && same(1, 37, 64) && same(1, 101, 48) && same(1, 149, 1));
  }
}

TEST(declared_bytes) {
  cuda::PrefillAttentionParams p;
  p.heads = 2;
  p.head_dim = 80;
  CHECK_EQ(cuda::prefill_attention_bytes(p, 3, 100), 100 * 2 * 2 * 160 + 3 * 160 * (2 + 4));
  p.kind = KvKind::kE4M3;
  CHECK_EQ(cuda::prefill_attention_bytes(p, 3, 100), 100 * 2 * 2 * 82 + 3 * 160 * (2 + 4));
}

TEST(why_not_says_what_is_wrong) {
  alignas(16) float memory[8] = {};
  alignas(16) const Half scales[8] = {};
  const int32_t numbers[1] = {1};
  const auto why_not = cuda::prefill_attention_why_not;
  cuda::PrefillAttentionParams p;
  p.head_dim = 96;
  CHECK_EQ(why_not(p), std::string("head_dim is 96, expected 64 or 80"));
  p.head_dim = 80;
  p.kind = static_cast<KvKind>(9);
  CHECK_EQ(why_not(p), std::string("kind is 9, expected one of KvKind"));
  p.kind = KvKind::kF32;
  CHECK_EQ(why_not(p), std::string("the tensor core does not keep the bits of f32 pages; "
                                   "paged_attention takes them, a token as a sequence"));
  p.kind = KvKind::kF16;
  CHECK_EQ(why_not(p), std::string("S=0, H=0, max_pages=0, max_tokens=0, expected all >= 1"));
  p.sequences = p.heads = p.max_pages = 1;
  p.max_tokens = 17;
  CHECK_EQ(why_not(p), std::string("max_tokens is 17, but 1 pages hold 16 positions"));
  p.max_tokens = 16;
  CHECK_EQ(why_not(p), std::string("a pointer is null"));
  CHECK_THROWS(InvalidArgument, cuda::launch_prefill_attention(p, {}), "prefill_attention: a poin");
  p.out = memory;
  p.q = p.k_pages = p.v_pages = memory;
  p.block_table = p.first_tokens = p.tokens = p.contexts = numbers;
  CHECK_EQ(why_not(p), std::string());
  const std::string need = "k_scales and v_scales belong to int8 and e4m3 pages, and to no others";
  p.k_scales = scales;
  CHECK_EQ(why_not(p), need);
  p.kind = KvKind::kI8;
  CHECK_EQ(why_not(p), need);
  p.v_scales = scales;
  CHECK_EQ(why_not(p), std::string());
  p.v_scales = scales + 1;
  CHECK_EQ(why_not(p), std::string("out, q, pages or scales are not 16-byte aligned"));
}

}  // namespace
}  // namespace tgv::test

TEST_MAIN()
