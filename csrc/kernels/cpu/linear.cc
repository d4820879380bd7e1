#include "kernels/cpu/linear.h"

#include <algorithm>

#include "kernels/cpu/linear_isa.h"
#include "kernels/cpu/linear_portable.h"
// after the vectors they are written over
#include "kernels/cpu/linear_float_body.h"
#include "kernels/cpu/linear_round_body.h"
#include "kernels/cpu/linear_rounded_body.h"

namespace tgv::cpu {

namespace {

constexpr int64_t kRoundTiles = 16;             // tiles of one block of tokens in a piece
constexpr int64_t kMaxSize = int64_t{1} << 31;  // keeps every product of sizes inside 64 bits
constexpr int64_t kShares = 3;                  // per worker, of what is left

struct Body {
  LinearRound* round;
  LinearRows* rows[4];  // by WeightKind
};

constexpr Body kPortableBody = {
    linear_round_portable,
    {linear_int4_portable, linear_int8_portable, linear_bf16_portable, linear_f32_portable}};
#if defined(__x86_64__)
constexpr Body kAvx2Body = {
    linear_round_avx2, {linear_int4_avx2, linear_int8_avx2, linear_bf16_avx2, linear_f32_avx2}};
constexpr Body kAvxVnniBody = {
    linear_round_avx2,
    {linear_int4_avxvnni, linear_int8_avxvnni, linear_bf16_avx2, linear_f32_avx2}};
// Without VNNI 256 bits are as good for integers.
constexpr Body kAvx512Body = {
    linear_round_avx2, {linear_int4_avx2, linear_int8_avx2, linear_bf16_avx512, linear_f32_avx512}};
constexpr Body kAvx512VnniBody = {
    linear_round_avx512vnni,
    {linear_int4_avx512vnni, linear_int8_avx512vnni, linear_bf16_avx512, linear_f32_avx512}};
#endif

const Body& body_of(Isa isa) {
#if defined(__x86_64__)
  switch (isa) {
    case Isa::kAvx512Vnni:
      return kAvx512VnniBody;
    case Isa::kAvx512:
      return kAvx512Body;
    case Isa::kAvxVnni:
      return kAvxVnniBody;
    case Isa::kAvx2:
      return kAvx2Body;
    case Isa::kPortable:
      break;
  }
#endif
  (void)isa;
  return kPortableBody;
}

bool overlap(const void* a, int64_t a_bytes, const void* b, int64_t b_bytes) {
  const uintptr_t x = reinterpret_cast<uintptr_t>(a), y = reinterpret_cast<uintptr_t>(b);
  return b && x < y + static_cast<uintptr_t>(b_bytes) && y < x + static_cast<uintptr_t>(a_bytes);
}

bool aligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 64 == 0; }

// So that the pairs of every task start at even blocks of the run.
int64_t even_blocks(const LinearTask& task) { return (task.linear.shape.row_blocks() + 1) / 2 * 2; }

int64_t round_chunks(const LinearInput& in) {
  return ((in.columns + 31) / 32 + kRoundTiles - 1) / kRoundTiles;
}

}  // namespace

const char* weight_kind_name(WeightKind kind) {
  switch (kind) {
    case WeightKind::kInt4:
      return "int4";
    case WeightKind::kInt8:
      return "int8";
    case WeightKind::kBF16:
      return "bf16";
    case WeightKind::kF32:
      return "f32";
  }
  return "unknown";
}

bool reads_rounded(WeightKind kind) {
  return kind == WeightKind::kInt4 || kind == WeightKind::kInt8;
}

int64_t LinearShape::block_bytes() const {
  switch (kind) {
    case WeightKind::kInt8:
      return 64 + 512 * tiles();
    case WeightKind::kBF16:
      return 64 * ((columns + 1) / 2);
    case WeightKind::kF32:
      return 64 * columns;
    case WeightKind::kInt4:
      break;
  }
  return (head_bytes() * groups() + 256 * tiles() + 63) / 64 * 64;
}

const char* linear_shape_why_not(const LinearShape& shape) {
  if (shape.rows < 1 || shape.rows > kMaxSize || shape.columns < 1 || shape.columns > kMaxSize) {
    return "N and K are 1..2^31";
  }
  if (shape.kind != WeightKind::kInt4) return nullptr;
  if (shape.group_size != 32 && shape.group_size != 64 && shape.group_size != 128) {
    return "groups are of 32, 64 or 128";
  }
  return nullptr;
}

