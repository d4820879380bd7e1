#include "model/decoder.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <new>

#include "base/errors.h"
#include "kernels/cpu/norm.h"
#include "model/rotary.h"

namespace tgv::model {

namespace {

constexpr size_t kAlign = 64;
constexpr int64_t kItemsPerWorker = 8;  // of attention in a sequence: even shares at the end

std::string layer_name(int64_t layer, const char* tensor) {
  return concat("text.layers.", layer, ".", tensor);
}

const DecoderOptions& checked(const DecoderOptions& options) {
  if (options.max_tokens < 1 || options.max_tokens > 65536) {
    throw InvalidArgument(concat("max_tokens is ", options.max_tokens, ", expected 1..65536"));
  }
  if (options.max_logit_rows < 1 || options.max_logit_rows > options.max_tokens) {
    throw InvalidArgument(concat("max_logit_rows is ", options.max_logit_rows,
                                 ", expected 1..max_tokens=", options.max_tokens));
  }
  if (!has_isa(options.isa))
    throw Unsupported("this CPU does not have the instruction set asked for");
  return options;
}

// Hands out aligned parts of a block whose size the first pass finds.
class Carver {
 public:
  explicit Carver(uint8_t* base) : base_(base) {}
  template <class T>
  void take(T*& out, size_t bytes) {
    out = base_ ? reinterpret_cast<T*>(base_ + used_) : nullptr;
    used_ += (bytes + kAlign - 1) / kAlign * kAlign;
  }
  size_t used() const { return used_; }

