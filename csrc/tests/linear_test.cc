// kernels/cpu/linear.h and matmul.h against double precision, for every kind of weights on every
// instruction set here: what sanitizers run, so that each read and write stays inside its array.
#include "kernels/cpu/linear.h"

#include <cmath>
#include <cstring>
#include <random>

#include "base/float16.h"
#include "base/huge_buffer.h"
#include "kernels/cpu/linear_probe.h"
#include "kernels/cpu/matmul.h"
#include "tests/check.h"

namespace tgv::test {
namespace {

using cpu::LinearShape;
using cpu::WeightKind;

struct Data {
  LinearShape shape;
  std::vector<uint8_t> qweight, zeros;  // int4
  std::vector<uint16_t> scales;         // int4
  std::vector<int8_t> bytes;            // int8
  std::vector<float> row_scales;        // int8
  std::vector<float> weights;           // bf16, f32
  std::vector<float> x, bias;

  double weight(int64_t n, int64_t k) const {
    const size_t at = static_cast<size_t>(n * shape.columns + k);
    switch (shape.kind) {
      case WeightKind::kInt8:
        return bytes[at] * static_cast<double>(row_scales[static_cast<size_t>(n)]);
      case WeightKind::kBF16:
        return bfloat16_to_float(float_to_bfloat16(weights[at]));
      case WeightKind::kF32:
        return weights[at];
      case WeightKind::kInt4:
        break;
    }
    const uint8_t both = qweight[static_cast<size_t>(n * ((shape.columns + 1) / 2) + k / 2)];
    const int64_t g = k / shape.group_size, groups = shape.groups();
    int zero = 8;
    if (!shape.symmetric) {
      const uint8_t pair = zeros[static_cast<size_t>(n * ((groups + 1) / 2) + g / 2)];
      zero = g % 2 ? pair >> 4 : pair & 15;
    }
    const int level = k % 2 ? both >> 4 : both & 15;
    return (level - zero) * half_to_float(scales[static_cast<size_t>(n * groups + g)]);
  }
};

Data make_data(const LinearShape& shape, int64_t tokens) {
  std::mt19937 random(7);
  Data d;
  d.shape = shape;
  const int64_t N = shape.rows, K = shape.columns;
  for (int64_t i = 0; i < N * ((K + 1) / 2); ++i) d.qweight.push_back(random() & 255);
  for (int64_t i = 0; i < N * ((shape.groups() + 1) / 2); ++i) d.zeros.push_back(random() & 255);
  for (int64_t i = 0; i < N * shape.groups(); ++i) {
    d.scales.push_back(float_to_half(0.01f * static_cast<float>(1 + random() % 7)));
  }
  for (int64_t i = 0; i < N * K; ++i) {
    d.bytes.push_back(static_cast<int8_t>(random() & 255));
    d.weights.push_back(static_cast<float>(random() % 2001) * 0.001f - 1);
  }
  for (int64_t i = 0; i < N; ++i)
    d.row_scales.push_back(0.001f * static_cast<float>(random() % 99));
  // Multiples of the group's step, with 127 steps in every group: rounding changes nothing.
  for (int64_t m = 0; m < tokens; ++m) {
    for (int64_t k = 0; k < K; ++k) {
      const int level = k % 32 == 0 ? 127 : static_cast<int>(random() % 255) - 127;
      d.x.push_back(0.0625f * static_cast<float>(level));
    }
  }
  for (int64_t n = 0; n < N; ++n) d.bias.push_back(static_cast<float>(random() % 100));
  return d;
}

void pack(const Data& d, uint8_t* packed, ThreadPool& pool) {
  switch (d.shape.kind) {
    case WeightKind::kInt4:
      cpu::int4_pack(
          d.shape, packed,
          {d.qweight.data(), d.scales.data(), d.shape.symmetric ? nullptr : d.zeros.data()}, pool);
      return;
    case WeightKind::kInt8:
      cpu::int8_pack(d.shape, packed, d.bytes.data(), d.row_scales.data(), pool);
      return;
    case WeightKind::kBF16:
    case WeightKind::kF32:
      cpu::float_pack(d.shape, packed, d.weights.data(), pool);
      return;
  }
}

void check_product(const LinearShape& shape, int64_t tokens, Isa isa, ThreadPool& pool) {
  const Data d = make_data(shape, tokens);
  const HugeBuffer packed(static_cast<size_t>(shape.packed_bytes()));
  pack(d, packed.data(), pool);
  const HugeBuffer scratch(cpu::matmul_scratch_bytes(shape, tokens));
  std::vector<float> y(static_cast<size_t>(tokens * shape.rows), std::nanf(""));
  cpu::MatmulParams p;
  p.linear = {shape, packed.data(), d.bias.data(), cpu::Activation::kNone};
  p.tokens = tokens;
  p.y = y.data();
  p.x = d.x.data();
  p.scratch = scratch.data();
  cpu::matmul(p, pool, isa);
  // One rounded operation or two per step of the chain and a few at its end, half a unit each.
  const double steps =
      static_cast<double>(cpu::reads_rounded(shape.kind) ? shape.tiles() : shape.columns);
  for (int64_t m = 0; m < tokens; ++m) {
    for (int64_t n = 0; n < shape.rows; ++n) {
      double sum = d.bias[static_cast<size_t>(n)], magnitude = sum;
      for (int64_t k = 0; k < shape.columns; ++k) {
        const double part = d.weight(n, k) * d.x[static_cast<size_t>(m * shape.columns + k)];
        sum += part;
        magnitude += std::fabs(part);
      }
      const double bound = (steps + 3) * std::ldexp(magnitude, -24);
      const double got = y[static_cast<size_t>(m * shape.rows + n)];
      if (!(std::fabs(got - sum) <= bound)) {
        fail(__FILE__, __LINE__,
             concat(isa_name(isa), " ", cpu::weight_kind_name(shape.kind), " y[", m, ",", n,
                    "] is ", got, ", expected ", sum, " within ", bound));
      }
    }
  }
}

TEST(products_of_all_shapes_on_every_isa) {
  ThreadPool pool(2);
  for (const Isa isa : available_isas()) {
    for (const bool symmetric : {true, false}) {
      for (const int64_t tokens : {1, 4, 5, 9, 65}) {
        check_product({WeightKind::kInt4, 1, 1, 32, symmetric}, tokens, isa, pool);
        check_product({WeightKind::kInt4, 16, 32, 32, symmetric}, tokens, isa, pool);
        check_product({WeightKind::kInt4, 17, 33, 32, symmetric}, tokens, isa, pool);
        check_product({WeightKind::kInt4, 49, 161, 64, symmetric}, tokens, isa, pool);
        check_product({WeightKind::kInt4, 33, 300, 128, symmetric}, tokens, isa, pool);
      }
    }
    for (const WeightKind kind : {WeightKind::kInt8, WeightKind::kBF16, WeightKind::kF32}) {
      for (const int64_t tokens : {1, 4, 5, 9, 65}) {
        check_product({kind, 1, 1}, tokens, isa, pool);
        check_product({kind, 17, 33}, tokens, isa, pool);
        check_product({kind, 49, 300}, tokens, isa, pool);
      }
    }
  }
}

TEST(several_passes_on_several_threads) {
  ThreadPool pool(3);
  for (const Isa isa : available_isas()) {
    check_product({WeightKind::kInt4, 100, 96}, 300, isa, pool);
    check_product({WeightKind::kF32, 100, 96}, 300, isa, pool);
  }
}

TEST(two_outputs_claimed_as_one_run) {
  const LinearShape shapes[] = {{WeightKind::kInt4, 50, 64}, {WeightKind::kInt8, 20, 64}};
  const Data data[] = {make_data(shapes[0], 3), make_data(shapes[1], 3)};
  ThreadPool pool(2);
  const HugeBuffer first(static_cast<size_t>(shapes[0].packed_bytes()));
  const HugeBuffer second(static_cast<size_t>(shapes[1].packed_bytes()));
  pack(data[0], first.data(), pool);
  pack(data[1], second.data(), pool);
  const HugeBuffer rounded(cpu::linear_rounded_bytes(64, 3));
  const cpu::LinearInput in{data[0].x.data(), 3, 64, rounded.data()};
  const Isa isa = best_isa();
  cpu::linear_round(in, 0, cpu::linear_round_pieces(in), isa);
  std::vector<float> y[2] = {std::vector<float>(150), std::vector<float>(60)};
  std::vector<float> alone[2] = {y[0], y[1]};
  const cpu::LinearTask tasks[] = {{{shapes[0], first.data(), nullptr, {}}, in, y[0].data()},
                                   {{shapes[1], second.data(), nullptr, {}}, in, y[1].data()}};
  CHECK(cpu::linear_row_blocks(tasks) == 4 + 2);
  for (int64_t cut = 0; cut <= 6; ++cut) {
    for (std::vector<float>& values : y) values.assign(values.size(), std::nanf(""));
    cpu::linear_rows(tasks, cut, 6, isa);
    cpu::linear_rows(tasks, 0, cut, isa);
    for (int i = 0; i < 2; ++i) {
      cpu::linear_rows(tasks[i].linear, in, {alone[i].data()}, 0, shapes[i].row_blocks(), isa);
      CHECK(std::memcmp(alone[i].data(), y[i].data(), y[i].size() * sizeof(float)) == 0);
    }
  }
}

// The output rounded as the next product reads it is, byte for byte, what linear_round makes of y.
TEST(rounded_output_is_the_rounding_of_y) {
  ThreadPool pool(2);
  for (const Isa isa : available_isas()) {
    for (const LinearShape& shape : {LinearShape{WeightKind::kInt4, 96, 64},
                                     LinearShape{WeightKind::kInt4, 50, 100, 64, false},
                                     LinearShape{WeightKind::kInt8, 33, 70}}) {
      for (const int64_t tokens : {1, 4, 5, 48, 61}) {
        Data data = make_data(shape, tokens);
        if (tokens > 4) data.x[static_cast<size_t>(2 * shape.columns + 1)] = std::nanf("");
        const HugeBuffer packed(static_cast<size_t>(shape.packed_bytes()));
        pack(data, packed.data(), pool);
        const HugeBuffer in_rounded(cpu::linear_rounded_bytes(shape.columns, tokens));
        const cpu::LinearInput in{data.x.data(), tokens, shape.columns, in_rounded.data()};
        cpu::linear_round(in, 0, cpu::linear_round_pieces(in), isa);
        const cpu::Linear linear{shape, packed.data(), data.bias.data(),
                                 cpu::Activation::kGeluTanh};
        std::vector<float> y(static_cast<size_t>(tokens * shape.rows));
        cpu::linear_rows(linear, in, {y.data()}, 0, shape.row_blocks(), isa);

        const size_t bytes = static_cast<size_t>(tokens * ((shape.rows + 31) / 32) * 40);
        const HugeBuffer expected(cpu::linear_rounded_bytes(shape.rows, tokens));
        const HugeBuffer rounded(cpu::linear_rounded_bytes(shape.rows, tokens));
        const cpu::LinearInput next{y.data(), tokens, shape.rows, expected.data()};
        cpu::linear_round(next, 0, cpu::linear_round_pieces(next), isa);
        cpu::linear_rows(linear, in, {nullptr, rounded.data()}, 2, shape.row_blocks(), isa);
        cpu::linear_rows(linear, in, {nullptr, rounded.data()}, 0, 2, isa);
        CHECK(std::memcmp(expected.data(), rounded.data(), bytes) == 0);
      }
    }
  }
}

TEST(claims_cover_every_block_once) {
  for (const int workers : {1, 2, 3, 64}) {
    const int64_t least = workers == 2 ? 1 : 2;
    for (const int64_t blocks : {0, 1, 2, 3, 7, 160, 800, 1121}) {
      int64_t next = 0, last = blocks;
      for (int64_t ticket = 0;; ++ticket) {
        const cpu::RowRange rows = cpu::claim_rows(ticket, blocks, workers, least);
        if (rows.empty()) break;
        CHECK(rows.begin == next && rows.end <= blocks);
        CHECK(rows.end - rows.begin <= last);  // never longer than the one before
        next = rows.end;
        last = rows.end - rows.begin;
      }
      CHECK(next == blocks);
      CHECK(cpu::claim_rows(2000, blocks, workers).empty());
    }
  }
}

TEST(probe_measures_what_it_is_asked) {
  cpu::LinearProbeOptions options;
  options.width = 64;
  options.layers = 5;
  options.window = 2;
  options.tokens = {1, 3};
  options.rounds = 2;
  for (const WeightKind kind : {WeightKind::kInt4, WeightKind::kF32}) {
    options.kind = kind;
    const std::vector<cpu::LinearProbeRound> rounds = cpu::linear_probe(options);
    CHECK(rounds.size() == 4);
    for (const cpu::LinearProbeRound& round : rounds) {
      CHECK(round.seconds > 0 && round.read_before > 0 && round.read_after > 0);
      CHECK(round.operations == static_cast<double>(2 * round.tokens * 2 * 12 * 64 * 64));
      CHECK(kind != WeightKind::kF32 || round.bytes == 2 * 4 * 12 * 64 * 64);
    }
  }
  options.tokens = {0};
  CHECK_THROWS(InvalidArgument, cpu::linear_probe(options), "1 or more");
}

TEST(bf16_sources_pack_like_the_floats_they_stand_for) {
  const LinearShape f32{WeightKind::kF32, 19, 7}, bf16{WeightKind::kBF16, 19, 7};
  std::vector<uint16_t> codes;
  std::vector<float> values;
  for (int i = 0; i < 19 * 7; ++i) {
    codes.push_back(float_to_bfloat16(0.37f * static_cast<float>(i) - 20));
    values.push_back(bfloat16_to_float(codes.back()));
  }
  for (const LinearShape& shape : {f32, bf16}) {
    const size_t bytes = static_cast<size_t>(shape.packed_bytes());
    std::vector<uint8_t> a(bytes, 1), b(bytes, 2);
    cpu::linear_pack_f32(shape, a.data(), values.data(), 0, 2);
    cpu::linear_pack_bf16(shape, b.data(), codes.data(), 1, 2);
    cpu::linear_pack_bf16(shape, b.data(), codes.data(), 0, 1);
    CHECK(a == b);
  }
}

TEST(what_cannot_run_says_why) {
  ThreadPool pool(1);
  cpu::MatmulParams p;
  CHECK_THROWS(InvalidArgument, cpu::matmul(p, pool, Isa::kPortable), "N and K are");
  p.linear.shape = {WeightKind::kInt4, 16, 32, 48, true};
  CHECK_THROWS(InvalidArgument, cpu::matmul(p, pool, Isa::kPortable), "groups are of");
  p.linear.shape.group_size = 32;
  cpu::matmul(p, pool, Isa::kPortable);  // no tokens, nothing to do
  p.tokens = 1;
  CHECK_THROWS(InvalidArgument, cpu::matmul(p, pool, Isa::kPortable), "only bias may be null");
  p.tokens = -1;
  CHECK_THROWS(InvalidArgument, cpu::matmul(p, pool, Isa::kPortable), "M is 0..2^31");
  CHECK_THROWS(InvalidArgument, cpu::int4_pack({WeightKind::kInt4, 16, 32}, nullptr, {}, pool),
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
