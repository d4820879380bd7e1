// kernels/cuda/qkv_append against double precision, and its rounding bit for bit. Compiled for the
// emulation and, by nvcc, for a GPU. The kernel has no block barrier to leave out: its lanes meet
// in shuffles alone, which the emulation checks.
#include <algorithm>
#include <cmath>
#include <limits>
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

using cuda::KvKind;

constexpr int PS = cuda::kPagePositions;
constexpr float kEps = 1e-5f;
constexpr KvKind kKinds[] = {KvKind::kF32, KvKind::kF16, KvKind::kBF16, KvKind::kI8, KvKind::kE4M3};

struct Shape {
  int heads, head_dim, rotary_dims;
  bool q_norm, k_norm, bias;
};

struct Problem {
  Shape shape;
  int sequences, max_pages, pages, rotary_positions;
  std::vector<int32_t> positions, sequence_of, table;
  std::vector<float> qkv, q_weight, q_bias, k_weight, k_bias, cos, sin;

  int tokens() const { return static_cast<int>(positions.size()); }
  size_t row_elements() const { return static_cast<size_t>(shape.head_dim); }
  // The row of the cache, or -1 for a token without a place.
  int64_t cached(int token, int head) const {
    const int position = positions[token], sequence = sequence_of[token];
    if (position < 0 || position >= max_pages * PS || position >= rotary_positions) return -1;
    if (sequence < 0 || sequence >= sequences) return -1;
    const int64_t page = table[sequence * max_pages + position / PS];
    if (page < 0 || page >= pages) return -1;
    return (page * shape.heads + head) * PS + position % PS;
  }
};

std::vector<float> normals(size_t count, float middle, float size, std::mt19937& random) {
  std::normal_distribution<float> normal(middle, size);
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

// Token t goes to positions[t] of sequence sequence_of[t]; pages lie in random order.
Problem make_problem(const Shape& shape, const std::vector<int32_t>& positions,
                     const std::vector<int32_t>& sequence_of, unsigned seed) {
  std::mt19937 random(seed);
  Problem p;
  p.shape = shape;
  p.positions = positions;
  p.sequence_of = sequence_of;
  p.sequences = *std::max_element(sequence_of.begin(), sequence_of.end()) + 1;
  p.max_pages = *std::max_element(positions.begin(), positions.end()) / PS + 1;
  p.rotary_positions = p.max_pages * PS;
  p.pages = p.max_pages * p.sequences + 2;
  std::vector<int32_t> order(p.pages);
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), random);
  p.table.assign(order.begin(), order.begin() + p.max_pages * p.sequences);
  const size_t D = shape.head_dim, rows = positions.size() * shape.heads * 3;
  p.qkv = normals(rows * D, 0.2f, 2, random);
  p.q_weight = normals(D, 1, 0.3f, random);
  p.k_weight = normals(D, 1, 0.3f, random);
  p.q_bias = normals(D, 0, 0.5f, random);
  p.k_bias = normals(D, 0, 0.5f, random);
  for (int position = 0; position < p.rotary_positions; ++position) {
    for (int i = 0; i < shape.rotary_dims / 2; ++i) {
      const double angle = position * std::pow(10000.0, -2.0 * i / shape.rotary_dims);
      p.cos.push_back(static_cast<float>(std::cos(angle)));
      p.sin.push_back(static_cast<float>(std::sin(angle)));
    }
  }
  return p;
}

struct Result {
  std::vector<uint8_t> q, k, v;
  std::vector<Half> k_scales, v_scales;
};

