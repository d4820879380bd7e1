#include "kernels/cpu/matmul.h"

#include <algorithm>

#include "base/errors.h"

namespace tgv::cpu {

namespace {

constexpr int64_t kPassTokens = 256;   // tokens in work at once
constexpr int64_t kAloneSteps = 4096;  // 16 rows by 32 k, below which waking a thread costs more
constexpr int64_t kPackBlocks = 8;     // row blocks packed at once

std::string described(const LinearShape& shape) {
  std::string out =
      concat(weight_kind_name(shape.kind), " [N=", shape.rows, ",K=", shape.columns, "]");
  if (shape.kind == WeightKind::kInt4) out += concat(" in groups of ", shape.group_size);
  return out;
}

void check_pack(const char* what, const LinearShape& shape, bool pointers) {
  if (const char* why = linear_shape_why_not(shape)) {
    throw InvalidArgument(concat(what, " of ", described(shape), ": ", why));
  }
  if (!pointers) throw InvalidArgument(concat(what, " has a null pointer"));
}

// One pass on its way through the pool. The lambda that the pool gets holds one pointer, so that
// std::function stores it without allocating.
struct Pass {
  Linear linear;
  LinearInput input;
  float* y;
  Isa isa;

  void run_alone() const {
    if (reads_rounded(linear.shape.kind)) linear_round(input, 0, linear_round_pieces(input), isa);
    linear_rows(linear, input, {y}, 0, linear.shape.row_blocks(), isa);
  }

  void round(ThreadPool& pool) const {
    const int64_t pieces = linear_round_pieces(input);
    for (int64_t i; (i = pool.claim(1)) < pieces;) linear_round(input, i, i + 1, isa);
  }

  void multiply(ThreadPool& pool) const {
    const int64_t blocks = linear.shape.row_blocks(), least = input.tokens > 4 ? 2 : 1;
    while (true) {
      const RowRange rows = claim_rows(pool.claim(1), blocks, pool.threads(), least);
      if (rows.empty()) return;
      linear_rows(linear, input, {y}, rows.begin, rows.end, isa);
    }
  }

  void run(ThreadPool& pool) const {
    const int64_t steps = input.tokens * linear.shape.tiles() * linear.shape.row_blocks();
    if (steps < kAloneSteps || pool.threads() == 1) return run_alone();
    struct Both {
      const Pass& pass;
      ThreadPool& pool;
    } both{*this, pool};
    if (!reads_rounded(linear.shape.kind)) {
      pool.run_phases(1, [&both](int, int) { both.pass.multiply(both.pool); });
      return;
    }
    pool.run_phases(2, [&both](int phase, int) {
      if (phase == 0) {
        both.pass.round(both.pool);
      } else {
        both.pass.multiply(both.pool);
      }
    });
  }
};

}  // namespace

const char* matmul_why_not(const MatmulParams& p) {
  if (const char* why = linear_shape_why_not(p.linear.shape)) return why;
  if (p.tokens < 0 || p.tokens > (int64_t{1} << 31)) return "M is 0..2^31";
  if (p.tokens == 0) return nullptr;
  return linear_why_not(p.linear, {p.x, p.tokens, p.linear.shape.columns, p.scratch}, p.y);
}

size_t matmul_scratch_bytes(const LinearShape& shape, int64_t tokens) {
  if (!reads_rounded(shape.kind)) return 0;
  return linear_rounded_bytes(shape.columns, std::min(tokens, kPassTokens));
}

void matmul(const MatmulParams& p, ThreadPool& pool, Isa isa) {
  const LinearShape& shape = p.linear.shape;
  if (const char* why = matmul_why_not(p)) {
    throw InvalidArgument(concat("matmul of x [M=", p.tokens, ",K=", shape.columns, "] by ",
                                 described(shape), ": ", why));
  }
  for (int64_t first = 0; first < p.tokens; first += kPassTokens) {
    const LinearInput input{p.x + first * shape.columns, std::min(kPassTokens, p.tokens - first),
                            shape.columns, p.scratch};
    Pass{p.linear, input, p.y + first * shape.rows, isa}.run(pool);
  }
}

void int4_pack(const LinearShape& shape, uint8_t* packed, const Int4Source& source,
               ThreadPool& pool) {
  check_pack("int4_pack", shape, packed && source.qweight && source.scales);
  if ((source.zeros == nullptr) != shape.symmetric) {
    throw InvalidArgument("int4_pack: zeros are null if and only if the matrix is symmetric");
  }
  pool.parallel_for(shape.row_blocks(), kPackBlocks, [&](int64_t begin, int64_t end) {
    linear_pack_int4(shape, packed, source, begin, end);
  });
}

void int8_pack(const LinearShape& shape, uint8_t* packed, const int8_t* qweight,
               const float* scales, ThreadPool& pool) {
  check_pack("int8_pack", shape, packed && qweight && scales);
  pool.parallel_for(shape.row_blocks(), kPackBlocks, [&](int64_t begin, int64_t end) {
    linear_pack_int8(shape, packed, qweight, scales, begin, end);
  });
}

void float_pack(const LinearShape& shape, uint8_t* packed, const float* weights, ThreadPool& pool) {
  check_pack("float_pack", shape, packed && weights);
  pool.parallel_for(shape.row_blocks(), kPackBlocks, [&](int64_t begin, int64_t end) {
    linear_pack_f32(shape, packed, weights, begin, end);
  });
}

}  // namespace tgv::cpu
