// kernels/cpu/qkv_append and paged_attention over the pages of a real cache, on every instruction
// set here: against kv/rows, double precision and themselves in other pieces. Sanitizers run it.
#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include "base/huge_buffer.h"
#include "kernels/cpu/paged_attention.h"
#include "kernels/cpu/qkv_append.h"
#include "kv/storage.h"
#include "tests/check.h"
#include "tests/tolerance.h"

namespace tgv::test {
namespace {

using kv::Kind;
using kv::kPageTokens;

constexpr Kind kKinds[] = {Kind::kF32, Kind::kF16, Kind::kBF16, Kind::kI8};

std::vector<float> random_floats(int64_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> out(static_cast<size_t>(count));
  for (float& x : out) x = normal(random);
  return out;
}

// A cache of two layers of which the second is used, and a sequence on some of its pages,
// backwards.
struct Cache {
  kv::Storage storage;
  std::vector<int32_t> table;

  Cache(Kind kind, int64_t heads, int64_t head_dim, int64_t positions)
      : storage({positions / kPageTokens + 3, 2, heads, head_dim, kind}) {
    for (int64_t i = positions / kPageTokens; i >= 0; --i) {
      table.push_back(static_cast<int32_t>(i + 1));
    }
    poison();
  }

  // All bytes of all pages are such that whoever reads one as a number or a scale gets NaN.
  void poison() {
    const kv::Shape& shape = storage.shape();
    std::memset(storage.layer(0).k, 0xff, static_cast<size_t>(shape.total_bytes()));
  }

  void write(int64_t position, const float* k, const float* v) {
    storage.write(1, table[static_cast<size_t>(position / kPageTokens)], position % kPageTokens, k,
                  v);
  }
};

struct Attention {
  int64_t heads, head_dim, positions;
  std::vector<float> q, k, v;  // [positions, H, D]; K and V as the cache holds them
  Cache cache;

  Attention(Kind kind, int64_t heads_, int64_t head_dim_, int64_t positions_)
      : heads(heads_),
        head_dim(head_dim_),
        positions(positions_),
        q(random_floats(positions * heads * head_dim, 1)),
        k(random_floats(positions * heads * head_dim, 2)),
        v(random_floats(positions * heads * head_dim, 3)),
        cache(kind, heads, head_dim, positions) {
    for (int64_t i = 0; i < positions; ++i) {
      cache.write(i, row(k, i), row(v, i));
      cache.storage.read(row(k, i), row(v, i), 1, cache.table[static_cast<size_t>(i / kPageTokens)],
                         i % kPageTokens);
    }
  }

  float* row(std::vector<float>& of, int64_t position, int64_t head = 0) const {
    return of.data() + (position * heads + head) * head_dim;
  }

  cpu::PagedAttentionParams params(int64_t first, int64_t tokens, float* y) {
    cpu::PagedAttentionParams p;
    p.heads = heads;
    p.head_dim = head_dim;
    p.tokens = tokens;
    p.first_position = first;
    p.scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
    p.y = y;
    p.q = row(q, first);
    p.pages = cache.storage.layer(1);
    p.block_table = cache.table.data();
    return p;
  }

  std::vector<float> run(int64_t first, int64_t tokens, ThreadPool& pool, Isa isa) {
    std::vector<float> y(static_cast<size_t>(tokens * heads * head_dim), std::nanf(""));
    const size_t bytes = cpu::paged_attention_scratch_bytes(head_dim);
    const HugeBuffer scratch(bytes * static_cast<size_t>(pool.threads()));
    std::memset(scratch.data(), 0xff, scratch.bytes());
    cpu::paged_attention(params(first, tokens, y.data()), pool, scratch.data(), isa);
    return y;
  }

  // Of the largest of a row of V: what its levels are multiplied by, to within half a level.
  double value_scale(int64_t position, int64_t head) {
    double largest = 0;
    for (int64_t d = 0; d < head_dim; ++d) {
      largest = std::fmax(largest, std::fabs(row(v, position, head)[d]));
    }
    return largest / 127;
  }

