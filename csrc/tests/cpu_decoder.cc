#include "tests/cpu_decoder.h"

#include "model/decoder.h"

namespace tgv::test {

namespace {

constexpr int64_t kMostTokens = 256;

std::shared_ptr<const model::Weights> make_weights(const model::Architecture& architecture,
                                                   const FloatTensors& tensors, ThreadPool& pool) {
  model::Forms forms;
  forms.body.kind = forms.head.kind = cpu::WeightKind::kF32;
  forms.embedding = cpu::EmbeddingKind::kF32;
  auto weights = std::make_shared<model::Weights>(model::Plan(architecture, forms), "test");
  for (const model::Entry& entry : weights->plan().entries()) {
    const std::vector<float>& values = tensors.at(entry.name);
    model::MatrixSource source;
    source.f32 = values.data();
    if (entry.role == model::Role::kMatrix) {
      weights->put_matrix(entry.name, source, pool);
    } else if (entry.role == model::Role::kEmbedding) {
      weights->put_embedding(source);
    } else {
      weights->put_vector(entry.name, values);
    }
  }
  return weights;
}

}  // namespace

struct CpuDecoder::State {
  State(const model::Architecture& a, const FloatTensors& tensors, int64_t count)
      : vocab(a.vocab),
        pool(1),
        pages({count, a.layers, a.heads, a.head_dim, kv::Kind::kF32}),
        decoder(make_weights(a, tensors, pool), pages, pool,
                {kMostTokens, kMostTokens, best_isa()}) {}

  const int64_t vocab;
  ThreadPool pool;
  kv::Storage pages;  // whose they are say the segments
  model::Decoder decoder;
};

CpuDecoder::CpuDecoder(const model::Architecture& architecture, const FloatTensors& tensors,
                       int64_t pages)
    : state_(std::make_unique<State>(architecture, tensors, pages)) {}

CpuDecoder::~CpuDecoder() = default;

std::vector<float> CpuDecoder::step(const std::vector<model::DeviceSegment>& segments) {
  std::vector<model::Segment> parts;
  for (const model::DeviceSegment& s : segments) {
    parts.push_back({{s.block_table, static_cast<size_t>(s.pages)},
                     s.first_position,
                     {s.tokens, static_cast<size_t>(s.count)},
                     s.logit_rows});
  }
  state_->decoder.step(parts);
  std::vector<float> logits;
  for (int64_t row = 0; row < state_->decoder.logit_rows(); ++row) {
    const float* from = state_->decoder.logits(row);
    logits.insert(logits.end(), from, from + state_->vocab);
  }
  return logits;
}

}  // namespace tgv::test
