#include "model/random_weights.h"

#include <cmath>
#include <cstring>
#include <string_view>
#include <vector>

#include "base/errors.h"
#include "base/float16.h"

namespace tgv::model {

namespace {

// splitmix64: one number per index, so that threads may fill parts in any order.
uint64_t mix(uint64_t seed, uint64_t index) {
  uint64_t z = seed + (index + 1) * 0x9e3779b97f4a7c15ull;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ z >> 27) * 0x94d049bb133111ebull;
  return z ^ z >> 31;
}

void fill_bytes(void* out, size_t bytes, uint64_t seed, ThreadPool& pool) {
  constexpr size_t kPiece = 1 << 20;
  const int64_t pieces = static_cast<int64_t>((bytes + kPiece - 1) / kPiece);
  pool.parallel_for(pieces, 1, [&](int64_t begin, int64_t end) {
    const size_t last = std::min(bytes, static_cast<size_t>(end) * kPiece);
    for (size_t at = static_cast<size_t>(begin) * kPiece; at < last; at += 8) {
      const uint64_t word = mix(seed, at / 8);
      std::memcpy(static_cast<uint8_t*>(out) + at, &word, std::min<size_t>(8, last - at));
    }
  });
}

// In [-1, 1).
float uniform(uint64_t seed, uint64_t index) {
  return static_cast<float>(static_cast<int64_t>(mix(seed, index)) >> 40) * 0x1p-23f;
}

std::vector<float> uniforms(size_t count, float spread, uint64_t seed) {
  std::vector<float> out(count);
  for (size_t i = 0; i < count; ++i) out[i] = spread * uniform(seed, i);
  return out;
}

class Filler {
 public:
  Filler(Weights& weights, uint64_t seed, ThreadPool& pool)
      : weights_(weights), seed_(seed), pool_(pool) {}

  void fill(const Entry& entry) {
    seed_ = mix(seed_, 0);
    if (entry.role == Role::kMatrix) {
      matrix(entry);
    } else if (entry.role == Role::kEmbedding) {
      embedding(entry);
    } else {
      vector(entry);
    }
  }

 private:
  // A uniform level of int4 has standard deviation 4.6, one of int8 74.
  void matrix(const Entry& entry) {
    const cpu::LinearShape& shape = entry.matrix;
    const size_t N = static_cast<size_t>(shape.rows), K = static_cast<size_t>(shape.columns);
    const float spread = 1.0f / std::sqrt(static_cast<float>(K));
    const size_t G = static_cast<size_t>(shape.group_size), groups = (K + G - 1) / G;
    MatrixSource source;
    std::vector<uint16_t> scales;
    std::vector<float> floats;
    switch (shape.kind) {
      case cpu::WeightKind::kInt4:
        bytes_.resize(N * ((K + 1) / 2));
        scales.resize(N * groups);
        for (size_t i = 0; i < scales.size(); ++i) {
          scales[i] = float_to_half(spread / 4.6f * (1.0f + 0.25f * uniform(seed_ + 1, i)));
        }
        zeros_.assign(N * ((groups + 1) / 2), 0x88);
        source.int4 = bytes_.data();
        source.scales = scales.data();
        source.zeros = shape.symmetric ? nullptr : zeros_.data();
        break;
      case cpu::WeightKind::kInt8:
        bytes_.resize(N * K);
        floats = uniforms(N, 0.25f * spread / 74.0f, seed_ + 1);
        for (float& scale : floats) scale += spread / 74.0f;
        source.int8 = reinterpret_cast<const int8_t*>(bytes_.data());
        source.row_scales = floats.data();
        break;
      case cpu::WeightKind::kBF16:
      case cpu::WeightKind::kF32:
        floats = uniforms(N * K, std::sqrt(3.0f) * spread, seed_);
        source.f32 = floats.data();
        break;
    }
    if (source.int4 || source.int8) fill_bytes(bytes_.data(), bytes_.size(), seed_, pool_);
    weights_.put_matrix(entry.name, source, pool_);
  }

  void embedding(const Entry& entry) {
    const size_t V = static_cast<size_t>(entry.rows), C = static_cast<size_t>(entry.columns);
    MatrixSource source;
    std::vector<float> floats;
    std::vector<uint16_t> halves;
    switch (weights_.plan().forms().embedding) {
      case cpu::EmbeddingKind::kInt8:
        bytes_.resize(V * C);
        fill_bytes(bytes_.data(), bytes_.size(), seed_, pool_);
        floats.assign(V, 1.0f / 74.0f);
        source.int8 = reinterpret_cast<const int8_t*>(bytes_.data());
        source.row_scales = floats.data();
        break;
      case cpu::EmbeddingKind::kBF16:
        floats = uniforms(V * C, std::sqrt(3.0f), seed_);
        for (const float value : floats) halves.push_back(float_to_bfloat16(value));
        source.bf16 = halves.data();
        break;
      case cpu::EmbeddingKind::kF32:
        floats = uniforms(V * C, std::sqrt(3.0f), seed_);
        source.f32 = floats.data();
        break;
    }
    weights_.put_embedding(source);
  }

  void vector(const Entry& entry) {
    std::vector<float> values = uniforms(static_cast<size_t>(entry.rows), 0.05f, seed_);
    if (std::string_view(entry.name).ends_with("norm.weight")) {
      for (float& value : values) value += 1.0f;
    }
    weights_.put_vector(entry.name, values);
  }

  Weights& weights_;
  uint64_t seed_;
  ThreadPool& pool_;
  std::vector<uint8_t> bytes_, zeros_;
};

}  // namespace

std::shared_ptr<const Weights> random_weights(const Architecture& architecture, const Forms& forms,
                                              uint64_t seed, ThreadPool& pool) {
  const Plan plan(architecture, forms);
  const std::string id = concat("random-", seed, "-", plan.bytes());
  const auto weights = std::make_shared<Weights>(plan, id);
  Filler filler(*weights, seed, pool);
  for (const Entry& entry : plan.entries()) filler.fill(entry);
  return weights;
}

}  // namespace tgv::model
