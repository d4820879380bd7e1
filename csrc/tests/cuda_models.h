// Small models on the emulated GPU, and the same weights on the CPU.
#pragma once

#include <cmath>
#include <memory>
#include <random>
#include <vector>

#include "base/float16.h"
#include "model/cpu_backend.h"
#include "model/cuda_backend.h"

namespace tgv::test {

using namespace tgv::model;

inline constexpr int64_t kVocab = 97, kWidth = 128, kMlp = 192, kLayers = 2;

inline model::Architecture architecture(int64_t vocab = kVocab) {
  model::Architecture a;
  a.width = kWidth, a.layers = kLayers, a.heads = 2, a.head_dim = 64, a.rotary_dims = 32;
  a.mlp_width = kMlp, a.vocab = vocab, a.max_positions = 192;
  return a;
}

// --- one model on both devices ------------------------------------------------------------------
inline Forms cpu_forms() {
  Forms forms;
  forms.body.kind = forms.head.kind = cpu::WeightKind::kF32;
  forms.embedding = cpu::EmbeddingKind::kF32;
  return forms;
}

inline CudaForms exact_forms() {
  CudaForms forms;
  forms.body.form = forms.head.form = CudaForm::kF32;
  forms.embedding = cuda::EmbeddingKind::kF32;
  return forms;
}

// Matrices keep the size of what they multiply; embeddings and logits have deviation 1.
inline std::vector<float> values_of(const Entry& entry, std::mt19937& random) {
  const bool is_matrix = entry.role == Role::kMatrix;
  const bool is_scale = entry.name.ends_with("norm.weight");
  const auto rows = is_matrix ? entry.matrix.rows : entry.rows;
  const auto columns = is_matrix ? entry.matrix.columns : entry.columns;
  const float deviation = is_matrix                        ? 1 / std::sqrt(float(columns))
                          : entry.role == Role::kEmbedding ? 1.0f
                                                           : 0.1f;
  std::normal_distribution<float> normal(is_scale ? 1.0f : 0.0f, deviation);
  std::vector<float> values(static_cast<size_t>(rows * columns));
  for (float& value : values) value = normal(random);
  return values;
}

struct Models {
  std::shared_ptr<const LoadedModel> cpu;
  std::shared_ptr<const LoadedModel> cuda;
};

inline Models make_models(const CudaTable& table, int64_t vocab = kVocab) {
  const Plan plan(architecture(vocab), cpu_forms());
  auto on_cpu = std::make_shared<Weights>(plan, "test");
  auto on_gpu = std::make_shared<CudaModel>(table, architecture(vocab), exact_forms(), "test");
  ThreadPool pool(1);
  std::mt19937 random(11);
  for (const Entry& entry : plan.entries()) {
    const std::vector<float> values = values_of(entry, random);
    MatrixSource source;
    source.f32 = values.data();
    switch (entry.role) {
      case Role::kMatrix:
        on_cpu->put_matrix(entry.name, source, pool);
        on_gpu->put_matrix(entry.name, source);
        break;
      case Role::kEmbedding:
        on_cpu->put_embedding(source);
        on_gpu->put_embedding(source);
        break;
      case Role::kVector:
        on_cpu->put_vector(entry.name, values);
        on_gpu->put_vector(entry.name, values);
        break;
    }
  }
  return {std::make_shared<CpuModel>(on_cpu), on_gpu};
}

// int4 weights and an int8 embedding, on the GPU alone: the CPU rounds activations in its own way.
inline std::shared_ptr<const LoadedModel> int4_model(const CudaTable& table) {
  const Plan plan(architecture(), Forms{});
  auto model = std::make_shared<CudaModel>(table, architecture(), CudaForms{}, "int4");
  std::mt19937 random(12);
  for (const Entry& entry : plan.entries()) {
    if (entry.role == Role::kVector) {
      model->put_vector(entry.name, values_of(entry, random));
      continue;
    }
    const bool is_matrix = entry.role == Role::kMatrix;
    const auto rows = static_cast<size_t>(is_matrix ? entry.matrix.rows : entry.rows);
    const auto columns = static_cast<size_t>(is_matrix ? entry.matrix.columns : entry.columns);
    std::vector<uint8_t> levels(rows * columns);  // half of them are read of int4
    for (uint8_t& level : levels) level = static_cast<uint8_t>(random());
    const float scale = 1 / 4.6f / std::sqrt(static_cast<float>(columns));  // levels deviate by 4.6
    const std::vector<uint16_t> scales(rows * columns / 32, float_to_half(scale));
    const std::vector<float> row_scales(rows, 1 / 74.0f);
    MatrixSource source;
    source.int4 = levels.data(), source.scales = scales.data();
    source.int8 = reinterpret_cast<const int8_t*>(levels.data());
    source.row_scales = row_scales.data();
    is_matrix ? model->put_matrix(entry.name, source) : model->put_embedding(source);
  }
  return model;
}

}  // namespace tgv::test
