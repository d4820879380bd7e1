// Where every tensor of a backbone lies in one block of memory: matrices in the order a decoder
// step streams them, then what is read by row or held in cache.
//
//   layer 0: qkv, fc1, out, fc2; layer 1: ...; head; token embedding; norms and biases of all
//
// The plan follows from the architecture and the forms alone, so that a file that states these two
// needs no table of offsets that somebody would have to check.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/cpu/embedding.h"
#include "kernels/cpu/linear.h"
#include "model/architecture.h"

namespace tgv::model {

// How the matrices are stored.
struct Forms {
  struct Matrix {
    cpu::WeightKind kind = cpu::WeightKind::kInt4;
    int64_t group_size = 32;  // int4
    bool symmetric = true;    // int4
    bool operator==(const Matrix&) const = default;
  };
  Matrix body;
  Matrix head;
  cpu::EmbeddingKind embedding = cpu::EmbeddingKind::kInt8;
  bool operator==(const Forms&) const = default;
};

enum class Role : uint8_t { kMatrix, kEmbedding, kVector };

// One tensor. Named as in a model directory, without ".weight" for matrices and the embedding:
// "text.layers.3.attn.qkv", "text.embed", "text.layers.3.attn.qkv.bias", "text.final_norm.weight".
struct Entry {
  std::string name;
  Role role = Role::kVector;
  cpu::LinearShape matrix;  // of a matrix
  int64_t rows = 0;         // V of the embedding, length of a vector
  int64_t columns = 0;      // C of the embedding, 1 for a vector
  int64_t offset = 0;       // bytes from the start, a multiple of 64
  int64_t bytes = 0;
};

class Plan {
 public:
  Plan(const Architecture& architecture, const Forms& forms);  // throws InvalidArgument

  const Architecture& architecture() const { return architecture_; }
  const Forms& forms() const { return forms_; }
  int64_t bytes() const { return bytes_; }            // of everything
  int64_t step_bytes() const { return step_bytes_; }  // of all matrices, which each step reads once
  const std::vector<Entry>& entries() const { return entries_; }
  int64_t find(std::string_view name) const;  // index; throws InvalidArgument

 private:
  void add_matrix(std::string name, int64_t rows, int64_t columns, const Forms::Matrix& form);
  void add_vector(std::string name, int64_t length);
  void place(Entry entry, int64_t bytes);

  Architecture architecture_;
  Forms forms_;
  std::vector<Entry> entries_;
  int64_t bytes_ = 0;
  int64_t step_bytes_ = 0;
};

}  // namespace tgv::model
