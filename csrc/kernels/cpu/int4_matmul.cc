#include "kernels/cpu/int4_matmul.h"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "base/errors.h"
#include "kernels/cpu/int4_matmul_isa.h"
#include "kernels/cpu/int4_matmul_portable.h"
// after the vectors it is written over
#include "kernels/cpu/int4_matmul_body.h"

namespace tgv::cpu {

namespace {

constexpr int64_t kRoundTiles = 16;    // tiles of one block of tokens, rounded at once
constexpr int64_t kClaimBlocks = 2;    // row blocks claimed at once, at least
constexpr int64_t kShares = 3;         // per thread, of what is left
constexpr int64_t kAloneSteps = 4096;  // tile steps, below which waking a thread costs more
constexpr int64_t kMaxSize = int64_t{1} << 31;  // keeps every product of sizes inside 64 bits

struct Body {
  Int4Round* round;
  Int4Rows* rows;
};

Body body_of(Isa isa) {
#if defined(__x86_64__)
  switch (isa) {
    case Isa::kAvx512Vnni:
      return {int4_round_avx512vnni, int4_rows_avx512vnni};
    case Isa::kAvxVnni:
      return {int4_round_avxvnni, int4_rows_avxvnni};
    case Isa::kAvx512:  // without VNNI the 256-bit body is as good
    case Isa::kAvx2:
      return {int4_round_avx2, int4_rows_avx2};
    case Isa::kPortable:
      break;
  }
#endif
  (void)isa;
  return {int4_round_portable, int4_rows_portable};
}

bool overlap(const void* a, int64_t a_bytes, const void* b, int64_t b_bytes) {
  const uintptr_t x = reinterpret_cast<uintptr_t>(a), y = reinterpret_cast<uintptr_t>(b);
  return b && x < y + static_cast<uintptr_t>(b_bytes) && y < x + static_cast<uintptr_t>(a_bytes);
}

// One problem on its way through the pool. Pieces are claimed from a counter; the lambda that the
// pool gets holds one pointer, so that std::function stores it without allocating.
struct Work {
  const Int4MatmulParams& p;
  const Body body;
  Int4Pass pass;
  const int threads;
  std::atomic<int64_t> next{0};

  void round_all() {
    const int64_t chunks = (p.shape.tiles() + kRoundTiles - 1) / kRoundTiles;
    const int64_t token_blocks = (pass.tokens + kInt4Tokens - 1) / kInt4Tokens;
    for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < chunks * token_blocks;) {
      const int64_t tile = i % chunks * kRoundTiles;
      body.round(p, pass, i / chunks, tile, std::min(tile + kRoundTiles, p.shape.tiles()));
    }
  }

  void multiply_all() {
    const int64_t blocks = p.shape.row_blocks();
    int64_t begin = next.load(std::memory_order_relaxed);
    while (begin < blocks) {
      // A share of what is left: long runs for the memory, short ones at the end, where threads
      // would wait for each other. Even, so that pairs of blocks stay together.
      const int64_t share = (blocks - begin) / (kShares * threads) / 2 * 2;
      const int64_t end = std::min(begin + std::max(share, kClaimBlocks), blocks);
      if (!next.compare_exchange_weak(begin, end, std::memory_order_relaxed)) continue;
      body.rows(p, pass, begin, end);
      begin = next.load(std::memory_order_relaxed);
    }
  }

  void run(ThreadPool& pool) {
    const int64_t steps = pass.tokens * p.shape.tiles();
    next = 0;
    if (steps < kAloneSteps) {
      round_all();
    } else {
      pool.run([this](int) { round_all(); });
    }
    next = 0;
    if (steps * p.shape.row_blocks() < kAloneSteps) {
      multiply_all();
    } else {
      pool.run([this](int) { multiply_all(); });
    }
  }
};

// 16 rows by 32 k of levels. Levels past K are 0: the activations there are 0, too.
void pack_tile(uint8_t* tile, const Int4PackParams& p, int64_t block, int64_t t) {
  const int64_t K = p.shape.columns, row_bytes = (K + 1) / 2;
  const int64_t first = 16 * t, count = std::min<int64_t>(16, row_bytes - first);
  for (int64_t r = 0; r < 16; ++r) {
    const int64_t row = 16 * block + r;
    uint8_t levels[16] = {};  // low nibble = even k
    if (row < p.shape.rows) {
      std::memcpy(levels, p.qweight + row * row_bytes + first, static_cast<size_t>(count));
      if (K % 2 && first + count == row_bytes) levels[count - 1] &= 15;
    }
    for (int64_t k = 0; k < 16; k += 2) {
      const uint8_t a = levels[k / 2], b = levels[k / 2 + 8];  // k and k + 16
      uint8_t* out = tile + 64 * (k / 4) + 4 * r + k % 4;
      out[0] = static_cast<uint8_t>((a & 15) | (b & 15) << 4);
      out[1] = static_cast<uint8_t>(a >> 4 | (b & 0xf0));
    }
  }
}

void pack_block(const Int4PackParams& p, int64_t block) {
  const Int4Shape& shape = p.shape;
  uint8_t* base = p.packed + block * shape.block_bytes();
  std::memset(base, 0, static_cast<size_t>(shape.block_bytes()));
  const int64_t groups = shape.groups(), tiles_of_group = shape.group_size / 32;
  const int64_t rows = std::min<int64_t>(16, shape.rows - 16 * block);
  for (int64_t g = 0; g < groups; ++g) {
    uint8_t* head = base + g * shape.group_bytes();
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t row = 16 * block + r;
      std::memcpy(head + 2 * r, p.scales + row * groups + g, 2);
      if (shape.symmetric) continue;
      const uint8_t both = p.zeros[row * ((groups + 1) / 2) + g / 2];
      head[32 + r] = g % 2 ? both >> 4 : both & 15;
    }
    const int64_t last = std::min((g + 1) * tiles_of_group, shape.tiles());
    for (int64_t t = g * tiles_of_group; t < last; ++t) {
      pack_tile(head + shape.head_bytes() + 256 * (t - g * tiles_of_group), p, block, t);
    }
  }
}

}  // namespace

