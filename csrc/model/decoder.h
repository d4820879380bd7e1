// One step of the decoder: new positions of any number of sequences in, K and V into their pages,
// logits of the rows that want them out.
//
// What     For each layer: h = LayerNorm(x); [q,k,v] = h Wqkv + b; mixed =
// attention(rotary(norm(q)),
//          pages); x += RMSNorm(mixed Wo + bo) + gelu_tanh(h W1 + b1) W2 + b2. Then final LayerNorm
//          and head, for the rows that want logits. (Original: modeling_phi.py.)
// Phases   Three read weights or the cache: [Wqkv | W1], attention, [Wo | W2]; between them rows
// are
//          normed and rounded. All phases of all layers are one ThreadPool::run_phases: threads are
//          woken once a step, work is claimed from a counter, and a barrier costs some 0.1 us.
// Memory   One arena, sized at construction. A step allocates nothing.
// Numerics A row's results depend on its own inputs, its pages and the weights alone: the same bits
//          whatever else is in the step, however a prompt is cut into steps, for any thread count.
// Threads  One step at a time; step() returns when all of it is done.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/huge_buffer.h"
#include "base/isa.h"
#include "base/thread_pool.h"
#include "kernels/cpu/linear.h"
#include "kernels/cpu/paged_attention.h"
#include "kernels/cpu/qkv_append.h"
#include "kv/storage.h"
#include "model/segment.h"
#include "model/weights.h"

namespace tgv::model {

struct DecoderOptions {
  int64_t max_tokens = 256;     // in a step, all segments together
  int64_t max_logit_rows = 16;  // in a step
  Isa isa = best_isa();
};

class Decoder {
 public:
  // The pages' shape must be the model's. Weights, pages and pool outlive the decoder. Throws
  // InvalidArgument, SystemError.
  Decoder(std::shared_ptr<const Weights> weights, const kv::Storage& pages, ThreadPool& pool,
          const DecoderOptions& options);

  ~Decoder();

  const Architecture& architecture() const { return architecture_; }
  const DecoderOptions& options() const { return options_; }
  size_t arena_bytes() const { return arena_.bytes(); }

  // Runs the segments. `stop` (may be null) is looked at in every phase; false: it was set and the
  // step was given up, K, V and logits of its tokens are worthless. Put long segments first: they
  // are begun first. Throws InvalidArgument if the step does not fit the options or the model.
  bool step(std::span<const Segment> segments, const std::atomic<bool>* stop = nullptr);

  // [V] of logit row `row` of the last step; rows are in the order of the segments.
  const float* logits(int64_t row) const;
  int64_t logit_rows() const { return logit_count_; }

 private:
  struct Layer {
    cpu::Linear qkv, fc1, out, fc2;
    const float *norm_weight, *norm_bias;
    const float *q_weight, *q_bias, *k_weight, *k_bias;  // null without q/k norm
    const float* post_weight;                            // null without the norm after attention
    cpu::KvPages pages;
  };
  struct Part {  // a segment and its first row in the step's [T, ...] buffers
    Segment segment;
    int64_t first_row = 0;
  };
  struct Buffers;  // of the arena, by name
  enum LayerPhase : int { kNorm, kRound, kIn, kMix, kRoundMixed, kOut, kLayerPhases };
  enum TailPhase : int { kFinalNorm, kRoundFinal, kHead, kTailPhases };

  static Buffers carve(uint8_t* base, const Plan& plan, const DecoderOptions& options, int threads);
  void read_layers(const kv::Storage& pages);
  void check(std::span<const Segment> segments) const;
  void begin(std::span<const Segment> segments);

  void run_phase(int phase, int worker);
  void run_layer(int index, LayerPhase phase, int worker);
  void run_tail(TailPhase phase);
  template <class Body>
  void by_rows(int64_t count, const Body& body);
  void norm_rows(int index, int64_t begin, int64_t end);
  void embed_row(int64_t row);
  void add_layer(const Layer& layer, int64_t row, int64_t count);
  void final_rows(int64_t begin, int64_t end);
  void mix(const Layer& layer, int worker);
  void attend(const Layer& layer, int64_t item, int worker);
  void round(const cpu::LinearInput& input);
  void multiply(std::span<const cpu::LinearTask> tasks);
  // One row: whoever norms it rounds it, too, and spares the others a barrier's worth of waiting.
  bool rounds_with_norm() const { return tokens_ == 1 && body_rounds_; }

  std::shared_ptr<const Weights> weights_;
  ThreadPool& pool_;
  const DecoderOptions options_;
  const Architecture architecture_;
  const int64_t head_items_;  // ranges of heads that attention is claimed by
  std::vector<Layer> layers_;
  cpu::Linear head_;
  cpu::EmbeddingTable embedding_;
  const float* final_weight_ = nullptr;
  const float* final_bias_ = nullptr;
  std::vector<float> cosines_, sines_;  // [max_positions, R/2]
  bool body_rounds_ = false, head_rounds_ = false;
  HugeBuffer arena_;
  const std::unique_ptr<const Buffers> buffers_;

  // of the step that runs; capacities are final
  std::vector<Part> parts_;
  std::vector<const StepToken*> inputs_;  // [T]
  std::vector<int64_t> logit_from_;       // its row, for each row of logits
  int64_t tokens_ = 0;
  int64_t logit_count_ = 0;
  const std::atomic<bool>* stop_ = nullptr;
  std::atomic<bool> given_up_{false};
};

}  // namespace tgv::model
