#include "model/weights.h"

#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstring>
#include <utility>

#include "base/errors.h"
#include "base/float16.h"
#include "model/packed_file.h"

namespace tgv::model {

namespace {

std::string checked_id(std::string id) {
  if (id.empty() || id.size() > Weights::kIdBytes || id.find('\0') != std::string::npos) {
    throw InvalidArgument(concat("id has ", id.size(), " characters, expected 1..",
                                 Weights::kIdBytes, " without a zero byte"));
  }
  return id;
}

// Names of partial files of this process never meet.
std::string partial_name(const std::string& path) {
  static std::atomic<uint64_t> count{0};
  return concat(path, ".", getpid(), ".", count++, ".partial");
}

template <class T>
const T* required(const T* pointer, std::string_view name, const char* what) {
  if (!pointer) {
    throw InvalidArgument(concat(std::string(name), " is given without its ", what));
  }
  return pointer;
}

}  // namespace

Weights::Weights(const Plan& plan, std::string id)
    : plan_(plan),
      id_(checked_id(std::move(id))),
      memory_(static_cast<size_t>(plan.bytes())),
      filled_(plan.entries().size(), false) {}

Weights::Weights(const Plan& plan, std::string id, Memory memory)
    : plan_(plan),
      id_(std::move(id)),
      memory_(std::move(memory)),
      filled_(plan.entries().size(), true) {}

std::shared_ptr<const Weights> Weights::load(const std::string& path, std::string_view expected_id,
                                             Mode mode, ThreadPool& pool) {
  const PackedFile file = PackedFile::open(path);
  const PackedHeader header = file.read_header();
  if (!expected_id.empty() && header.id != expected_id) {
    throw InvalidArgument(concat(path, " holds the weights of another model"));
  }
  const Plan plan(header.architecture, header.forms);
  if (static_cast<uint64_t>(plan.bytes()) != header.data_bytes) {
    throw InvalidArgument(concat(path, " is damaged: ", header.data_bytes,
                                 " bytes of weights, its sizes call for ", plan.bytes()));
  }
  const size_t bytes = static_cast<size_t>(header.data_bytes);
  Memory memory =
      mode == Mode::kMap ? Memory(file.descriptor(), kPackedHeaderBytes, bytes) : Memory(bytes);
  const uint64_t sum = mode == Mode::kMap
                           ? sum_of(memory.data(), header.data_bytes, pool)
                           : file.read_data(memory.writable(), header.data_bytes, pool);
  if (sum != header.data_sum) {
    throw InvalidArgument(concat(path, " is damaged: its weights do not have their sum"));
  }
  if (mode == Mode::kReadStreamed) {
    const Entry& rows = plan.entries()[static_cast<size_t>(plan.find("text.embed"))];
    memory.leave_in_file(static_cast<size_t>(rows.offset), static_cast<size_t>(rows.bytes),
                         file.descriptor(), kPackedHeaderBytes);
  }
  return std::shared_ptr<const Weights>(
      new Weights(plan, checked_id(header.id), std::move(memory)));
}

void Weights::save(const std::string& path, ThreadPool& pool) const {
  check_complete();
  PackedHeader header{plan_.architecture(), plan_.forms(), id_,
                      static_cast<uint64_t>(plan_.bytes()), 0};
  header.data_sum = sum_of(memory_.data(), header.data_bytes, pool);
  const std::string partial = partial_name(path);
  try {
    PackedFile::create(partial).write(header, memory_.data(), pool);
    if (std::rename(partial.c_str(), path.c_str())) {
      throw SystemError(concat("cannot rename to ", path, ": ", std::strerror(errno)));
    }
  } catch (...) {
    (void)unlink(partial.c_str());
    throw;
  }
}

const Entry& Weights::entry(std::string_view name, Role role) const {
  const Entry& entry = plan_.entries()[static_cast<size_t>(plan_.find(name))];
  if (entry.role != role) {
    throw InvalidArgument(
        concat("'", entry.name, "' is not of that kind (matrix, embedding or ", "vector)"));
  }
  return entry;
}

uint8_t* Weights::to_fill(std::string_view name, Role role) {
  const Entry& found = entry(name, role);
  const size_t index = static_cast<size_t>(&found - plan_.entries().data());
  if (filled_[index]) throw InvalidArgument(concat("'", found.name, "' was put before"));
  filled_[index] = true;
  return memory_.writable() + found.offset;
}

void Weights::put_matrix(std::string_view name, const MatrixSource& source, ThreadPool& pool) {
  const cpu::LinearShape& shape = entry(name, Role::kMatrix).matrix;
  const auto pack = [&](const auto& pack_blocks) {
    uint8_t* packed = to_fill(name, Role::kMatrix);
    pool.parallel_for(shape.row_blocks(), 8,
                      [&](int64_t begin, int64_t end) { pack_blocks(packed, begin, end); });
  };
  switch (shape.kind) {
    case cpu::WeightKind::kInt4: {
      cpu::Int4Source from;
      from.qweight = required(source.int4, name, "int4 levels");
      from.scales = required(source.scales, name, "scales");
      if (!shape.symmetric) from.zeros = required(source.zeros, name, "zeros");
      return pack([&](uint8_t* packed, int64_t begin, int64_t end) {
        cpu::linear_pack_int4(shape, packed, from, begin, end);
      });
    }
    case cpu::WeightKind::kInt8: {
      const int8_t* levels = required(source.int8, name, "int8 levels");
      const float* scales = required(source.row_scales, name, "scales of rows");
      return pack([&](uint8_t* packed, int64_t begin, int64_t end) {
        cpu::linear_pack_int8(shape, packed, levels, scales, begin, end);
      });
    }
    case cpu::WeightKind::kBF16:
    case cpu::WeightKind::kF32:
      break;
  }
  if (!source.f32 == !source.bf16) {
    throw InvalidArgument(concat(std::string(name), " is given as ",
                                 source.f32 ? "both" : "neither", " of f32 and bf16"));
  }
  pack([&](uint8_t* packed, int64_t begin, int64_t end) {
    if (source.f32) {
      cpu::linear_pack_f32(shape, packed, source.f32, begin, end);
    } else {
      cpu::linear_pack_bf16(shape, packed, source.bf16, begin, end);
    }
  });
}

void Weights::put_embedding(const MatrixSource& source) {
  const Entry& embedding = entry("text.embed", Role::kEmbedding);
  const size_t count = static_cast<size_t>(embedding.rows * embedding.columns);
  const size_t rows = static_cast<size_t>(embedding.rows);
  switch (plan_.forms().embedding) {
    case cpu::EmbeddingKind::kF32: {
      const float* values = required(source.f32, "text.embed", "f32 rows");
      std::memcpy(to_fill("text.embed", Role::kEmbedding), values, 4 * count);
      return;
    }
    case cpu::EmbeddingKind::kBF16: {
      if (source.f32) {
        uint16_t* codes = reinterpret_cast<uint16_t*>(to_fill("text.embed", Role::kEmbedding));
        for (size_t i = 0; i < count; ++i) codes[i] = float_to_bfloat16(source.f32[i]);
        return;
      }
      const uint16_t* values = required(source.bf16, "text.embed", "bf16 or f32 rows");
      std::memcpy(to_fill("text.embed", Role::kEmbedding), values, 2 * count);
      return;
    }
    case cpu::EmbeddingKind::kInt8:
      break;
  }
  const int8_t* levels = required(source.int8, "text.embed", "int8 rows");
  const float* scales = required(source.row_scales, "text.embed", "scales of rows");
  uint8_t* out = to_fill("text.embed", Role::kEmbedding);  // scales first: they need alignment
  std::memcpy(out, scales, 4 * rows);
  std::memcpy(out + 4 * rows, levels, count);
}

void Weights::put_vector(std::string_view name, std::span<const float> values) {
  const Entry& vector = entry(name, Role::kVector);
  if (static_cast<int64_t>(values.size()) != vector.rows) {
    throw InvalidArgument(
        concat(vector.name, " has ", values.size(), " elements, expected ", vector.rows));
  }
  std::memcpy(to_fill(name, Role::kVector), values.data(), values.size_bytes());
}

void Weights::check_complete() const {
  for (size_t i = 0; i < filled_.size(); ++i) {
    if (!filled_[i]) {
      throw InvalidArgument(concat("'", plan_.entries()[i].name, "' was never put"));
    }
  }
}

cpu::Linear Weights::linear(std::string_view name, cpu::Activation activation) const {
  const Entry& matrix = entry(name, Role::kMatrix);
  cpu::Linear out;
  out.shape = matrix.matrix;
  out.packed = at(matrix);
  out.bias = vector(concat(std::string(name), ".bias"));
  out.activation = activation;
  return out;
}

const float* Weights::vector(std::string_view name) const {
  return reinterpret_cast<const float*>(at(entry(name, Role::kVector)));
}

cpu::EmbeddingTable Weights::embedding() const {
  const Entry& embedding = entry("text.embed", Role::kEmbedding);
  cpu::EmbeddingTable table;
  table.kind = plan_.forms().embedding;
  table.vocab = embedding.rows;
  table.width = embedding.columns;
  table.rows = at(embedding);
  if (table.kind == cpu::EmbeddingKind::kInt8) {
    table.scales = reinterpret_cast<const float*>(at(embedding));
    table.rows = at(embedding) + 4 * embedding.rows;
  }
  return table;
}

}  // namespace tgv::model