const char* linear_why_not(const Linear& w, const LinearInput& in, const float* y) {
  if (const char* why = linear_shape_why_not(w.shape)) return why;
  if (in.tokens < 1 || in.tokens > kMaxSize) return "the number of tokens is 1..2^31";
  if (in.columns != w.shape.columns) return "x and the weights differ in K";
  const bool rounded = reads_rounded(w.shape.kind);
  if (!y || !in.x || !w.packed || (rounded && !in.rounded)) return "only bias may be null";
  if (!aligned(w.packed) || (rounded && !aligned(in.rounded))) {
    return "packed weights and rounded activations start at a multiple of 64 bytes";
  }
  const int64_t y_bytes = 4 * in.tokens * w.shape.rows;
  if (overlap(y, y_bytes, in.x, 4 * in.tokens * in.columns) ||
      overlap(y, y_bytes, w.packed, w.shape.packed_bytes()) ||
      overlap(y, y_bytes, w.bias, 4 * w.shape.rows)) {
    return "the output must not overlap an input";
  }
  return nullptr;
}

size_t linear_rounded_bytes(int64_t columns, int64_t tokens) {
  const int64_t bytes = tokens * ((columns + 31) / 32) * int64_t{sizeof(RoundedTile)};
  return static_cast<size_t>((bytes + 63) / 64 * 64);
}

int64_t linear_round_pieces(const LinearInput& in) {
  return round_chunks(in) * ((in.tokens + kLinearTokens - 1) / kLinearTokens);
}

void linear_round(const LinearInput& in, int64_t begin, int64_t end, Isa isa) {
  const int64_t chunks = round_chunks(in), tiles = (in.columns + 31) / 32;
  LinearRound* const round = body_of(isa).round;
  for (int64_t piece = begin; piece < end; ++piece) {
    const int64_t tile = piece % chunks * kRoundTiles;
    round(in, piece / chunks, tile, std::min(tile + kRoundTiles, tiles));
  }
}

void linear_rows(const Linear& linear, const LinearInput& input, const LinearOutput& output,
                 int64_t begin, int64_t end, Isa isa) {
  body_of(isa).rows[static_cast<size_t>(linear.shape.kind)](linear, input, output, begin, end);
}

int64_t linear_row_blocks(std::span<const LinearTask> tasks) {
  int64_t blocks = 0;
  for (const LinearTask& task : tasks) blocks += even_blocks(task);
  return blocks;
}

void linear_rows(std::span<const LinearTask> tasks, int64_t begin, int64_t end, Isa isa) {
  for (const LinearTask& task : tasks) {
    const int64_t blocks = task.linear.shape.row_blocks();
    const int64_t from = std::max<int64_t>(begin, 0), to = std::min(end, blocks);
    if (from < to) linear_rows(task.linear, task.input, task.output, from, to, isa);
    begin -= even_blocks(task);
    end -= even_blocks(task);
  }
}

RowRange claim_rows(int64_t ticket, int64_t blocks, int workers, int64_t least) {
  RowRange range;
  for (int64_t i = 0; range.begin < blocks; ++i) {
    // Even, so that pairs of blocks stay together.
    const int64_t share = (blocks - range.begin) / (kShares * workers) / 2 * 2;
    range.end = std::min(range.begin + std::max(share, least), blocks);
    if (i == ticket) return range;
    range.begin = range.end;
  }
  return {blocks, blocks};
}

void linear_round_portable(const LinearInput& input, int64_t token_block, int64_t tile_begin,
                           int64_t tile_end) {
  round_tokens(input, token_block, tile_begin, tile_end);
}

void linear_int4_portable(const Linear& linear, const LinearInput& input,
                          const LinearOutput& output, int64_t begin, int64_t end) {
  multiply_int4(linear, input, output, begin, end);
}

void linear_int8_portable(const Linear& linear, const LinearInput& input,
                          const LinearOutput& output, int64_t begin, int64_t end) {
  multiply_int8(linear, input, output, begin, end);
}

void linear_bf16_portable(const Linear& linear, const LinearInput& input,
                          const LinearOutput& output, int64_t begin, int64_t end) {
  multiply_bf16(linear, input, output, begin, end);
}

void linear_f32_portable(const Linear& linear, const LinearInput& input, const LinearOutput& output,
                         int64_t begin, int64_t end) {
  multiply_f32(linear, input, output, begin, end);
}

}  // namespace tgv::cpu
