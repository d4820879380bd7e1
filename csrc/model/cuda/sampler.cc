#include "model/cuda/sampler.h"

#include <algorithm>

namespace tgv::model {

namespace {

constexpr int64_t kDrawsAtOnce = 64;  // bounds the room for changed rows

size_t results_bytes(int64_t draws, int64_t top) {
  return static_cast<size_t>(draws * (8 + 8 * top));
}

size_t steps_bytes(int64_t draws) { return CudaSampler::kMostSteps * results_bytes(draws, 0); }

size_t answer_bytes(const DrawLimits& limits) {
  return std::max(results_bytes(limits.draws, limits.top), steps_bytes(limits.draws));
}

// Of `draws` draws with the `top` best each. Without gaps, so that they are one copy.
struct Arrays {
  int32_t* ids;         // [draws]
  float* logprobs;      // [draws]
  int32_t* top_ids;     // [draws, top]
  float* top_logprobs;  // [draws, top]

  Arrays(uint8_t* base, int64_t draws, int64_t top)
      : ids(reinterpret_cast<int32_t*>(base)),
        logprobs(reinterpret_cast<float*>(ids + draws)),
        top_ids(reinterpret_cast<int32_t*>(logprobs + draws)),
        top_logprobs(reinterpret_cast<float*>(top_ids + draws * top)) {}
};

}  // namespace

CudaSampler::Memory CudaSampler::memory_for(int64_t vocab, const DrawLimits& limits) {
  const DrawInputs inputs(vocab, limits);
  return {carve(vocab, inputs, nullptr).bytes, inputs.list_bytes() + answer_bytes(limits)};
}

size_t CudaSampler::head_bytes(int64_t vocab, const DrawLimits& limits) {
  return DrawInputs(vocab, limits).head_bytes();
}

CudaSampler::CudaSampler(int64_t vocab, const DrawLimits& limits, const float* logits,
                         const Head& head, const DeviceStream& stream)
    : vocab_(vocab),
      logits_(logits),
      head_(head),
      stream_(stream),
      inputs_(vocab, limits),
      staging_(inputs_.list_bytes(), "the draws of a step"),
      answers_(answer_bytes(limits), "the tokens of a step"),
      arena_(carve(vocab, inputs_, nullptr).bytes, "a sampler"),
      buffers_(carve(vocab, inputs_, arena_.data())) {
  const int64_t rows = std::min(kDrawsAtOnce, limits.draws);
  zero(buffers_.counts, static_cast<size_t>(4 * rows * vocab), stream_);
  stream_.wait();
  // What the kernel cannot take should show now, not at the first step.
  const std::string why_not = cuda::sampling_why_not(params({1, limits.top}, 0, 1));
  if (!why_not.empty()) throw InvalidArgument(concat("sampling: ", why_not));
}

CudaSampler::~CudaSampler() {
#if defined(__CUDACC__)
  (void)cudaStreamSynchronize(stream_.get());  // nothing may still use what goes now
#endif
}

CudaSampler::Buffers CudaSampler::carve(int64_t vocab, const DrawInputs& inputs, uint8_t* base) {
  const DrawLimits& limits = inputs.limits();
  const size_t row_bytes = static_cast<size_t>(4 * std::min(kDrawsAtOnce, limits.draws) * vocab);
  Buffers b{};
  DeviceCarver carver(base);
  carver.take(b.lists, inputs.list_bytes());
  carver.take(b.results, results_bytes(limits.draws, limits.top));
  carver.take(b.answers, steps_bytes(limits.draws));
  carver.take(b.rows, row_bytes);
  carver.take(b.counts, row_bytes);
  b.bytes = carver.used();
  return b;
}

cuda::SamplingParams CudaSampler::params(const Draws& all, int64_t first, int64_t count) const {
  const DrawHead head = inputs_.head(head_.device);
  const DrawLists lists = inputs_.lists(buffers_.lists);
  const Arrays out(buffers_.results, all.count, all.top);
  cuda::SamplingParams p;
  p.sequences = static_cast<int32_t>(count);
  p.vocab = static_cast<int32_t>(vocab_);
  p.top = static_cast<int32_t>(all.top);
  p.logits = logits_;
  p.logits_stride = vocab_;
  p.logit_rows = head.logit_rows + first;
  p.settings = head.settings + first;
  p.positions = head.positions + first;
  p.history = lists.history;
  p.bias_ids = lists.bias_ids;
  p.bias_values = lists.bias_values;
  p.banned_ids = lists.banned;
  p.row = buffers_.rows;
  p.counts = buffers_.counts;
  p.ids = out.ids + first;
  p.logprobs = out.logprobs + first;
  p.top_ids = out.top_ids + first * all.top;
  p.top_logprobs = out.top_logprobs + first * all.top;
  return p;
}

void CudaSampler::prepare(const Draw* draws, int64_t count, const int64_t* ahead) {
  count_ = count;
  top_ = 0;
  for (int64_t i = 0; i < count; ++i) top_ = std::max(top_, draws[i].top);
  inputs_.fill(head_.host, staging_.data(), draws, count, ahead);
}

void CudaSampler::pad(int64_t rows) {
  check_range("the number of padded draws", rows, count_, limits().draws);
  inputs_.pad(head_.host, count_, rows);
  count_ = rows;
}

void CudaSampler::upload_lists() const {
  for (const DrawInputs::Piece& piece : inputs_.written()) {
    if (piece.bytes == 0) continue;
    upload(buffers_.lists + piece.offset, staging_.data() + piece.offset, piece.bytes, stream_);
  }
}

void CudaSampler::launch(int64_t count, int64_t top) const {
  for (int64_t first = 0; first < count; first += kDrawsAtOnce) {
    run_kernel(params({count, top}, first, std::min(kDrawsAtOnce, count - first)),
               stream_.launch());
  }
}

void CudaSampler::launch_and_advance(int64_t rows, const StepArrays& step) const {
  launch(rows, 0);
  const DrawHead head = inputs_.head(head_.device);
  const Arrays drawn(buffers_.results, rows, 0);
  cuda::AdvanceParams p;
  p.rows = static_cast<int32_t>(rows);
  p.most_steps = static_cast<int32_t>(kMostSteps);
  p.drawn = drawn.ids;
  p.logprobs = drawn.logprobs;
  p.ids = step.ids;
  p.positions = step.positions;
  p.lengths = step.lengths;
  p.settings = head.settings;
  p.counters = head.positions;
  p.logit_rows = head.logit_rows;
  p.history = inputs_.lists(buffers_.lists).history;
  p.state = head.state;
  p.answers = buffers_.answers;
  p.steps = head.steps;
  run_kernel(p, stream_.launch());
}

void CudaSampler::start_download_of_steps(int64_t steps) {
  check_range("steps", steps, 1, kMostSteps);
  has_advanced_ = true;
  model::start_download(answers_.data(), buffers_.answers,
                        static_cast<size_t>(steps) * results_bytes(count_, 0), stream_);
}

void CudaSampler::start_download() {
  has_advanced_ = false;
  if (count_ == 0) return;
  model::start_download(answers_.data(), buffers_.results, results_bytes(count_, top_), stream_);
}

CudaSampler::Results CudaSampler::results() const {
  const Arrays in(answers_.data(), count_, top_);
  return {in.ids, in.logprobs, in.top_ids, in.top_logprobs, top_, has_advanced_ ? 2 * count_ : 0};
}

}  // namespace tgv::model
