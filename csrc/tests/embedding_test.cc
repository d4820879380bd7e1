// kernels/cpu/embedding: exact values of each kind, and the sentences about bad ids.
#include "kernels/cpu/embedding.h"

#include <cmath>

#include "base/float16.h"
#include "tests/check.h"

namespace tgv::test {
namespace {

constexpr int64_t kVocab = 7;

// A value that float32, bfloat16 and int8 all hold.
float value_at(int64_t id, int64_t c) { return static_cast<float>((id * 31 + c * 7) % 201 - 100); }

void check_kind(cpu::EmbeddingKind kind, int64_t width) {
  std::vector<float> f32, scales;
  std::vector<uint16_t> bf16;
  std::vector<int8_t> int8;
  for (int64_t id = 0; id < kVocab; ++id) {
    scales.push_back(0.37f * static_cast<float>(id + 1));
    for (int64_t c = 0; c < width; ++c) {
      f32.push_back(value_at(id, c));
      bf16.push_back(float_to_bfloat16(value_at(id, c)));
      int8.push_back(static_cast<int8_t>(value_at(id, c)));
    }
  }
  cpu::EmbeddingTable table{kind, f32.data(), nullptr, kVocab, width};
  if (kind == cpu::EmbeddingKind::kBF16) table.rows = bf16.data();
  if (kind == cpu::EmbeddingKind::kInt8) {
    table.rows = int8.data();
    table.scales = scales.data();
  }
  const std::vector<int32_t> ids = {6, 0, 3, 3, 1};
  CHECK_EQ(cpu::embed_why_not(table, ids.data(), 5), std::string());
  std::vector<float> y(static_cast<size_t>(5 * width), std::nanf(""));
  cpu::embed(y.data(), table, ids.data(), 5);
  for (int64_t t = 0; t < 5; ++t) {
    const int32_t id = ids[static_cast<size_t>(t)];
    const float scale = kind == cpu::EmbeddingKind::kInt8 ? scales[static_cast<size_t>(id)] : 1.0f;
    for (int64_t c = 0; c < width; ++c) {
      CHECK_EQ(y[static_cast<size_t>(t * width + c)], value_at(id, c) * scale);
    }
  }
}

TEST(rows_of_every_kind_and_width) {
  for (const auto kind :
       {cpu::EmbeddingKind::kF32, cpu::EmbeddingKind::kBF16, cpu::EmbeddingKind::kInt8}) {
    for (const int64_t width : {1, 3, 15, 16, 17, 80, 2560}) check_kind(kind, width);
  }
}

TEST(what_cannot_be_looked_up_says_why) {
  const std::vector<float> rows(12), scales(3);
  const cpu::EmbeddingTable good{cpu::EmbeddingKind::kF32, rows.data(), nullptr, 3, 4};
  const std::vector<int32_t> ids = {0, 3}, negative = {-1};
  CHECK_EQ(cpu::embed_why_not(good, ids.data(), 1), std::string());
  CHECK_EQ(cpu::embed_why_not(good, nullptr, 0), std::string());
  CHECK_EQ(cpu::embed_why_not(good, ids.data(), 2), std::string("ids[1] is 3, expected 0..2"));
  CHECK_EQ(cpu::embed_why_not(good, negative.data(), 1),
           std::string("ids[0] is -1, expected 0..2"));
  CHECK(!cpu::embed_why_not(good, nullptr, 1).empty());
  CHECK(!cpu::embed_why_not(good, ids.data(), -1).empty());
  cpu::EmbeddingTable bad = good;
  bad.scales = scales.data();
  CHECK(!cpu::embed_why_not(bad, ids.data(), 1).empty());
  bad.kind = cpu::EmbeddingKind::kInt8;
  CHECK(cpu::embed_why_not(bad, ids.data(), 1).empty());
  bad.width = 0;
  CHECK(!cpu::embed_why_not(bad, ids.data(), 1).empty());
}

}  // namespace
}  // namespace tgv::test

TEST_MAIN()
