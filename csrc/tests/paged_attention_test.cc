// kernels/cuda/paged_attention against double precision. Compiled for the emulation and, by nvcc,
// for a GPU.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "kernels/cuda/launch.cuh"
#include "tests/check.h"
#include "tests/device_array.h"
#include "tests/half.h"
#include "tests/schedules.h"
#include "tests/tolerance.h"

namespace tgv::test {
namespace {

constexpr int PS = cuda::kPagePositions;

// Sequences of given lengths over pages in random order; every position that no sequence holds is
// NaN.
struct Problem {
  int heads, head_dim, max_pages, pages;
  std::vector<int32_t> lengths, table;
  std::vector<Half> q, k, v;

  int sequences() const { return static_cast<int>(lengths.size()); }
  size_t at(int sequence, int head, int position) const {
    const int64_t page = table[sequence * max_pages + position / PS];
    return static_cast<size_t>(((page * heads + head) * PS + position % PS) * head_dim);
  }
};

Problem make_problem(int heads, int head_dim, const std::vector<int32_t>& lengths, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  Problem p;
  p.heads = heads;
  p.head_dim = head_dim;
  p.lengths = lengths;
  p.max_pages = (*std::max_element(lengths.begin(), lengths.end()) + PS - 1) / PS + 1;
  p.pages = p.max_pages * p.sequences() + 3;
  std::vector<int32_t> order(p.pages);
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), random);
  p.table.assign(static_cast<size_t>(p.max_pages) * p.sequences(),
                 1 << 30);  // a page that is not there
  const size_t elements = static_cast<size_t>(p.pages) * heads * PS * head_dim;
  p.k.assign(elements, Half{0x7fff});
  p.v.assign(elements, Half{0x7fff});
  size_t next = 0;
  for (int s = 0; s < p.sequences(); ++s) {
    for (int i = 0; i * PS < lengths[s]; ++i) p.table[s * p.max_pages + i] = order[next++];
    for (int h = 0; h < heads; ++h) {
      for (int d = 0; d < head_dim; ++d) p.q.push_back(to_half(normal(random) * 2));
      for (int position = 0; position < lengths[s]; ++position) {
        for (int d = 0; d < head_dim; ++d) {
          p.k[p.at(s, h, position) + d] = to_half(normal(random) * 2);
          p.v[p.at(s, h, position) + d] = to_half(normal(random));
        }
      }
    }
  }
  return p;
}

std::vector<float> run(const Problem& problem) {
  DeviceArray<Half> q(problem.q), k(problem.k), v(problem.v);
  DeviceArray<int32_t> table(problem.table), lengths(problem.lengths);
  DeviceArray<float> out(problem.q.size());
  cuda::PagedAttentionParams p;
  p.sequences = problem.sequences();
  p.heads = problem.heads;
  p.head_dim = problem.head_dim;
  p.max_pages = problem.max_pages;
  p.scale = 1.0f / std::sqrt(static_cast<float>(problem.head_dim));
  DeviceArray<float> partial(static_cast<size_t>(cuda::paged_attention_partial_elems(p)));
  p.out = out.data();
  p.partial = partial.data();
  p.q = q.data();
  p.k_pages = k.data();
  p.v_pages = v.data();
  p.block_table = table.data();
  p.lengths = lengths.data();
  cuda::launch_paged_attention(p, {});
  CHECK(out.guards_intact() && partial.guards_intact());
  return out.download();
}