Result run(const Problem& problem, KvKind kind, KvKind q_kind) {
  const Shape& shape = problem.shape;
  const size_t cached = static_cast<size_t>(problem.pages) * shape.heads * PS;
  const size_t bytes = cached * shape.head_dim * cuda::kv_element_bytes(kind);
  const size_t queries = problem.qkv.size() / 3 * cuda::kv_element_bytes(q_kind);
  DeviceArray<uint8_t> q(queries), k(bytes), v(bytes);
  DeviceArray<Half> k_scales(cached), v_scales(cached);
  DeviceArray<float> qkv(problem.qkv), cos(problem.cos), sin(problem.sin);
  DeviceArray<float> q_weight(problem.q_weight), q_bias(problem.q_bias);
  DeviceArray<float> k_weight(problem.k_weight), k_bias(problem.k_bias);
  DeviceArray<int32_t> positions(problem.positions), sequence_of(problem.sequence_of);
  DeviceArray<int32_t> table(problem.table);
  cuda::QkvAppendParams p;
  p.tokens = problem.tokens();
  p.heads = shape.heads;
  p.head_dim = shape.head_dim;
  p.rotary_dims = shape.rotary_dims;
  p.rotary_positions = problem.rotary_positions;
  p.sequences = problem.sequences;
  p.max_pages = problem.max_pages;
  p.pages = problem.pages;
  p.eps = kEps;
  p.kind = kind;
  p.q_kind = q_kind;
  p.q = q.data();
  p.k_pages = k.data();
  p.v_pages = v.data();
  if (cuda::kv_has_scales(kind)) {
    p.k_scales = k_scales.data();
    p.v_scales = v_scales.data();
  }
  p.qkv = qkv.data();
  p.positions = positions.data();
  bool each_its_own = true;
  for (int t = 0; t < p.tokens; ++t) each_its_own &= problem.sequence_of[t] == t;
  p.sequence_of = each_its_own ? nullptr : sequence_of.data();
  p.block_table = table.data();
  p.q_weight = shape.q_norm ? q_weight.data() : nullptr;
  p.k_weight = shape.k_norm ? k_weight.data() : nullptr;
  p.q_bias = shape.q_norm && shape.bias ? q_bias.data() : nullptr;
  p.k_bias = shape.k_norm && shape.bias ? k_bias.data() : nullptr;
  p.cos = shape.rotary_dims ? cos.data() : nullptr;
  p.sin = shape.rotary_dims ? sin.data() : nullptr;
  cuda::launch_qkv_append(p, {});
  CHECK(q.guards_intact() && k.guards_intact() && v.guards_intact());
  CHECK(k_scales.guards_intact() && v_scales.guards_intact());
  return {q.download(), k.download(), v.download(), k_scales.download(), v_scales.download()};
}

// --- double precision ---------------------------------------------------------------------------
struct Bounded {
  std::vector<double> x, bound;
};

constexpr double kChain = 2 * 4 + 5;  // a lane's numbers and the tree of shuffles

void normalise(Bounded& row, const std::vector<float>& weight, const std::vector<float>* bias) {
  const double count = static_cast<double>(row.x.size());
  double mean = 0, magnitude = 0, squares = 0;
  for (double x : row.x) {
    mean += x / count;
    magnitude += std::fabs(x);
  }
  for (double x : row.x) squares += (x - mean) * (x - mean);
  const double mean_bound =
      fp32_sum_bound(kChain, magnitude / count) + 2 * kFloatUnit * std::fabs(mean);
  // About a mean that is off by e, the squares grow by D e^2.
  const double squares_bound =
      2 * count * mean_bound * mean_bound + fp32_sum_bound(kChain, squares);
  const double variance = squares / count + kEps;
  const double scale = 1 / std::sqrt(variance);
  const double relative = squares_bound / count / variance / 2 + 6 * kFloatUnit;
  for (size_t i = 0; i < row.x.size(); ++i) {
    const double factor = scale * weight[i], centred = row.x[i] - mean;
    row.x[i] = centred * factor + (bias ? (*bias)[i] : 0);
    row.bound[i] = std::fabs(factor) * mean_bound * (1 + relative) +
                   std::fabs(centred * factor) * relative + 2 * kFloatUnit * std::fabs(row.x[i]);
  }
}

void rotate(Bounded& row, const float* cos, const float* sin, int half) {
  const Bounded before = row;
  for (int i = 0; i < 2 * half; ++i) {
    const int other = i < half ? i + half : i - half, angle = i % half;
    const double turned = before.x[other] * sin[angle] * (i < half ? -1 : 1);
    const double kept = before.x[i] * cos[angle];
    row.x[i] = kept + turned;
    row.bound[i] = std::fabs(cos[angle]) * before.bound[i] +
                   std::fabs(sin[angle]) * before.bound[other] +
                   4 * kFloatUnit * (std::fabs(kept) + std::fabs(turned));
  }
}

