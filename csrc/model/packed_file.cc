#include "model/packed_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include "base/errors.h"

namespace tgv::model {

namespace {

constexpr char kMagic[8] = {'T', 'G', 'V', 'P', 'A', 'C', 'K', '\n'};
constexpr uint32_t kVersion = 1;         // of the layout: packing order, plan or header changed
constexpr uint64_t kChunk = 2ull << 20;  // read, summed while it is in cache, and written at once
constexpr uint64_t kPrime = 0x9e3779b97f4a7c15ull;
constexpr size_t kIdBytes = 64;

// What lies in the file. Every field of a fixed size, no padding.
struct Stored {
  char magic[8];
  uint32_t version;
  uint32_t header_bytes;
  int64_t width, layers, heads, head_dim, rotary_dims, mlp_width, vocab, max_positions;
  double rope_theta;
  float norm_eps, rms_norm_eps;
  uint8_t qk_norm, post_attention_norm, embedding, body_kind, body_symmetric, head_kind,
      head_symmetric, zero;
  int64_t body_group, head_group;
  char id[kIdBytes];
  uint64_t data_bytes, data_sum;
  uint64_t header_sum;  // of everything before it
};
static_assert(sizeof(Stored) == 208 && sizeof(Stored) <= kPackedHeaderBytes);

// Four chains, so that the multiplications overlap; every step is a bijection of its chain.
uint64_t sum_chunk(const uint8_t* data, uint64_t bytes) {
  uint64_t chain[4] = {1, 2, 3, 4};
  const auto step = [&](int c, uint64_t word) {
    const uint64_t mixed = (chain[c] ^ word) * kPrime;
    chain[c] = mixed << 29 | mixed >> 35;
  };
  uint64_t at = 0;
  for (; at + 32 <= bytes; at += 32) {
    uint64_t words[4];
    std::memcpy(words, data + at, 32);
    for (int c = 0; c < 4; ++c) step(c, words[c]);
  }
  for (; at < bytes; ++at) step(0, data[at]);
  for (int c = 1; c < 4; ++c) step(0, chain[c]);
  return chain[0] ^ bytes;
}

// In order, so that swapped chunks are seen.
uint64_t join(const std::vector<uint64_t>& sums) {
  uint64_t all = sums.size();
  for (const uint64_t sum : sums) {
    const uint64_t mixed = (all ^ sum) * kPrime;
    all = mixed << 29 | mixed >> 35;
  }
  return all;
}

template <class Body>  // body(chunk, begin, bytes)
uint64_t by_chunks(uint64_t bytes, ThreadPool& pool, const Body& body) {
  std::vector<uint64_t> sums((bytes + kChunk - 1) / kChunk);
  pool.parallel_for(static_cast<int64_t>(sums.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const uint64_t first = static_cast<uint64_t>(i) * kChunk;
      sums[static_cast<size_t>(i)] = body(first, std::min(kChunk, bytes - first));
    }
  });
  return join(sums);
}

std::string reason() { return std::strerror(errno); }

[[noreturn]] void fail(const std::string& path, const char* what) {
  throw SystemError(concat("cannot ", what, " ", path, ": ", reason()));
}

void read_all(int descriptor, uint8_t* out, uint64_t bytes, uint64_t offset,
              const std::string& path) {
  while (bytes) {
    const ssize_t got = pread(descriptor, out, bytes, static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail(path, "read");
    if (got == 0) throw SystemError(concat("cannot read ", path, ": it became shorter"));
    out += got;
    offset += static_cast<uint64_t>(got);
    bytes -= static_cast<uint64_t>(got);
  }
}

void write_all(int descriptor, const uint8_t* data, uint64_t bytes, uint64_t offset,
               const std::string& path) {
  while (bytes) {
    const ssize_t put = pwrite(descriptor, data, bytes, static_cast<off_t>(offset));
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) fail(path, "write");
    data += put;
    offset += static_cast<uint64_t>(put);
    bytes -= static_cast<uint64_t>(put);
  }
}

Stored to_stored(const PackedHeader& header) {
  Stored s{};
  const Architecture& a = header.architecture;
  std::memcpy(s.magic, kMagic, sizeof(kMagic));
  s.version = kVersion;
  s.header_bytes = kPackedHeaderBytes;
  s.width = a.width, s.layers = a.layers, s.heads = a.heads, s.head_dim = a.head_dim;
  s.rotary_dims = a.rotary_dims, s.mlp_width = a.mlp_width, s.vocab = a.vocab;
  s.max_positions = a.max_positions, s.rope_theta = a.rope_theta;
  s.norm_eps = a.norm_eps, s.rms_norm_eps = a.rms_norm_eps;
  s.qk_norm = a.qk_norm, s.post_attention_norm = a.post_attention_norm;
  s.embedding = static_cast<uint8_t>(header.forms.embedding);
  s.body_kind = static_cast<uint8_t>(header.forms.body.kind);
  s.body_symmetric = header.forms.body.symmetric;
  s.body_group = header.forms.body.group_size;
  s.head_kind = static_cast<uint8_t>(header.forms.head.kind);
  s.head_symmetric = header.forms.head.symmetric;
  s.head_group = header.forms.head.group_size;
  std::memcpy(s.id, header.id.data(), std::min(header.id.size(), kIdBytes));
  s.data_bytes = header.data_bytes;
  s.data_sum = header.data_sum;
  s.header_sum = sum_chunk(reinterpret_cast<const uint8_t*>(&s), offsetof(Stored, header_sum));
  return s;
}

bool in_range(const Stored& s) {
  constexpr uint8_t kMostKind = static_cast<uint8_t>(cpu::WeightKind::kF32);
  constexpr uint8_t kMostEmbedding = 2;
  return s.qk_norm <= 1 && s.post_attention_norm <= 1 && s.body_symmetric <= 1 &&
         s.head_symmetric <= 1 && s.body_kind <= kMostKind && s.head_kind <= kMostKind &&
         s.embedding <= kMostEmbedding;
}

PackedHeader from_stored(const Stored& s) {
  PackedHeader header;
  Architecture& a = header.architecture;
  a.width = s.width, a.layers = s.layers, a.heads = s.heads, a.head_dim = s.head_dim;
  a.rotary_dims = s.rotary_dims, a.mlp_width = s.mlp_width, a.vocab = s.vocab;
  a.max_positions = s.max_positions, a.rope_theta = s.rope_theta;
  a.norm_eps = s.norm_eps, a.rms_norm_eps = s.rms_norm_eps;
  a.qk_norm = s.qk_norm, a.post_attention_norm = s.post_attention_norm;
  header.forms.embedding = static_cast<cpu::EmbeddingKind>(s.embedding);
  header.forms.body = {static_cast<cpu::WeightKind>(s.body_kind), s.body_group,
                       s.body_symmetric != 0};
  header.forms.head = {static_cast<cpu::WeightKind>(s.head_kind), s.head_group,
                       s.head_symmetric != 0};
  header.id.assign(s.id, strnlen(s.id, kIdBytes));
  header.data_bytes = s.data_bytes;
  header.data_sum = s.data_sum;
  return header;
}

}  // namespace

