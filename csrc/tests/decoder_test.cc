// The decoder step: no allocation, the same bits for any number of threads, steps given up,
// refusals.
#include "model/decoder.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <memory>
#include <new>
#include <vector>

#include "base/errors.h"
#include "kv/kv_cache.h"
#include "model/cpu_backend.h"
#include "model/random_weights.h"
#include "tests/check.h"

namespace {

std::atomic<int64_t> allocations{0};

}  // namespace

// Counts every allocation of the program, of all threads. The sanitizers' own operators call
// malloc, too.
void* operator new(size_t bytes) {
  allocations.fetch_add(1, std::memory_order_relaxed);
  if (void* out = std::malloc(bytes)) return out;
  throw std::bad_alloc();
}
void* operator new(size_t bytes, std::align_val_t alignment) {
  allocations.fetch_add(1, std::memory_order_relaxed);
  const size_t to = static_cast<size_t>(alignment);
  if (void* out = std::aligned_alloc(to, (bytes + to - 1) / to * to)) return out;
  throw std::bad_alloc();
}
void operator delete(void* pointer) noexcept { std::free(pointer); }
void operator delete(void* pointer, size_t) noexcept { std::free(pointer); }
void operator delete(void* pointer, std::align_val_t) noexcept { std::free(pointer); }
void operator delete(void* pointer, size_t, std::align_val_t) noexcept { std::free(pointer); }

namespace {

using namespace tgv;
using namespace tgv::model;

Architecture small() {
  Architecture a;
  a.width = 64, a.layers = 2, a.heads = 4, a.head_dim = 16, a.rotary_dims = 8;
  a.mlp_width = 96, a.vocab = 50, a.max_positions = 512;
  return a;
}

// A model, a cache and one sequence of it.
struct Rig {
  explicit Rig(int threads, cpu::WeightKind kind = cpu::WeightKind::kInt4)
      : pool(threads),
        weights(random_weights(small(), forms(kind), 7, pool)),
        cache({64, 2, 4, 16, kv::Kind::kI8}, "test"),
        decoder(weights, cache.storage(), pool, {64, 64, best_isa()}),
        sequence(cache.reserve({first_key, 500, 1})) {}

  static Forms forms(cpu::WeightKind kind) {
    Forms out;
    out.body.kind = out.head.kind = kind;
    return out;
  }

  // Appends `count` tokens and runs them; the caller commits.
  bool step(int64_t count, int64_t rows, const std::atomic<bool>* stop = nullptr) {
    const int64_t first = cache.length(sequence);
    tokens.clear();
    keys.clear();
    for (int64_t i = first; i < first + count; ++i) {
      tokens.push_back({static_cast<int32_t>(i * 7 % 50), nullptr});
      keys.push_back(-1 - i);
    }
    cache.append(sequence, keys);
    segments[0] = {cache.block_table(sequence), first, tokens, rows};
    return decoder.step(segments, stop);
  }

  std::vector<float> logits(int64_t row) const {
    return {decoder.logits(row), decoder.logits(row) + small().vocab};
  }