// part: 0 q, 1 k, 2 v
Bounded expected_row(const Problem& p, int token, int head, int part) {
  const Shape& s = p.shape;
  const size_t at = (static_cast<size_t>(token * s.heads + head) * 3 + part) * s.head_dim;
  Bounded row;
  row.x.assign(p.qkv.begin() + at, p.qkv.begin() + at + s.head_dim);
  row.bound.assign(s.head_dim, 0);
  if (part == 2) return row;
  if (part == 0 && s.q_norm) normalise(row, p.q_weight, s.bias ? &p.q_bias : nullptr);
  if (part == 1 && s.k_norm) normalise(row, p.k_weight, s.bias ? &p.k_bias : nullptr);
  const size_t angles = static_cast<size_t>(p.positions[token]) * (s.rotary_dims / 2);
  if (s.rotary_dims) rotate(row, p.cos.data() + angles, p.sin.data() + angles, s.rotary_dims / 2);
  return row;
}

void check_row(const Bounded& expected, const uint8_t* bytes, const char* name, int token,
               int head) {
  for (size_t i = 0; i < expected.x.size(); ++i) {
    float got;
    std::memcpy(&got, bytes + i * sizeof got, sizeof got);
    if (!(std::fabs(got - expected.x[i]) <= expected.bound[i])) {
      fail(__FILE__, __LINE__,
           concat(name, " of token ", token, ", head ", head, " at ", i, " is ", got, ", expected ",
                  expected.x[i], " within ", expected.bound[i], " (D=", expected.x.size(), ")"));
    }
  }
}

// f32 pages and queries against double precision; the rows that no token has are untouched.
void check_float32(const Problem& p, const Result& result) {
  const size_t row_bytes = p.row_elements() * sizeof(float);
  std::vector<bool> written(result.k.size() / row_bytes, false);
  for (int t = 0; t < p.tokens(); ++t) {
    for (int h = 0; h < p.shape.heads; ++h) {
      const int64_t at = p.cached(t, h);
      const uint8_t* q = result.q.data() + static_cast<size_t>(t * p.shape.heads + h) * row_bytes;
      if (at < 0) {
        CHECK(std::all_of(q, q + row_bytes, [](uint8_t byte) { return byte == 0xff; }));
        continue;
      }
      written[static_cast<size_t>(at)] = true;
      check_row(expected_row(p, t, h, 0), q, "q", t, h);
      check_row(expected_row(p, t, h, 1), result.k.data() + at * row_bytes, "k", t, h);
      check_row(expected_row(p, t, h, 2), result.v.data() + at * row_bytes, "v", t, h);
    }
  }
  for (size_t row = 0; row < written.size(); ++row) {
    if (written[row]) continue;
    for (const auto* pages : {&result.k, &result.v}) {
      const uint8_t* bytes = pages->data() + row * row_bytes;
      CHECK(std::all_of(bytes, bytes + row_bytes, [](uint8_t byte) { return byte == 0xff; }));
    }
  }
}

// --- the rounding rule, from the fp32 rows -------------------------------------------------------
struct Rounded {
  std::vector<uint8_t> bytes;
  uint16_t scale = 0;
};

void put(std::vector<uint8_t>& bytes, uint32_t code, int count) {
  for (int i = 0; i < count; ++i) bytes.push_back(static_cast<uint8_t>(code >> 8 * i));
}

Rounded round_float_row(const float* x, int count, KvKind kind) {
  Rounded out;
  for (int i = 0; i < count; ++i) {
    if (kind == KvKind::kF16) put(out.bytes, simt::float_to_half(x[i]), 2);
    if (kind == KvKind::kBF16) put(out.bytes, simt::float_to_bfloat16(x[i]), 2);
    if (kind == KvKind::kF32) {
      uint32_t bits;
      std::memcpy(&bits, x + i, sizeof bits);
      put(out.bytes, bits, 4);
    }
  }
  return out;
}