  void check_row(const float* y, int64_t position, int64_t head) {
    const float* query = row(q, position, head);
    const double scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
    const bool rounded = cache.storage.shape().kind == Kind::kI8;  // q and weights, to int16
    double largest_q = 0;
    for (int64_t d = 0; d < head_dim; ++d) largest_q = std::fmax(largest_q, std::fabs(query[d]));
    std::vector<double> x, error;
    double most = -1e300;
    for (int64_t i = 0; i <= position; ++i) {
      double dot = 0, magnitude = 0, of_k = 0;
      for (int64_t d = 0; d < head_dim; ++d) {
        const double part = static_cast<double>(query[d]) * row(k, i, head)[d];
        dot += part;
        magnitude += std::fabs(part);
        of_k += std::fabs(row(k, i, head)[d]);
      }
      x.push_back(dot * scale);
      // The sum of the dot product, and three roundings of x and one of x - m (both in base 2).
      error.push_back(scale * fp32_sum_bound(static_cast<double>(head_dim), magnitude) +
                      8 * kFloatUnit * std::fabs(dot * scale) +
                      (rounded ? std::ldexp(scale * largest_q * of_k, -15) : 0.0));
      most = std::max(most, x.back());
    }
    double total = 0;
    for (double& each : x) total += each = std::exp(each - most);
    double shift = 0;  // how far the errors of all x move the divisor
    for (size_t i = 0; i < x.size(); ++i) shift += error[i] * x[i] / total;
    for (int64_t d = 0; d < head_dim; ++d) {
      double sum = 0, magnitude = 0, moved = 0, largest = 0, levels = 0;
      for (size_t i = 0; i < x.size(); ++i) {
        const double part = x[i] / total * row(v, static_cast<int64_t>(i), head)[d];
        sum += part;
        magnitude += std::fabs(part);
        moved += error[i] * std::fabs(part);
        // A weight counts in steps of the largest weight times scale; a level is V over its scale.
        const double v_scale = value_scale(static_cast<int64_t>(i), head);
        largest = std::fmax(largest, x[i] / total * v_scale);
        levels += v_scale > 0 ? std::fabs(row(v, static_cast<int64_t>(i), head)[d]) / v_scale : 0.0;
      }
      // Both sums over the context, and eight roundings more: of p, its scale, joins, the division.
      const double bound = moved + shift * magnitude +
                           2 * fp32_sum_bound(static_cast<double>(x.size()) + 8, magnitude) +
                           1e-37 + (rounded ? std::ldexp(largest * levels, -15) : 0.0);
      if (!(std::fabs(y[d] - sum) <= bound)) {
        fail(__FILE__, __LINE__,
             concat("y[", position, ",", head, ",", d, "] is ", y[d], ", expected ", sum,
                    " within ", bound));
      }
    }
  }
};

TEST(attention_of_every_kind_and_width_on_every_isa) {
  ThreadPool pool(2);
  for (const Kind kind : kKinds) {
    for (const int64_t head_dim : {4, 16, 20, 80, 84, 256}) {
      const int64_t positions = 300;
      Attention a(kind, 2, head_dim, positions);
      std::vector<float> first;
      for (const Isa isa : available_isas()) {
        const auto y = a.run(0, positions, pool, isa);
        if (first.empty()) {
          first = y;
          for (const int64_t i : {0, 1, 15, 16, 17, 40, 255, 256, 299}) {
            for (int64_t h = 0; h < 2; ++h) {
              a.check_row(y.data() + (i * 2 + h) * head_dim, i, h);
            }
          }
        }
        CHECK(std::memcmp(y.data(), first.data(), y.size() * sizeof(float)) == 0);
        for (const int64_t i : {0, 15, 16, 30, 255, 256, 257, 299}) {  // decode: the same bits
          const auto one = a.run(i, 1, pool, isa);
          CHECK(std::memcmp(one.data(), a.row(first, i), one.size() * sizeof(float)) == 0);
        }
      }
    }
  }
}

TEST(attention_does_not_depend_on_chunks) {
  ThreadPool pool(3);
  Attention a(Kind::kI8, 5, 80, 600);
  const auto whole = a.run(0, 600, pool, best_isa());
  for (const int64_t chunk : {1, 2, 3, 7, 8, 9, 23, 24, 25, 64, 256, 257}) {
    for (int64_t first = 0; first < 600; first += chunk) {
      const int64_t tokens = std::min(chunk, 600 - first);
      if (chunk < 7 && first % 16 > 2) continue;  // enough of these
      const auto y = a.run(first, tokens, pool, best_isa());
      CHECK(std::memcmp(y.data(), whole.data() + first * 5 * 80, y.size() * sizeof(float)) == 0);
    }
  }
}

TEST(any_piece_gives_its_part) {
  Attention a(Kind::kF16, 7, 20, 100);
  ThreadPool pool(1);
  const auto whole = a.run(0, 100, pool, best_isa());
  const HugeBuffer scratch(cpu::paged_attention_scratch_bytes(20));
  std::vector<float> y(whole.size(), -1.0f);
  cpu::paged_attention(a.params(0, 100, y.data()), 2, 5, 30, 77, scratch.data(), best_isa());
  for (int64_t i = 0; i < 100 * 7 * 20; ++i) {
    const int64_t token = i / 140, head = i / 20 % 7;
    const bool inside = head >= 2 && head < 5 && token >= 30 && token < 77;
    CHECK_EQ(y[static_cast<size_t>(i)], inside ? whole[static_cast<size_t>(i)] : -1.0f);
  }
}

// --- qkv_append ----------------------------------------------------------------------------------
struct Append {
  int64_t heads, head_dim, rotary, tokens;
  std::vector<float> qkv, q, weights, cos, sin;

