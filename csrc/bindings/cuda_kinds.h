// Names of what a GPU's kernels take, for the files of bindings/.
#pragma once

#include <string>

#include "base/errors.h"
#include "kernels/cuda/embedding.h"

namespace tgv::bindings {

// name: of the argument that has it, for the error.
inline cuda::EmbeddingKind embedding_kind(const char* name, const std::string& kind) {
  if (kind == "int8") return cuda::EmbeddingKind::kI8;
  if (kind == "f16") return cuda::EmbeddingKind::kF16;
  if (kind == "bf16") return cuda::EmbeddingKind::kBF16;
  if (kind == "f32") return cuda::EmbeddingKind::kF32;
  throw InvalidArgument(
      tgv::concat(name, " is '", kind.substr(0, 40), "', expected 'int8', 'f16', 'bf16' or 'f32'"));
}

}  // namespace tgv::bindings
