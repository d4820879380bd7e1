// kernels/cpu/linear.h and matmul.h against double precision on every instruction set here: what
// sanitizers run, so that each read and write stays inside its array.
#include <cmath>
#include <random>

#include "base/huge_buffer.h"
#include "kernels/cpu/matmul.h"
#include "tests/check.h"
#include "tests/half.h"

namespace tgv::test {
namespace {

struct Data {
  cpu::LinearShape shape;
  std::vector<uint8_t> qweight, zeros;
  std::vector<uint16_t> scales;
  std::vector<float> x, bias;

  double weight(int64_t n, int64_t k) const {
    const uint8_t both = qweight[static_cast<size_t>(n * ((shape.columns + 1) / 2) + k / 2)];
    const int64_t g = k / shape.group_size, groups = shape.groups();
    int zero = 8;
    if (!shape.symmetric) {
      const uint8_t pair = zeros[static_cast<size_t>(n * ((groups + 1) / 2) + g / 2)];
      zero = g % 2 ? pair >> 4 : pair & 15;
    }
    const int level = k % 2 ? both >> 4 : both & 15;
    return (level - zero) * from_half({scales[static_cast<size_t>(n * groups + g)]});
  }
};

Data make_data(const cpu::LinearShape& shape, int64_t tokens) {
  std::mt19937 random(7);
  Data d{shape, {}, {}, {}, {}, {}};
  const int64_t N = shape.rows, K = shape.columns;
  for (int64_t i = 0; i < N * ((K + 1) / 2); ++i) d.qweight.push_back(random() & 255);
  for (int64_t i = 0; i < N * ((shape.groups() + 1) / 2); ++i) d.zeros.push_back(random() & 255);
  for (int64_t i = 0; i < N * shape.groups(); ++i) {
    d.scales.push_back(to_half(0.01f * (1 + random() % 7)).bits);
  }
  // Multiples of the block's step, with 127 steps in every block: rounding changes nothing.
  for (int64_t m = 0; m < tokens; ++m) {
    for (int64_t k = 0; k < K; ++k) {
      const int level = k % 32 == 0 ? 127 : static_cast<int>(random() % 255) - 127;
      d.x.push_back(0.0625f * level);
    }
  }
  for (int64_t n = 0; n < N; ++n) d.bias.push_back(static_cast<float>(random() % 100));
  return d;
}

void check_product(const cpu::LinearShape& shape, int64_t tokens, Isa isa, ThreadPool& pool) {
  const Data d = make_data(shape, tokens);
  const HugeBuffer packed(static_cast<size_t>(shape.packed_bytes()));
  cpu::int4_pack(shape, packed.data(),
                 {d.qweight.data(), d.scales.data(), shape.symmetric ? nullptr : d.zeros.data()},
                 pool);
  const HugeBuffer scratch(cpu::matmul_scratch_bytes(shape, tokens));
  std::vector<float> y(static_cast<size_t>(tokens * shape.rows), std::nanf(""));
  cpu::MatmulParams p;
  p.linear.shape = shape;
  p.tokens = tokens;
  p.y = y.data();
  p.x = d.x.data();
  p.linear.packed = packed.data();
  p.linear.bias = d.bias.data();
  p.scratch = scratch.data();
  cpu::matmul(p, pool, isa);
  for (int64_t m = 0; m < tokens; ++m) {
    for (int64_t n = 0; n < shape.rows; ++n) {
      double sum = d.bias[static_cast<size_t>(n)], magnitude = sum;
      for (int64_t k = 0; k < shape.columns; ++k) {
        const double part = d.weight(n, k) * d.x[static_cast<size_t>(m * shape.columns + k)];
        sum += part;
        magnitude += std::fabs(part);
      }
      // One scale product and one addition per 32 k, and the bias: each half a unit, 2^-24.
      const double bound = (shape.tiles() + 2) * std::ldexp(magnitude, -24);
      const double got = y[static_cast<size_t>(m * shape.rows + n)];
      if (!(std::fabs(got - sum) <= bound)) {
        fail(__FILE__, __LINE__,
             concat(isa_name(isa), " y[", m, ",", n, "] is ", got, ", expected ", sum, " within ",
                    bound));
      }
    }
  }
}

TEST(products_of_all_shapes_on_every_isa) {
  ThreadPool pool(2);
  for (const Isa isa : available_isas()) {
    for (const bool symmetric : {true, false}) {
      for (const int64_t tokens : {1, 4, 5, 9, 65}) {
        check_product({cpu::WeightKind::kInt4, 1, 1, 32, symmetric}, tokens, isa, pool);
        check_product({cpu::WeightKind::kInt4, 16, 32, 32, symmetric}, tokens, isa, pool);
        check_product({cpu::WeightKind::kInt4, 17, 33, 32, symmetric}, tokens, isa, pool);
        check_product({cpu::WeightKind::kInt4, 49, 161, 64, symmetric}, tokens, isa, pool);
        check_product({cpu::WeightKind::kInt4, 33, 300, 128, symmetric}, tokens, isa, pool);
      }
    }
  }
}

TEST(several_passes_on_several_threads) {
  ThreadPool pool(3);
  for (const Isa isa : available_isas())
    check_product({cpu::WeightKind::kInt4, 100, 96, 32, true}, 300, isa, pool);
}

TEST(what_cannot_run_says_why) {
  ThreadPool pool(1);
  cpu::MatmulParams p;
  CHECK_THROWS(InvalidArgument, cpu::matmul(p, pool, Isa::kPortable), "N and K are");
  p.linear.shape = {cpu::WeightKind::kInt4, 16, 32, 48, true};
  CHECK_THROWS(InvalidArgument, cpu::matmul(p, pool, Isa::kPortable), "groups are of");
  p.linear.shape.group_size = 32;
  cpu::matmul(p, pool, Isa::kPortable);  // no tokens, nothing to do
  p.tokens = 1;
  CHECK_THROWS(InvalidArgument, cpu::matmul(p, pool, Isa::kPortable), "only bias may be null");
  p.tokens = -1;
  CHECK_THROWS(InvalidArgument, cpu::matmul(p, pool, Isa::kPortable), "M is 0..2^31");
  CHECK_THROWS(InvalidArgument, cpu::int4_pack({cpu::WeightKind::kInt4, 16, 32}, nullptr, {}, pool),
               "null pointer");
}

TEST(instruction_sets_imply_what_they_stand_on) {
  CHECK(has_isa(Isa::kPortable));
  CHECK(!has_isa(Isa::kAvx512Vnni) || has_isa(Isa::kAvx512));
  CHECK(!has_isa(Isa::kAvx512) || has_isa(Isa::kAvx2));
  CHECK(!has_isa(Isa::kAvxVnni) || has_isa(Isa::kAvx2));
  CHECK(choose_isa("") == best_isa());
  CHECK(choose_isa("portable") == Isa::kPortable);
  CHECK_THROWS(InvalidArgument, choose_isa("sse9"), "portable, avx2, avxvnni, avx512, avx512vnni");
}

}  // namespace
}  // namespace tgv::test

TEST_MAIN()
