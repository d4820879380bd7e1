// The weights of a backbone, packed: filled tensor by tensor once, kept in a file, read back whole.
//
// Knows tensors and files, not what computes with them. A Weights is written by one thread; once
// complete it never changes, and any number of decoders share it.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/isa.h"
#include "base/thread_pool.h"
#include "kernels/cpu/embedding.h"
#include "kernels/cpu/linear.h"
#include "model/matrix_source.h"
#include "model/memory.h"
#include "model/plan.h"

namespace tgv::model {

class Weights {
 public:
  static constexpr size_t kIdBytes = 64;

  // To be filled: memory for all of the plan, nothing in it. id: what names these weights to a file
  // and to the prefix cache; 1..64 characters. Throws InvalidArgument, SystemError.
  Weights(const Plan& plan, std::string id);

  // Complete, from a file that save() wrote. kRead reads it into huge-page memory with all threads
  // of the pool, kMap shares the system's copy of the file; kReadStreamed reads what every token
  // reads whole and leaves the token embedding, of which it reads a row, in the file. Nobody may
  // change a file in place that is mapped, in whole or in part. expected_id: "" takes any. Every
  // byte is checked against the sum in the file. Throws InvalidArgument for a file that is not what
  // it should be (with the reason), SystemError if it cannot be read.
  enum class Mode : uint8_t { kRead, kMap, kReadStreamed };
  static std::shared_ptr<const Weights> load(const std::string& path, std::string_view expected_id,
                                             Mode mode, ThreadPool& pool);

  // Writes `path` beside itself and renames it: the file is there whole or not at all. Throws
  // SystemError (nothing is left behind), InvalidArgument if incomplete.
  void save(const std::string& path, ThreadPool& pool) const;

  const Plan& plan() const { return plan_; }
  const std::string& id() const { return id_; }
  bool is_mapped() const { return memory_.is_mapped(); }

  // --- filling: each tensor once; all throw InvalidArgument -------------------------------------
  void put_matrix(std::string_view name, const MatrixSource& source, ThreadPool& pool);
  void put_embedding(const MatrixSource& source);  // int8, f32 or bf16
  void put_vector(std::string_view name, std::span<const float> values);
  void check_complete() const;  // names the first tensor that is missing

  // --- reading
  // ------------------------------------------------------------------------------------ The matrix
  // with its bias. `name` as in Entry.
  cpu::Linear linear(std::string_view name, cpu::Activation activation) const;
  const float* vector(std::string_view name) const;  // throws if the architecture has none such
  cpu::EmbeddingTable embedding() const;

 private:
  Weights(const Plan& plan, std::string id, Memory memory);
  const Entry& entry(std::string_view name, Role role) const;
  uint8_t* to_fill(std::string_view name, Role role);
  const uint8_t* at(const Entry& entry) const { return memory_.data() + entry.offset; }

  Plan plan_;
  std::string id_;
  Memory memory_;
  std::vector<bool> filled_;
};

}  // namespace tgv::model