const char* int4_shape_why_not(const Int4Shape& shape) {
  if (shape.rows < 1 || shape.rows > kMaxSize || shape.columns < 1 || shape.columns > kMaxSize) {
    return "N and K are 1..2^31";
  }
  if (shape.group_size != 32 && shape.group_size != 64 && shape.group_size != 128) {
    return "groups are of 32, 64 or 128";
  }
  return nullptr;
}

void int4_pack(const Int4PackParams& params, ThreadPool& pool) {
  if (const char* why = int4_shape_why_not(params.shape)) {
    throw InvalidArgument(concat("int4_pack of [N=", params.shape.rows, ",K=", params.shape.columns,
                                 "] in groups of ", params.shape.group_size, ": ", why));
  }
  if (!params.packed || !params.qweight || !params.scales ||
      (params.zeros == nullptr) != params.shape.symmetric) {
    throw InvalidArgument(
        "int4_pack has a null pointer, expected all but zeros (null if and only if symmetric)");
  }
  pool.parallel_for(params.shape.row_blocks(), 8, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) pack_block(params, block);
  });
}

const char* int4_matmul_why_not(const Int4MatmulParams& p) {
  if (const char* why = int4_shape_why_not(p.shape)) return why;
  if (p.tokens < 0 || p.tokens > kMaxSize) return "M is 0..2^31";
  if (p.tokens == 0) return nullptr;
  if (!p.y || !p.x || !p.packed || !p.scratch) return "only bias may be null";
  if (reinterpret_cast<uintptr_t>(p.packed) % 64 || reinterpret_cast<uintptr_t>(p.scratch) % 64) {
    return "packed weights and scratch start at a multiple of 64 bytes";
  }
  const int64_t y_bytes = 4 * p.tokens * p.shape.rows;
  if (overlap(p.y, y_bytes, p.x, 4 * p.tokens * p.shape.columns) ||
      overlap(p.y, y_bytes, p.packed, p.shape.packed_bytes()) ||
      overlap(p.y, y_bytes, p.bias, 4 * p.shape.rows)) {
    return "the output must not overlap an input";
  }
  return nullptr;
}

size_t int4_matmul_scratch_bytes(const Int4Shape& shape, int64_t tokens) {
  const int64_t at_once = std::min<int64_t>(tokens, kInt4PassTokens);
  return static_cast<size_t>(at_once * shape.tiles()) * sizeof(Int4Activations);
}

void int4_matmul(const Int4MatmulParams& params, ThreadPool& pool, Isa isa) {
  if (const char* why = int4_matmul_why_not(params)) {
    throw InvalidArgument(concat("int4_matmul of [M=", params.tokens, ",K=", params.shape.columns,
                                 "] by [N=", params.shape.rows, "] in groups of ",
                                 params.shape.group_size, ": ", why));
  }
  Int4Pass pass;
  pass.rounded = static_cast<Int4Activations*>(params.scratch);
  for (; pass.first < params.tokens; pass.first += pass.tokens) {
    pass.tokens = std::min<int64_t>(kInt4PassTokens, params.tokens - pass.first);
    Work work{params, body_of(isa), pass, pool.threads()};
    work.run(pool);
  }
}

void int4_round_portable(const Int4MatmulParams& params, const Int4Pass& pass, int64_t token_block,
                         int64_t tile_begin, int64_t tile_end) {
  round_tokens(params, pass, token_block, tile_begin, tile_end);
}

void int4_rows_portable(const Int4MatmulParams& params, const Int4Pass& pass, int64_t begin,
                        int64_t end) {
  multiply_rows(params, pass, begin, end);
}

}  // namespace tgv::cpu