 private:
  uint8_t* base_;
  size_t used_ = 0;
};

}  // namespace

// --- construction
// ---------------------------------------------------------------------------------
struct Decoder::Buffers {
  float *x, *h, *qkv, *q, *mixed, *gelu, *attention, *mlp, *last, *logits;
  void *rounded_h, *rounded_mixed, *rounded_gelu, *rounded_last;
  uint8_t* attention_scratch;
  size_t attention_scratch_stride, bytes;
};

Decoder::Buffers Decoder::carve(uint8_t* base, const Plan& plan, const DecoderOptions& options,
                                int threads) {
  const Architecture& a = plan.architecture();
  const bool rounds = cpu::reads_rounded(plan.forms().body.kind);
  const size_t T = static_cast<size_t>(options.max_tokens);
  const size_t rows = static_cast<size_t>(options.max_logit_rows);
  const size_t C = static_cast<size_t>(a.width), F = static_cast<size_t>(a.mlp_width);
  Buffers b;
  Carver carver(base);
  carver.take(b.x, 4 * T * C);
  carver.take(b.h, 4 * T * C);
  carver.take(b.qkv, 12 * T * C);
  carver.take(b.q, 4 * T * C);
  carver.take(b.mixed, 4 * T * C);
  // Written rounded where the next product reads it so; the other stays null.
  b.gelu = nullptr;
  b.rounded_gelu = nullptr;
  if (rounds) {
    carver.take(b.rounded_gelu, cpu::linear_rounded_bytes(a.mlp_width, options.max_tokens));
  } else {
    carver.take(b.gelu, 4 * T * F);
  }
  carver.take(b.attention, 4 * T * C);
  carver.take(b.mlp, 4 * T * C);
  carver.take(b.last, 4 * rows * C);
  carver.take(b.logits, 4 * rows * static_cast<size_t>(a.vocab));
  carver.take(b.rounded_h, cpu::linear_rounded_bytes(a.width, options.max_tokens));
  carver.take(b.rounded_mixed, cpu::linear_rounded_bytes(a.width, options.max_tokens));
  carver.take(b.rounded_last, cpu::linear_rounded_bytes(a.width, options.max_logit_rows));
  const size_t scratch = cpu::paged_attention_scratch_bytes(a.head_dim);
  b.attention_scratch_stride = (scratch + kAlign - 1) / kAlign * kAlign;
  carver.take(b.attention_scratch, b.attention_scratch_stride * static_cast<size_t>(threads));
  b.bytes = carver.used();
  return b;
}

Decoder::Decoder(std::shared_ptr<const Weights> weights, const kv::Storage& pages, ThreadPool& pool,
                 const DecoderOptions& options)
    : weights_(std::move(weights)),
      pool_(pool),
      options_(checked(options)),
      architecture_(weights_->plan().architecture()),
      head_items_(std::min<int64_t>(architecture_.heads, kItemsPerWorker * pool.threads())),
      arena_(carve(nullptr, weights_->plan(), options_, pool.threads()).bytes),
      buffers_(std::make_unique<const Buffers>(
          carve(arena_.data(), weights_->plan(), options_, pool.threads()))) {
  const Architecture& a = architecture_;
  const kv::Shape& shape = pages.shape();
  if (shape.layers != a.layers || shape.heads != a.heads || shape.head_dim != a.head_dim) {
    throw InvalidArgument(concat("the cache has L=", shape.layers, ",H=", shape.heads,
                                 ",D=", shape.head_dim, ", the model L=", a.layers, ",H=", a.heads,
                                 ",D=", a.head_dim));
  }
  weights_->check_complete();
  read_layers(pages);
  make_rotary(cosines_, sines_, a);
  // Everything that a step appends to has its final capacity now.
  parts_.reserve(static_cast<size_t>(options_.max_tokens));
  inputs_.reserve(static_cast<size_t>(options_.max_tokens));
  logit_from_.reserve(static_cast<size_t>(options_.max_logit_rows));
}

void Decoder::read_layers(const kv::Storage& pages) {
  const Architecture& a = architecture_;
  const Weights& w = *weights_;
  for (int64_t l = 0; l < a.layers; ++l) {
    const auto linear = [&](const char* name, cpu::Activation activation) {
      return w.linear(layer_name(l, name), activation);
    };
    const auto vector = [&](const char* name, bool there) {
      return there ? w.vector(layer_name(l, name)) : nullptr;
    };
    Layer layer;
    layer.qkv = linear("attn.qkv", cpu::Activation::kNone);
    layer.fc1 = linear("mlp.fc1", cpu::Activation::kGeluTanh);
    layer.out = linear("attn.out", cpu::Activation::kNone);
    layer.fc2 = linear("mlp.fc2", cpu::Activation::kNone);
    layer.norm_weight = vector("norm.weight", true);
    layer.norm_bias = vector("norm.bias", true);
    layer.q_weight = vector("attn.q_norm.weight", a.qk_norm);
    layer.q_bias = vector("attn.q_norm.bias", a.qk_norm);
    layer.k_weight = vector("attn.k_norm.weight", a.qk_norm);
    layer.k_bias = vector("attn.k_norm.bias", a.qk_norm);
    layer.post_weight = vector("attn.post_norm.weight", a.post_attention_norm);
    layer.pages = pages.layer(l);
    layers_.push_back(layer);
  }
  head_ = w.linear("text.head", cpu::Activation::kNone);
  final_weight_ = w.vector("text.final_norm.weight");
  final_bias_ = w.vector("text.final_norm.bias");
  embedding_ = w.embedding();
  body_rounds_ = cpu::reads_rounded(w.plan().forms().body.kind);
  head_rounds_ = cpu::reads_rounded(w.plan().forms().head.kind);
}

Decoder::~Decoder() = default;

// --- a step
// ---------------------------------------------------------------------------------------
void Decoder::check(std::span<const Segment> segments) const {
  int64_t tokens = 0, rows = 0;
  for (const Segment& segment : segments) {
    const int64_t count = static_cast<int64_t>(segment.tokens.size());
    const int64_t last = segment.first_position + count;
    const int64_t covered = static_cast<int64_t>(segment.block_table.size()) * kv::kPageTokens;
    if (count < 1) throw InvalidArgument("a segment has no tokens, expected at least one");
    if (segment.first_position < 0 || last > architecture_.max_positions || last > covered) {
      throw InvalidArgument(concat("a segment has positions ", segment.first_position, "..",
                                   last - 1, ", the model has ", architecture_.max_positions,
                                   " and its block table ", covered));
    }
    if (segment.logit_rows < 0 || segment.logit_rows > count) {
      throw InvalidArgument(concat("logit_rows is ", segment.logit_rows, ", expected 0..", count));
    }
    for (const StepToken& token : segment.tokens) {
      if (!token.embedding && (token.id < 0 || token.id >= architecture_.vocab)) {
        throw InvalidArgument(
            concat("token id ", token.id, " is not in 0..", architecture_.vocab - 1));
      }
    }
    tokens += count;
    rows += segment.logit_rows;
  }
  if (tokens < 1 || tokens > options_.max_tokens || rows > options_.max_logit_rows) {
    throw InvalidArgument(concat("a step of ", tokens, " tokens and ", rows,
                                 " rows of logits, expected 1..", options_.max_tokens, " and 0..",
                                 options_.max_logit_rows));
  }
}

void Decoder::begin(std::span<const Segment> segments) {
  parts_.clear();
  inputs_.clear();
  logit_from_.clear();
  for (const Segment& segment : segments) {
    const int64_t first = static_cast<int64_t>(inputs_.size());
    parts_.push_back({segment, first});
    for (const StepToken& token : segment.tokens) inputs_.push_back(&token);
    const int64_t end = static_cast<int64_t>(inputs_.size());
    for (int64_t row = end - segment.logit_rows; row < end; ++row) logit_from_.push_back(row);
  }
  tokens_ = static_cast<int64_t>(inputs_.size());
  logit_count_ = static_cast<int64_t>(logit_from_.size());
}

bool Decoder::step(std::span<const Segment> segments, const std::atomic<bool>* stop) {
  check(segments);
  begin(segments);
  stop_ = stop;
  given_up_ = false;
  const int phases = static_cast<int>(architecture_.layers) * kLayerPhases + kTailPhases;
  pool_.run_phases(phases, [this](int phase, int worker) { run_phase(phase, worker); });
  return !given_up_;
}

const float* Decoder::logits(int64_t row) const {
  if (row < 0 || row >= logit_count_) {
    throw InvalidArgument(concat("logit row is ", row, ", the last step had ", logit_count_));
  }
  return buffers_->logits + row * architecture_.vocab;
}

void Decoder::run_phase(int phase, int worker) {
  if (stop_ && stop_->load(std::memory_order_relaxed)) {
    given_up_.store(true, std::memory_order_relaxed);
    return;
  }
  const int layer = phase / kLayerPhases;
  if (layer < static_cast<int>(architecture_.layers)) {
    run_layer(layer, static_cast<LayerPhase>(phase % kLayerPhases), worker);
  } else {
    run_tail(static_cast<TailPhase>(phase - layer * kLayerPhases));
  }
}

void Decoder::run_layer(int index, LayerPhase phase, int worker) {
  const Layer& layer = layers_[static_cast<size_t>(index)];
  const Buffers& b = *buffers_;
  const cpu::LinearInput h{b.h, tokens_, architecture_.width, b.rounded_h};
  const cpu::LinearInput mixed{b.mixed, tokens_, architecture_.width, b.rounded_mixed};
  const cpu::LinearInput gelu{b.gelu, tokens_, architecture_.mlp_width, b.rounded_gelu};
  switch (phase) {
    case kNorm:
      return by_rows(tokens_, [&](int64_t begin, int64_t end) {
        norm_rows(index, begin, end);
        if (rounds_with_norm()) cpu::linear_round(h, 0, cpu::linear_round_pieces(h), options_.isa);
      });
    case kRound:
      if (body_rounds_ && !rounds_with_norm()) round(h);
      return;
    case kIn:
      return multiply(std::array{cpu::LinearTask{layer.qkv, h, {b.qkv}},
                                 cpu::LinearTask{layer.fc1, h, {b.gelu, b.rounded_gelu}}});
    case kMix:
      return mix(layer, worker);
    case kRoundMixed:
      if (body_rounds_) round(mixed);
      return;
    case kOut:
      return multiply(std::array{cpu::LinearTask{layer.out, mixed, {b.attention}},
                                 cpu::LinearTask{layer.fc2, gelu, {b.mlp}}});
    case kLayerPhases:
      break;
  }
}

void Decoder::run_tail(TailPhase phase) {
  const Buffers& b = *buffers_;
  const cpu::LinearInput last{b.last, logit_count_, architecture_.width, b.rounded_last};
  if (logit_count_ == 0) return;
  switch (phase) {
    case kFinalNorm:
      return by_rows(logit_count_, [&](int64_t begin, int64_t end) { final_rows(begin, end); });
    case kRoundFinal:
      if (head_rounds_) round(last);
      return;
    case kHead:
      return multiply(std::array{cpu::LinearTask{head_, last, {b.logits}}});
    case kTailPhases:
      break;
  }
}

// body(begin, end) over rows in claims small enough that all threads get some.
template <class Body>
void Decoder::by_rows(int64_t count, const Body& body) {
  const int64_t share = std::max<int64_t>(1, count / (4 * pool_.threads()));
  for (int64_t i; (i = pool_.claim(share)) < count;) body(i, std::min(i + share, count));
}

// The residual stream up to layer `index`, and its norm.
void Decoder::norm_rows(int index, int64_t begin, int64_t end) {
  const int64_t C = architecture_.width;
  const Layer& layer = layers_[static_cast<size_t>(index)];
  if (index == 0) {
    for (int64_t m = begin; m < end; ++m) embed_row(m);
  } else {
    add_layer(layers_[static_cast<size_t>(index) - 1], begin, end - begin);
  }
  cpu::layer_norm(buffers_->h + begin * C, buffers_->x + begin * C, layer.norm_weight,
                  layer.norm_bias, C, architecture_.norm_eps, end - begin, options_.isa);
}

void Decoder::embed_row(int64_t row) {
  const StepToken& token = *inputs_[static_cast<size_t>(row)];
  float* x = buffers_->x + row * architecture_.width;
  if (token.embedding) {
    std::copy_n(token.embedding, architecture_.width, x);
  } else {
    cpu::embed(x, embedding_, &token.id, 1);
  }
}

// x += RMSNorm(attention) + mlp of a finished layer.
void Decoder::add_layer(const Layer& layer, int64_t row, int64_t count) {
  const int64_t at = row * architecture_.width;
  cpu::add_branches(buffers_->x + at, buffers_->attention + at, layer.post_weight,
                    architecture_.rms_norm_eps, buffers_->mlp + at, architecture_.width, count,
                    options_.isa);
}

void Decoder::final_rows(int64_t begin, int64_t end) {
  const int64_t C = architecture_.width;
  for (int64_t i = begin; i < end; ++i) {
    const int64_t row = logit_from_[static_cast<size_t>(i)];
    add_layer(layers_.back(), row, 1);
    cpu::layer_norm(buffers_->last + i * C, buffers_->x + row * C, final_weight_, final_bias_, C,
                    architecture_.norm_eps, 1, options_.isa);
  }
}

// Attention of every segment by ranges of heads.
void Decoder::mix(const Layer& layer, int worker) {
  const int64_t items = static_cast<int64_t>(parts_.size()) * head_items_;
  for (int64_t i; (i = pool_.claim(1)) < items;) attend(layer, i, worker);
}

void Decoder::attend(const Layer& layer, int64_t item, int worker) {
  const Architecture& a = architecture_;
  const Part& part = parts_[static_cast<size_t>(item / head_items_)];
  const int64_t range = item % head_items_;
  const int64_t head = range * a.heads / head_items_, end = (range + 1) * a.heads / head_items_;
  const int64_t row = part.first_row * a.width;
  const int64_t tokens = static_cast<int64_t>(part.segment.tokens.size());

  cpu::QkvAppendParams append{};
  append.heads = a.heads;
  append.head_dim = a.head_dim;
  append.rotary_dims = a.rotary_dims;
  append.tokens = tokens;
  append.first_position = part.segment.first_position;
  append.qkv = buffers_->qkv + 3 * row;
  append.q = buffers_->q + row;
  append.pages = layer.pages;
  append.block_table = part.segment.block_table.data();
  append.q_weight = layer.q_weight;
  append.q_bias = layer.q_bias;
  append.k_weight = layer.k_weight;
  append.k_bias = layer.k_bias;
  append.eps = a.norm_eps;
  append.cos = cosines_.data();
  append.sin = sines_.data();
  cpu::qkv_append(append, head, end, options_.isa);

  cpu::PagedAttentionParams attention{};
  attention.heads = a.heads;
  attention.head_dim = a.head_dim;
  attention.tokens = tokens;
  attention.first_position = part.segment.first_position;
  attention.scale = 1.0f / std::sqrt(static_cast<float>(a.head_dim));
  attention.y = buffers_->mixed + row;
  attention.q = buffers_->q + row;
  attention.pages = layer.pages;
  attention.block_table = part.segment.block_table.data();
  uint8_t* scratch = buffers_->attention_scratch +
                     buffers_->attention_scratch_stride * static_cast<size_t>(worker);
  cpu::paged_attention(attention, head, end, 0, tokens, scratch, options_.isa);
}

void Decoder::round(const cpu::LinearInput& input) {
  const int64_t pieces = cpu::linear_round_pieces(input);
  for (int64_t i; (i = pool_.claim(1)) < pieces;) {
    cpu::linear_round(input, i, i + 1, options_.isa);
  }
}

void Decoder::multiply(std::span<const cpu::LinearTask> tasks) {
  const int64_t blocks = cpu::linear_row_blocks(tasks);
  const int workers = pool_.threads();
  for (;;) {
    const cpu::RowRange range = cpu::claim_rows(pool_.claim(1), blocks, workers);
    if (range.empty()) return;
    cpu::linear_rows(tasks, range.begin, range.end, options_.isa);
  }
}

}  // namespace tgv::model