Rounded round_row(const float* x, int count, KvKind kind) {
  if (!cuda::kv_has_scales(kind)) return round_float_row(x, count, kind);
  float most = 0;
  bool finite = true;
  for (int i = 0; i < count; ++i) {
    most = std::max(most, std::fabs(x[i]));
    finite = finite && std::isfinite(x[i]);
  }
  Rounded out;
  out.scale = simt::float_to_half(most / (kind == KvKind::kI8 ? 127.0f : 448.0f));
  if (!finite || out.scale >= 0x7c00) out.scale = 0x7e00;
  const bool none = out.scale == 0 || out.scale == 0x7e00;
  const float inverse = none ? 0.0f : 1.0f / simt::half_to_float(out.scale);
  for (int i = 0; i < count; ++i) {
    const float level = none ? 0.0f : x[i] * inverse;
    if (kind == KvKind::kI8) {
      const float whole = std::min(std::max(std::nearbyint(level), -127.0f), 127.0f);
      put(out.bytes, static_cast<uint32_t>(static_cast<int>(whole)), 1);
    } else {
      put(out.bytes, simt::encode(simt::kE4M3, level), 1);
    }
  }
  return out;
}

void check_rounded(const Result& exact, const Result& got, const Problem& p, KvKind kind) {
  const int D = p.shape.head_dim, row_bytes = D * cuda::kv_element_bytes(kind);
  for (int part = 0; part < 2; ++part) {
    const auto& floats = part ? exact.v : exact.k;
    const auto& bytes = part ? got.v : got.k;
    const auto& scales = part ? got.v_scales : got.k_scales;
    for (size_t row = 0; row < scales.size(); ++row) {
      std::vector<float> x(D);
      std::memcpy(x.data(), floats.data() + row * D * sizeof(float), D * sizeof(float));
      uint32_t first;
      std::memcpy(&first, x.data(), sizeof first);
      Rounded expected = round_row(x.data(), D, kind);
      if (first == 0xffffffffu) {  // nobody's row
        expected.bytes.assign(row_bytes, 0xff);
        expected.scale = 0xffff;
      }
      if (!cuda::kv_has_scales(kind)) expected.scale = 0xffff;
      CHECK(std::memcmp(bytes.data() + row * row_bytes, expected.bytes.data(), row_bytes) == 0);
      CHECK_EQ(scales[row].bits, expected.scale);
    }
  }
}

void check_queries(const Result& exact, const Result& got, const Problem& p, KvKind kind) {
  const int bytes = cuda::kv_element_bytes(kind);
  for (size_t i = 0; i < got.q.size() / bytes; ++i) {
    float x;
    std::memcpy(&x, exact.q.data() + i * sizeof x, sizeof x);
    const int token = static_cast<int>(i / p.row_elements() / p.shape.heads);
    const bool nobodys = p.cached(token, 0) < 0;
    const Rounded expected = round_float_row(&x, 1, kind);
    const std::vector<uint8_t> untouched(bytes, 0xff);
    CHECK(std::memcmp(got.q.data() + i * bytes, nobodys ? untouched.data() : expected.bytes.data(),
                      bytes) == 0);
  }
}

void check_problem(const Problem& p) {
  const Result exact = run(p, KvKind::kF32, KvKind::kF32);
  check_float32(p, exact);
  for (KvKind kind : kKinds) {
    const KvKind q_kind = kind == KvKind::kBF16  ? KvKind::kBF16
                          : kind == KvKind::kF32 ? KvKind::kF32
                                                 : KvKind::kF16;
    const Result rounded = run(p, kind, q_kind);
    check_rounded(exact, rounded, p, kind);
    check_queries(exact, rounded, p, q_kind);
  }
}

TEST(one_token_of_the_model) {
  check_problem(make_problem({32, 80, 32, true, true, true}, {37}, {0}, 1));
}

TEST(positions_around_pages) {
  check_problem(
      make_problem({3, 80, 32, true, true, true}, {0, 15, 16, 31, 32, 47}, {0, 1, 2, 3, 4, 5}, 2));
}

TEST(a_prompt_of_one_sequence_beside_others) {
  std::vector<int32_t> positions, sequences;
  for (int i = 0; i < 19; ++i) {
    positions.push_back(14 + i);
    sequences.push_back(1);
  }
  positions.insert(positions.end(), {3, 40});
  sequences.insert(sequences.end(), {0, 2});
  check_problem(make_problem({2, 80, 32, true, true, true}, positions, sequences, 3));
}