  const std::vector<int64_t> first_key{1};
  ThreadPool pool;
  std::shared_ptr<const Weights> weights;
  kv::KVCache cache;
  Decoder decoder;
  kv::SequenceId sequence;
  std::vector<StepToken> tokens;
  std::vector<int64_t> keys;
  std::vector<Segment> segments = std::vector<Segment>(1);
};

TEST(a_step_allocates_nothing) {
  for (const int threads : {1, 2}) {
    Rig rig(threads);
    CHECK(rig.step(40, 2));
    rig.cache.commit(rig.sequence);
    int64_t most = 0;
    for (int i = 0; i < 20; ++i) {
      const int64_t first = rig.cache.length(rig.sequence);
      rig.tokens.assign(1, {static_cast<int32_t>(i), nullptr});
      rig.keys.assign(1, -1 - first);
      rig.cache.append(rig.sequence, rig.keys);
      rig.segments[0] = {rig.cache.block_table(rig.sequence), first, rig.tokens, 1};
      const int64_t before = allocations;
      CHECK(rig.decoder.step(rig.segments));
      most = std::max(most, allocations - before);
      rig.cache.commit(rig.sequence);
    }
    CHECK(most == 0);
  }
}

// What the engine calls: the same bits, and nothing of its own on the way.
TEST(a_step_of_the_backend_is_the_decoders_and_allocates_nothing) {
  Rig rig(2);
  const CpuModel model(rig.weights);
  BackendOptions options;
  options.pages = rig.cache.shape();
  options.max_tokens = options.max_logit_rows = 64;
  const std::unique_ptr<Backend> backend = model.make_backend(options, rig.pool);
  for (int i = 0; i < 5; ++i) {
    CHECK(rig.step(i ? 1 : 20, 1));
    const int64_t before = allocations;
    const bool is_whole = backend->step(rig.segments, {}, nullptr);
    const float* logits = backend->logits(0);
    const int64_t after = allocations;
    CHECK(is_whole);
    CHECK_EQ(after, before);
    CHECK(std::equal(logits, logits + small().vocab, rig.decoder.logits(0)));
    rig.cache.commit(rig.sequence);
  }
  CHECK_THROWS(InvalidArgument, backend->logits(1), "logit row is 1");
  CHECK_THROWS(InvalidArgument, CpuModel(nullptr), "weights is null");
}

TEST(threads_and_chunks_change_no_bit) {
  Rig one(1);
  CHECK(one.step(48, 48));
  for (const int threads : {2, 3}) {
    Rig other(threads);
    for (int64_t at = 0; at < 48; at += 6) {
      CHECK(other.step(6, 6));
      other.cache.commit(other.sequence);
      for (int64_t row = 0; row < 6; ++row) CHECK(other.logits(row) == one.logits(at + row));
    }
  }
}

TEST(a_step_given_up_leaves_the_sequence_usable) {
  Rig plain(2), stopped(2);
  std::atomic<bool> stop{true};
  CHECK(!stopped.step(10, 1, &stop));
  stopped.cache.truncate(stopped.sequence, 0);
  stop = false;
  CHECK(stopped.step(10, 1, &stop));
  CHECK(plain.step(10, 1));
  CHECK(stopped.logits(0) == plain.logits(0));
}

TEST(embeddings_in_place_of_ids) {
  Rig ids(1), vectors(1);
  CHECK(ids.step(3, 1));
  std::vector<float> rows(3 * 64);
  const cpu::EmbeddingTable table = vectors.weights->embedding();
  for (int64_t i = 0; i < 3; ++i) {
    const int32_t id = static_cast<int32_t>(i * 7 % 50);
    cpu::embed(rows.data() + i * 64, table, &id, 1);
    vectors.tokens.push_back({-1, rows.data() + i * 64});
    vectors.keys.push_back(-1 - i);
  }
  vectors.cache.append(vectors.sequence, vectors.keys);
  vectors.segments[0] = {vectors.cache.block_table(vectors.sequence), 0, vectors.tokens, 1};
  CHECK(vectors.decoder.step(vectors.segments));
  CHECK(ids.logits(0) == vectors.logits(0));
}

TEST(what_does_not_fit_is_refused) {
  Rig rig(1);
  CHECK_THROWS(InvalidArgument, rig.step(65, 1), "65 tokens");
  rig.cache.truncate(rig.sequence, 0);
  CHECK_THROWS(InvalidArgument, rig.step(3, 4), "logit_rows is 4");
  rig.cache.truncate(rig.sequence, 0);
  CHECK(rig.step(3, 2));
  CHECK_THROWS(InvalidArgument, rig.decoder.logits(2), "logit row is 2");
  CHECK_THROWS(InvalidArgument, rig.decoder.step({}), "0 tokens");
  kv::KVCache other({8, 2, 4, 20, kv::Kind::kI8}, "test");
  CHECK_THROWS(InvalidArgument, Decoder(rig.weights, other.storage(), rig.pool, {}),
               "the cache has");
}

}  // namespace

TEST_MAIN()