PackedFile::PackedFile(int descriptor, std::string path)
    : descriptor_(descriptor), path_(std::move(path)) {}

PackedFile::PackedFile(PackedFile&& other) noexcept
    : descriptor_(std::exchange(other.descriptor_, -1)), path_(std::move(other.path_)) {}

PackedFile::~PackedFile() {
  if (descriptor_ >= 0) close(descriptor_);
}

PackedFile PackedFile::open(const std::string& path) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) fail(path, "open");
  return PackedFile(descriptor, path);
}

PackedFile PackedFile::create(const std::string& path) {
  const int descriptor = ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  if (descriptor < 0) fail(path, "create");
  return PackedFile(descriptor, path);
}

PackedHeader PackedFile::read_header() const {
  struct stat status;
  if (fstat(descriptor_, &status)) fail(path_, "examine");
  if (!S_ISREG(status.st_mode)) throw InvalidArgument(concat(path_, " is not a regular file"));
  if (status.st_size < kPackedHeaderBytes) {
    throw InvalidArgument(
        concat(path_, " has ", status.st_size, " bytes, which is too short for packed weights"));
  }
  Stored stored;
  read_all(descriptor_, reinterpret_cast<uint8_t*>(&stored), sizeof(stored), 0, path_);
  if (std::memcmp(stored.magic, kMagic, sizeof(kMagic))) {
    throw InvalidArgument(concat(path_, " is not a file of packed weights"));
  }
  if (stored.version != kVersion || stored.header_bytes != kPackedHeaderBytes) {
    throw InvalidArgument(concat(path_, " holds packed weights of version ", stored.version,
                                 ", expected ", kVersion, ": pack them again"));
  }
  const uint64_t sum =
      sum_chunk(reinterpret_cast<const uint8_t*>(&stored), offsetof(Stored, header_sum));
  if (sum != stored.header_sum || !in_range(stored)) {
    throw InvalidArgument(concat(path_, " is damaged: its header does not agree with itself"));
  }
  PackedHeader header = from_stored(stored);
  const uint64_t there = static_cast<uint64_t>(status.st_size - kPackedHeaderBytes);
  if (header.data_bytes != there) {
    throw InvalidArgument(concat(path_, " is cut short or padded: ", there,
                                 " bytes of weights, expected ", header.data_bytes));
  }
  return header;
}

uint64_t PackedFile::read_data(uint8_t* out, uint64_t bytes, ThreadPool& pool) const {
  return by_chunks(bytes, pool, [&](uint64_t first, uint64_t count) {
    read_all(descriptor_, out + first, count, kPackedHeaderBytes + first, path_);
    return sum_chunk(out + first, count);
  });
}

void PackedFile::write(const PackedHeader& header, const uint8_t* data, ThreadPool& pool) {
  uint8_t page[kPackedHeaderBytes] = {};
  const Stored stored = to_stored(header);
  std::memcpy(page, &stored, sizeof(stored));
  write_all(descriptor_, page, sizeof(page), 0, path_);
  by_chunks(header.data_bytes, pool, [&](uint64_t first, uint64_t count) {
    write_all(descriptor_, data + first, count, kPackedHeaderBytes + first, path_);
    return uint64_t{0};
  });
  if (fsync(descriptor_)) fail(path_, "write");
}

uint64_t sum_of(const uint8_t* data, uint64_t bytes, ThreadPool& pool) {
  return by_chunks(bytes, pool,
                   [&](uint64_t first, uint64_t count) { return sum_chunk(data + first, count); });
}

}  // namespace tgv::model
