#include "model/plan.h"

#include <algorithm>

#include "base/errors.h"

namespace tgv::model {

namespace {

constexpr int64_t kAlign = 64;
constexpr int64_t kMostBytes = int64_t{1} << 42;

int64_t embedding_bytes(cpu::EmbeddingKind kind, int64_t rows, int64_t columns) {
  switch (kind) {
    case cpu::EmbeddingKind::kF32:
      return 4 * rows * columns;
    case cpu::EmbeddingKind::kBF16:
      return 2 * rows * columns;
    case cpu::EmbeddingKind::kInt8:
      break;
  }
  return rows * columns + 4 * rows;  // the scales of rows, then the rows
}

std::string layer_name(int64_t layer, const char* tensor) {
  return concat("text.layers.", layer, ".", tensor);
}

}  // namespace

Plan::Plan(const Architecture& architecture, const Forms& forms)
    : architecture_(architecture), forms_(forms) {
  architecture.check();
  const Architecture& a = architecture_;
  for (int64_t l = 0; l < a.layers; ++l) {
    add_matrix(layer_name(l, "attn.qkv"), 3 * a.width, a.width, forms.body);
    add_matrix(layer_name(l, "mlp.fc1"), a.mlp_width, a.width, forms.body);
    add_matrix(layer_name(l, "attn.out"), a.width, a.width, forms.body);
    add_matrix(layer_name(l, "mlp.fc2"), a.width, a.mlp_width, forms.body);
  }
  add_matrix("text.head", a.vocab, a.width, forms.head);
  step_bytes_ = bytes_;

  Entry embedding;
  embedding.name = "text.embed";
  embedding.role = Role::kEmbedding;
  embedding.rows = a.vocab;
  embedding.columns = a.width;
  place(std::move(embedding), embedding_bytes(forms.embedding, a.vocab, a.width));

  for (int64_t l = 0; l < a.layers; ++l) {
    add_vector(layer_name(l, "norm.weight"), a.width);
    add_vector(layer_name(l, "norm.bias"), a.width);
    add_vector(layer_name(l, "attn.qkv.bias"), 3 * a.width);
    if (a.qk_norm) {
      for (const char* tensor :
           {"attn.q_norm.weight", "attn.q_norm.bias", "attn.k_norm.weight", "attn.k_norm.bias"}) {
        add_vector(layer_name(l, tensor), a.head_dim);
      }
    }
    add_vector(layer_name(l, "attn.out.bias"), a.width);
    if (a.post_attention_norm) add_vector(layer_name(l, "attn.post_norm.weight"), a.width);
    add_vector(layer_name(l, "mlp.fc1.bias"), a.mlp_width);
    add_vector(layer_name(l, "mlp.fc2.bias"), a.width);
  }
  add_vector("text.final_norm.weight", a.width);
  add_vector("text.final_norm.bias", a.width);
  add_vector("text.head.bias", a.vocab);
}

void Plan::add_matrix(std::string name, int64_t rows, int64_t columns, const Forms::Matrix& form) {
  Entry entry;
  entry.role = Role::kMatrix;
  entry.matrix = {form.kind, rows, columns, form.group_size, form.symmetric};
  if (const char* why = cpu::linear_shape_why_not(entry.matrix)) {
    throw InvalidArgument(concat(name, " [N=", rows, ",K=", columns, "]: ", why));
  }
  entry.name = std::move(name);
  const int64_t bytes = entry.matrix.packed_bytes();
  place(std::move(entry), bytes);
}

void Plan::add_vector(std::string name, int64_t length) {
  Entry entry;
  entry.name = std::move(name);
  entry.rows = length;
  entry.columns = 1;
  place(std::move(entry), 4 * length);
}

void Plan::place(Entry entry, int64_t bytes) {
  entry.offset = bytes_;
  entry.bytes = bytes;
  bytes_ += (bytes + kAlign - 1) / kAlign * kAlign;
  if (bytes_ > kMostBytes) throw InvalidArgument("the model is larger than any memory");
  entries_.push_back(std::move(entry));
}

int64_t Plan::find(std::string_view name) const {
  const auto at = std::find_if(entries_.begin(), entries_.end(),
                               [&](const Entry& entry) { return entry.name == name; });
  if (at == entries_.end()) {
    throw InvalidArgument(
        concat("'", std::string(name.substr(0, 80)), "' is not a tensor of this model"));
  }
  return at - entries_.begin();
}

}  // namespace tgv::model