  Append(int64_t heads_, int64_t head_dim_, int64_t rotary_, int64_t tokens_)
      : heads(heads_),
        head_dim(head_dim_),
        rotary(rotary_),
        tokens(tokens_),
        qkv(random_floats(tokens * heads * 3 * head_dim, 4)),
        q(static_cast<size_t>(tokens * heads * head_dim), std::nanf("")),
        weights(random_floats(4 * head_dim, 5)),
        cos(random_floats(64 * rotary / 2, 6)),
        sin(random_floats(64 * rotary / 2, 7)) {}

  cpu::QkvAppendParams params(const Cache& cache, int64_t first, bool norm) {
    cpu::QkvAppendParams p;
    p.heads = heads;
    p.head_dim = head_dim;
    p.rotary_dims = rotary;
    p.tokens = tokens;
    p.first_position = first;
    p.qkv = qkv.data();
    p.q = q.data();
    p.pages = cache.storage.layer(1);
    p.block_table = cache.table.data();
    p.eps = 1e-5f;
    p.cos = cos.data();
    p.sin = sin.data();
    if (norm) {
      p.q_weight = weights.data();
      p.q_bias = p.q_weight + head_dim;
      p.k_weight = p.q_bias + head_dim;
      p.k_bias = p.k_weight + head_dim;
    }
    return p;
  }

