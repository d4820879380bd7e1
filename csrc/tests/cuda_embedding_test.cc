// kernels/cuda/embedding against the same lookup on the host, bit for bit. Compiled for the
// emulation and, by nvcc, for a GPU. The kernel has no barrier: no thread needs another's numbers.
#include <cmath>
#include <random>

#include "kernels/cuda/launch.cuh"
#include "tests/check.h"
#include "tests/device_array.h"
#include "tests/half.h"
#include "tests/schedules.h"

namespace tgv::test {
namespace {

using cuda::EmbeddingKind;

constexpr EmbeddingKind kKinds[] = {EmbeddingKind::kF32, EmbeddingKind::kF16, EmbeddingKind::kBF16,
                                    EmbeddingKind::kI8};

struct Table {
  EmbeddingKind kind;
  int64_t vocab, width;
  std::vector<uint8_t> rows;
  std::vector<float> scales, values;  // values: what the rows stand for
};

template <class T>
void put(std::vector<uint8_t>& bytes, T value) {
  const size_t at = bytes.size();
  bytes.resize(at + sizeof value);
  std::memcpy(bytes.data() + at, &value, sizeof value);
}

Table make_table(EmbeddingKind kind, int64_t vocab, int64_t width, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  Table table{kind, vocab, width, {}, {}, {}};
  for (int64_t row = 0; row < vocab; ++row) {
    const float scale = 0.001f * static_cast<float>(1 + random() % 100);
    if (kind == EmbeddingKind::kI8) table.scales.push_back(scale);
    for (int64_t i = 0; i < width; ++i) {
      const float x = normal(random);
      if (kind == EmbeddingKind::kI8) {
        const auto level = static_cast<int8_t>(static_cast<int>(random() % 255) - 127);
        put(table.rows, level);
        table.values.push_back(static_cast<float>(level) * scale);
      } else if (kind == EmbeddingKind::kF32) {
        put(table.rows, x);
        table.values.push_back(x);
      } else if (kind == EmbeddingKind::kF16) {
        put(table.rows, simt::float_to_half(x));
        table.values.push_back(simt::half_to_float(simt::float_to_half(x)));
      } else {
        put(table.rows, simt::float_to_bfloat16(x));
        table.values.push_back(simt::bfloat16_to_float(simt::float_to_bfloat16(x)));
      }
    }
  }
  return table;
}

constexpr int kGiven = 3;

std::vector<float> given_rows(int64_t width) {
  std::vector<float> rows;
  for (int64_t i = 0; i < kGiven * width; ++i) rows.push_back(static_cast<float>(i) + 0.25f);
  return rows;
}

void check_lookup(const Table& table, const std::vector<int32_t>& ids, bool with_given) {
  const int64_t C = table.width;
  const std::vector<float> given = given_rows(C);
  DeviceArray<uint8_t> rows(table.rows);
  DeviceArray<float> scales(table.scales), given_there(given);
  DeviceArray<float> y(ids.size() * static_cast<size_t>(C));
  DeviceArray<int32_t> ids_there(ids);
  cuda::EmbeddingParams p;
  p.tokens = static_cast<int64_t>(ids.size());
  p.vocab = table.vocab;
  p.width = C;
  p.kind = table.kind;
  p.y = y.data();
  p.rows = rows.data();
  p.scales = table.kind == EmbeddingKind::kI8 ? scales.data() : nullptr;
  p.given_rows = with_given ? kGiven : 0;
  p.given = with_given ? given_there.data() : nullptr;
  p.ids = ids_there.data();
  cuda::launch_embedding(p, {});
  CHECK(y.guards_intact());
  const std::vector<float> got = y.download();
  for (size_t t = 0; t < ids.size(); ++t) {
    const int64_t id = ids[t], given_row = -1 - id;
    const float* expected = nullptr;
    if (id >= 0 && id < table.vocab) expected = table.values.data() + id * C;
    if (id < 0 && given_row < p.given_rows) expected = given.data() + given_row * C;
    const float* row = got.data() + static_cast<int64_t>(t) * C;
    if (expected) {
      CHECK(std::memcmp(row, expected, static_cast<size_t>(C) * sizeof(float)) == 0);
    } else {
      uint32_t poison;
      for (int64_t i = 0; i < C; ++i) {
        CHECK(std::isnan(row[i]));
        std::memcpy(&poison, row + i, sizeof poison);
        CHECK(poison != 0xffffffffu);  // written, not left
      }
    }
  }
}

TEST(every_kind_and_width) {
  for (EmbeddingKind kind : kKinds) {
    for (int64_t width : {4, 60, 1020, 1024, 1028, 2560}) {
      check_lookup(make_table(kind, 11, width, 1), {0, 10, 3, 3, 7}, false);
    }
  }
}

TEST(given_rows_stand_among_tokens) {
  for (EmbeddingKind kind : kKinds) {
    check_lookup(make_table(kind, 5, 260, 2), {4, -1, -3, 0, -2, -1}, true);
  }
}

TEST(an_id_of_no_row_gives_nan) {
  for (EmbeddingKind kind : kKinds) {
    const Table table = make_table(kind, 5, 64, 3);
    check_lookup(table, {5, 0, -4, INT32_MIN, INT32_MAX, -3}, true);
    check_lookup(table, {-1, 4}, false);
  }
}

TEST(hostile_schedules) {
  for_each_schedule([] {
    check_lookup(make_table(EmbeddingKind::kI8, 9, 2560, 4), {8, -1, 0}, true);
    check_lookup(make_table(EmbeddingKind::kF16, 9, 1100, 5), {1, -2, 20}, true);
  });
}

TEST(bytes_count_rows_once) {
  cuda::EmbeddingParams p;
  p.tokens = 3;
  p.width = 2560;
  p.kind = EmbeddingKind::kI8;
  CHECK_EQ(cuda::embedding_bytes(p), int64_t{3 * (2560 * 5 + 8)});
  p.kind = EmbeddingKind::kF16;
  CHECK_EQ(cuda::embedding_bytes(p), int64_t{3 * (2560 * 6 + 4)});
}

TEST(why_not_says_what_is_wrong) {
  alignas(16) float words[8] = {};
  const int32_t zero = 0;
  cuda::EmbeddingParams p;
  const auto why_not = [&p] { return cuda::embedding_why_not(p); };
  p.vocab = 5;
  p.width = 6;
  CHECK_EQ(why_not(), std::string("the table is [V=5,C=6], expected V in 1..2^31-1 and C a "
                                  "multiple of 4 from 4"));
  p.width = 2560;
  CHECK_EQ(why_not(), std::string("T is 0, expected 1..715827882"));
  p.tokens = 1;
  p.given_rows = 2;
  CHECK_EQ(why_not(), std::string("G is 2 and given is null"));
  p.given = words;
  CHECK_EQ(why_not(), std::string("y, rows or ids is null"));
  p.y = words;
  p.rows = words;
  p.ids = &zero;
  CHECK_EQ(why_not(), std::string());
  p.kind = EmbeddingKind::kI8;
  CHECK_EQ(why_not(), std::string("an int8 table needs scales, other tables have none"));
  p.scales = words;
  p.given = words + 1;
  CHECK_EQ(why_not(), std::string("y or given is not 16-byte aligned"));
  p.given = words;
  p.rows = reinterpret_cast<const uint8_t*>(words) + 2;
  CHECK_EQ(why_not(), std::string("rows is not 4-byte aligned"));
  CHECK_THROWS(InvalidArgument, cuda::launch_embedding(p, {}), "embedding: rows is not");
}

}  // namespace
}  // namespace tgv::test

TEST_MAIN()