TEST(every_head_dim_and_rotation) {
  for (int D = 8; D <= 256; D += 8) {
    for (int R : {0, D / 16 * 8, D}) {
      check_problem(make_problem({2, D, R, true, true, D % 16 == 0}, {21}, {0}, 4 + D));
    }
  }
}

TEST(norms_are_optional) {
  for (bool q_norm : {false, true}) {
    for (bool k_norm : {false, true}) {
      check_problem(make_problem({3, 80, 32, q_norm, k_norm, false}, {5, 18}, {0, 1}, 6));
    }
  }
}

TEST(hostile_schedules) {
  for_each_schedule([] {
    check_problem(make_problem({3, 80, 32, true, true, true}, {5, 18}, {1, 0}, 7));
    check_problem(make_problem({2, 200, 144, true, true, true}, {9}, {0}, 8));
  });
}

TEST(a_token_without_a_place_writes_nothing) {
  Problem p = make_problem({2, 80, 32, true, true, true}, {5, 18, 20, 3, 40, 12, 2, 1},
                           {0, 1, 2, 3, 4, 5, 6, 7}, 9);
  p.positions[0] = -1;                                      // padding
  p.positions[1] = p.max_pages * PS;                        // beyond the table
  p.sequence_of[2] = p.sequences;                           // no such sequence
  p.sequence_of[3] = -1;                                    // likewise
  p.rotary_positions = 40;                                  // token 4 is beyond cos and sin
  p.table[static_cast<size_t>(5 * p.max_pages)] = p.pages;  // no such page
  p.table[static_cast<size_t>(6 * p.max_pages)] = -1;       // likewise
  p.cos.resize(static_cast<size_t>(40) * 16);
  p.sin.resize(static_cast<size_t>(40) * 16);
  int without = 0;
  for (int t = 0; t < p.tokens(); ++t) without += p.cached(t, 0) < 0;
  CHECK_EQ(without, 7);
  check_problem(p);
}

TEST(rows_that_have_no_scale) {
  Problem p = make_problem({6, 80, 0, false, false, false}, {4}, {0}, 10);
  const auto value = [&p](int head) { return p.qkv.begin() + (head * 3 + 2) * 80; };
  value(0)[7] = std::numeric_limits<float>::quiet_NaN();
  value(1)[8] = std::numeric_limits<float>::infinity();
  value(2)[9] = 3e38f;  // its scale is no half
  std::fill_n(value(3), 80, 0.0f);
  std::fill_n(value(4), 80, 1e-8f);  // the scale rounds to 0
  value(5)[10] = 1e5f;
  const Result exact = run(p, KvKind::kF32, KvKind::kF32);
  for (KvKind kind : {KvKind::kI8, KvKind::kE4M3}) {
    const Result got = run(p, kind, KvKind::kF16);
    check_rounded(exact, got, p, kind);
    for (int head : {0, 1, 2}) CHECK_EQ(got.v_scales[p.cached(0, head)].bits, uint16_t{0x7e00});
    for (int head : {3, 4}) CHECK_EQ(got.v_scales[p.cached(0, head)].bits, uint16_t{0});
    for (int head : {0, 1, 2, 3, 4}) {
      const uint8_t* row = got.v.data() + p.cached(0, head) * 80;
      CHECK(std::all_of(row, row + 80, [](uint8_t byte) { return byte == 0; }));
    }
  }
}

TEST(a_token_does_not_depend_on_the_others) {
  const Problem all =
      make_problem({2, 80, 32, true, true, true}, {5, 18, 20, 3, 40}, {0, 1, 2, 3, 4}, 11);
  const Result together = run(all, KvKind::kI8, KvKind::kF16);
  for (int t = 0; t < all.tokens(); ++t) {
    Problem one = all;
    const size_t row = static_cast<size_t>(3 * 2 * 80), query = row / 3 * sizeof(Half);
    one.qkv.assign(all.qkv.begin() + t * row, all.qkv.begin() + (t + 1) * row);
    one.positions = {all.positions[t]};
    one.sequence_of = {all.sequence_of[t]};
    const Result alone = run(one, KvKind::kI8, KvKind::kF16);
    CHECK(std::memcmp(alone.q.data(), together.q.data() + t * query, query) == 0);
    for (int h = 0; h < 2; ++h) {
      const size_t at = static_cast<size_t>(all.cached(t, h));
      CHECK(std::memcmp(alone.k.data() + at * 80, together.k.data() + at * 80, 80) == 0);
      CHECK_EQ(alone.k_scales[at].bits, together.k_scales[at].bits);
    }
  }
}