  float* part(int64_t token, int64_t head, int which) {
    return qkv.data() + ((token * heads + head) * 3 + which) * head_dim;
  }
};

// Without norm and rotation the bytes are those of kv/rows.
TEST(appended_rows_are_those_of_the_cache) {
  for (const Kind kind : kKinds) {
    for (const int64_t head_dim : {4, 20, 80, 84, 256}) {
      for (const Isa isa : available_isas()) {
        Append a(3, head_dim, 0, 21);
        for (int64_t d = 0; d < head_dim; ++d) {
          a.part(0, 0, 1)[d] = 0;
          a.part(1, 1, 2)[d] *= 1e-6f;  // half denormals; int8: below the least scale or near it
          a.part(2, 1, 2)[d] *= 3e-5f;
          a.part(3, 2, 1)[d] *= 1e4f;
        }
        Cache mine(kind, 3, head_dim, 40), twin(kind, 3, head_dim, 40);
        cpu::qkv_append(a.params(mine, 13, false), 0, 3, isa);
        std::vector<float> k, v;
        for (int64_t t = 0; t < 21; ++t) {
          k.clear(), v.clear();
          for (int64_t h = 0; h < 3; ++h) {
            k.insert(k.end(), a.part(t, h, 1), a.part(t, h, 1) + head_dim);
            v.insert(v.end(), a.part(t, h, 2), a.part(t, h, 2) + head_dim);
            CHECK(std::memcmp(a.q.data() + (t * 3 + h) * head_dim, a.part(t, h, 0),
                              static_cast<size_t>(head_dim) * 4) == 0);
          }
          twin.write(13 + t, k.data(), v.data());
        }
        CHECK(std::memcmp(mine.storage.layer(0).k, twin.storage.layer(0).k,
                          static_cast<size_t>(mine.storage.shape().total_bytes())) == 0);
      }
    }
  }
}

TEST(norm_and_rotation_against_double) {
  for (const int64_t head_dim : {4, 20, 80, 256}) {
    for (const int64_t rotary : {int64_t{2}, head_dim / 4 * 2, head_dim}) {
      std::vector<float> first;
      for (const Isa isa : available_isas()) {
        Append a(2, head_dim, rotary, 5);
        Cache cache(Kind::kF32, 2, head_dim, 40);
        cpu::qkv_append(a.params(cache, 14, true), 0, 2, isa);
        if (first.empty()) first = a.q;
        CHECK(a.q == first);
        for (int64_t t = 0; t < 5; ++t) {
          for (int64_t h = 0; h < 2; ++h) {
            const float* x = a.part(t, h, 0);
            double mean = 0, var = 0, largest = 0;
            for (int64_t d = 0; d < head_dim; ++d) mean += x[d];
            mean /= static_cast<double>(head_dim);
            for (int64_t d = 0; d < head_dim; ++d) var += (x[d] - mean) * (x[d] - mean);
            const double inverse = 1 / std::sqrt(var / static_cast<double>(head_dim) + 1e-5f);
            std::vector<double> y;
            for (int64_t d = 0; d < head_dim; ++d) {
              const double weight = a.weights[static_cast<size_t>(d)];
              const double bias = a.weights[static_cast<size_t>(head_dim + d)];
              y.push_back((x[d] - mean) * inverse * weight + bias);
              // What roundings of the mean (at most that of D magnitudes below 6), of the product
              // and of the sum are relative to.
              largest = std::max(
                  largest, (std::fabs(x[d]) + 6) * inverse * std::fabs(weight) + std::fabs(bias));
            }
            for (int64_t i = 0; i < rotary / 2; ++i) {
              const size_t at = static_cast<size_t>((14 + t) * (rotary / 2) + i);
              const size_t low = static_cast<size_t>(i), high = static_cast<size_t>(rotary / 2 + i);
              const double c = a.cos[at], s = a.sin[at], u = y[low], w = y[high];
              y[low] = u * c - w * s;
              y[high] = w * c + u * s;
            }
            // A sum of D over 16 lanes and the tree, twice; ten more roundings; a turn with |cos|,
            // |sin| below 5.
            const double steps = 2 * (static_cast<double>(head_dim) / 16 + 4) + 10;
            const double bound = 10 * steps * 2 * kFloatUnit * largest;
            for (int64_t d = 0; d < head_dim; ++d) {
              const double got = a.q[static_cast<size_t>((t * 2 + h) * head_dim + d)];
              CHECK(std::fabs(got - y[static_cast<size_t>(d)]) <= bound);
            }
          }
        }
      }
    }
  }
}

TEST(numbers_that_a_row_cannot_hold_reach_its_reader_as_nan) {
  constexpr float kBad[] = {std::numeric_limits<float>::quiet_NaN(),
                            -std::numeric_limits<float>::infinity(), 3e38f};
  for (const Isa isa : available_isas()) {
    for (const float bad : kBad) {
      Append a(2, 20, 0, 3);
      a.part(1, 1, 1)[17] = bad;
      a.part(2, 0, 2)[3] = bad;
      Cache cache(Kind::kI8, 2, 20, 16);
      cpu::qkv_append(a.params(cache, 0, false), 0, 2, isa);
      std::vector<float> k(40), v(40);
      for (int64_t t = 0; t < 3; ++t) {
        cache.storage.read(k.data(), v.data(), 1, cache.table[0], t);
        for (int64_t i = 0; i < 40; ++i) {
          CHECK_EQ(std::isnan(k[static_cast<size_t>(i)]), t == 1 && i >= 20);
          CHECK_EQ(std::isnan(v[static_cast<size_t>(i)]), t == 2 && i < 20);
        }
      }
    }
  }
}

TEST(what_cannot_run_says_why) {
  ThreadPool pool(1);
  cpu::PagedAttentionParams p;
  CHECK_THROWS(InvalidArgument, cpu::paged_attention(p, pool, nullptr, Isa::kPortable), "H is 1");
  p.heads = 2;
  p.head_dim = 6;
  CHECK_THROWS(InvalidArgument, cpu::paged_attention(p, pool, nullptr, Isa::kPortable), "D is a");
  p.head_dim = 8;
  cpu::paged_attention(p, pool, nullptr, Isa::kPortable);  // no tokens, nothing to do
  p.tokens = 1;
  CHECK_THROWS(InvalidArgument, cpu::paged_attention(p, pool, nullptr, Isa::kPortable), "null");
  cpu::QkvAppendParams a;
  CHECK_THROWS(InvalidArgument, cpu::qkv_append(a, pool, Isa::kPortable), "H is 1");
  a.heads = 2;
  a.head_dim = 8;
  a.rotary_dims = 3;
  CHECK_THROWS(InvalidArgument, cpu::qkv_append(a, pool, Isa::kPortable), "R is even");
  a.rotary_dims = 2;
  cpu::qkv_append(a, pool, Isa::kPortable);
  a.tokens = 1;
  CHECK_THROWS(InvalidArgument, cpu::qkv_append(a, pool, Isa::kPortable), "may be null");
}

}  // namespace
}  // namespace tgv::test

TEST_MAIN()