// Exact scores and output of one head, and a bound on the kernel's error: a score is off by at most
// `score_bound`, so a weight by that factor (twice: in the weight and in the sum), plus the sums of
// up to `length` terms.
void check_head(const Problem& p, const std::vector<float>& out, int s, int h) {
  const size_t row = static_cast<size_t>(s * p.heads + h) * p.head_dim;
  const int length = p.lengths[s];
  std::vector<double> score(length), value(p.head_dim, 0), magnitude(p.head_dim, 0);
  double max = -INFINITY, score_bound = 0, sum = 0;
  const double scale = 1 / std::sqrt(static_cast<double>(p.head_dim));
  for (int i = 0; i < length; ++i) {
    double dot = 0, absolute = 0;
    for (int d = 0; d < p.head_dim; ++d) {
      const double product = from_half(p.q[row + d]) * from_half(p.k[p.at(s, h, i) + d]);
      dot += product;
      absolute += std::fabs(product);
    }
    score[i] = dot * scale;
    max = std::max(max, score[i]);
    score_bound = std::max(score_bound, fp32_sum_bound(p.head_dim + 4, absolute * scale));
  }
  for (int i = 0; i < length; ++i) {
    const double weight = std::exp(score[i] - max);
    sum += weight;
    for (int d = 0; d < p.head_dim; ++d) {
      const double v = from_half(p.v[p.at(s, h, i) + d]);
      value[d] += weight * v;
      magnitude[d] += weight * std::fabs(v);
    }
  }
  for (int d = 0; d < p.head_dim; ++d) {
    const double expected = length ? value[d] / sum : 0;
    const double relative = 2 * score_bound + fp32_sum_bound(length / 4.0 + 24, 1);
    const double bound = length ? relative * 2 * magnitude[d] / sum : 0;
    const double error = std::fabs(out[row + d] - expected);
    if (!(error <= bound)) {
      fail(__FILE__, __LINE__,
           concat("out[", s, ",", h, ",", d, "] is ", out[row + d], ", expected ", expected,
                  " within ", bound, " (length ", length, ", D ", p.head_dim, ")"));
    }
  }
}

void check_problem(const Problem& problem) {
  const std::vector<float> out = run(problem);
  for (int s = 0; s < problem.sequences(); ++s) {
    for (int h = 0; h < problem.heads; ++h) check_head(problem, out, s, h);
  }
}

TEST(lengths_around_pages_and_cuts) {
  check_problem(
      make_problem(3, 80, {1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129}, 1));
}

TEST(a_long_context) { check_problem(make_problem(2, 80, {1031}, 2)); }

TEST(head_dim_64) { check_problem(make_problem(2, 64, {1, 40, 200}, 3)); }

TEST(an_empty_sequence_gives_zeros) { check_problem(make_problem(2, 80, {0, 5}, 4)); }

TEST(large_scores_do_not_overflow) {
  Problem problem = make_problem(1, 80, {90}, 5);
  for (Half& value : problem.q) value = to_half(static_cast<float>(from_half(value)) * 30);
  check_problem(problem);
}

TEST(hostile_schedules) {
  for_each_schedule([] { check_problem(make_problem(3, 80, {3, 70, 150}, 6)); });
}

TEST(a_sequence_does_not_depend_on_the_others) {
  const Problem all = make_problem(2, 80, {70, 5, 200}, 7);
  const std::vector<float> together = run(all);
  for (int s = 0; s < 3; ++s) {
    Problem one = all;
    one.lengths = {all.lengths[s]};
    one.table.assign(all.table.begin() + s * all.max_pages,
                     all.table.begin() + (s + 1) * all.max_pages);
    const size_t row = static_cast<size_t>(all.heads) * all.head_dim;
    one.q.assign(all.q.begin() + s * row, all.q.begin() + (s + 1) * row);
    const std::vector<float> alone = run(one);
    CHECK(std::memcmp(alone.data(), together.data() + s * row, row * sizeof(float)) == 0);
  }
}

TEST(why_not_says_what_is_wrong) {
  cuda::PagedAttentionParams p;
  p.head_dim = 96;
  CHECK_EQ(cuda::paged_attention_why_not(p), std::string("head_dim is 96, expected 64 or 80"));
  p.head_dim = 80;
  CHECK_EQ(cuda::paged_attention_why_not(p),
           std::string("S=0, H=0, max_pages=0, expected all >= 1"));
  p.sequences = p.heads = p.max_pages = 1;
  CHECK_EQ(cuda::paged_attention_why_not(p), std::string("a pointer is null"));
  CHECK_THROWS(InvalidArgument, cuda::launch_paged_attention(p, {}), "paged_attention: a pointer");
}

}  // namespace
}  // namespace tgv::test

TEST_MAIN()