TEST(bytes_count_what_must_move) {
  cuda::QkvAppendParams p;
  p.tokens = 2;
  p.heads = 32;
  p.head_dim = 80;
  CHECK_EQ(cuda::qkv_append_bytes(p), int64_t{64 * (80 * (12 + 2) + 2 * 82)});
  p.kind = p.q_kind = KvKind::kF32;
  CHECK_EQ(cuda::qkv_append_bytes(p), int64_t{64 * 80 * (12 + 4 + 8)});
}

TEST(why_not_says_what_is_wrong) {
  alignas(16) float words[8] = {};
  alignas(16) Half halves[8] = {};
  const int32_t zero = 0;
  cuda::QkvAppendParams p;
  const auto why_not = [&p] { return cuda::qkv_append_why_not(p); };
  p.heads = 1;
  CHECK_EQ(why_not(), std::string("T=0, H=1, S=0, max_pages=0, NP=0, expected all >= 1"));
  p.tokens = 2;
  p.sequences = p.max_pages = p.pages = 1;
  p.head_dim = 84;
  CHECK_EQ(why_not(), std::string("D is 84, expected a multiple of 8 in 8..256"));
  p.head_dim = 80;
  p.rotary_dims = 20;
  CHECK_EQ(why_not(), std::string("R is 20, expected a multiple of 8 in 0..D=80"));
  p.rotary_dims = 32;
  CHECK_EQ(why_not(), std::string("cos and sin have 0 positions, expected >= 1"));
  p.rotary_positions = 16;
  CHECK_EQ(why_not(), std::string("T=2 tokens of S=1 sequences need sequence_of"));
  p.tokens = 1;
  p.heads = INT32_MAX;
  CHECK_EQ(why_not(), std::string("T=1 times H=2147483647 is more than (2^31-1)/3"));
  p.heads = 1;
  p.q_kind = KvKind::kI8;
  CHECK_EQ(why_not(), std::string("q is f32, f16 or bf16"));
  p.q_kind = KvKind::kF16;
  CHECK_EQ(why_not(), std::string("q, k_pages, v_pages, qkv, positions or block_table is null"));
  p.q = p.k_pages = p.v_pages = halves;
  p.qkv = words;
  p.positions = p.block_table = &zero;
  CHECK_EQ(why_not(), std::string("8-bit pages need k_scales and v_scales, other pages have none"));
  p.k_scales = halves;
  p.kind = KvKind::kF16;
  CHECK_EQ(why_not(), std::string("8-bit pages need k_scales and v_scales, other pages have none"));
  p.v_scales = halves;
  p.kind = KvKind::kE4M3;
  CHECK_EQ(why_not(), std::string("R above 0 needs cos and sin"));
  p.cos = p.sin = words;
  p.k_bias = words;
  CHECK_EQ(why_not(), std::string("a bias needs its weight"));
  p.k_weight = words;
  p.eps = -1;
  CHECK_EQ(why_not(), std::string("eps is -1, expected >= 0"));
  p.eps = 0;
  CHECK_EQ(why_not(), std::string());
  p.v_pages = halves + 1;
  CHECK_EQ(why_not(), std::string("q, k_pages or v_pages is not 16-byte aligned"));
  p.v_pages = halves;
  p.sin = words + 1;
  CHECK_EQ(why_not(), std::string("qkv, a weight, a bias, cos or sin is not 16-byte aligned"));
  CHECK_THROWS(InvalidArgument, cuda::launch_qkv_append(p, {}), "qkv_append: qkv, a weight");
}

}  // namespace
}  // namespace tgv::test

TEST_MAIN()
