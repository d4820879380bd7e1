#include "model/cuda/sampler.h"

#include <algorithm>

namespace tgv::model {

namespace {

constexpr int64_t kDrawsAtOnce = 64;  // bounds the room for changed rows

size_t results_bytes(int64_t draws, int64_t top) {
  return static_cast<size_t>(draws * (8 + 8 * top));
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
  return {carve(vocab, inputs, nullptr).bytes,
          inputs.bytes() + results_bytes(limits.draws, limits.top)};
}

CudaSampler::CudaSampler(int64_t vocab, const DrawLimits& limits, const float* logits,
                         const DeviceStream& stream)
    : vocab_(vocab),
      logits_(logits),
      stream_(stream),
      inputs_(vocab, limits),
      staging_(inputs_.bytes(), "the draws of a step"),
      answers_(results_bytes(limits.draws, limits.top), "the tokens of a step"),
      arena_(carve(vocab, inputs_, nullptr).bytes, "a sampler"),
      buffers_(carve(vocab, inputs_, arena_.data())) {
  const int64_t rows = std::min(kDrawsAtOnce, limits.draws);
  zero(buffers_.counts, static_cast<size_t>(4 * rows * vocab), stream_);
  stream_.wait();
  // What the kernel cannot take should show now, not at the first step.
  count_ = 1;
  top_ = limits.top;
  const std::string why_not = cuda::sampling_why_not(params(0, 1));
  if (!why_not.empty()) throw InvalidArgument(concat("sampling: ", why_not));
  count_ = 0;
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
  carver.take(b.inputs, inputs.bytes());
  carver.take(b.results, results_bytes(limits.draws, limits.top));
  carver.take(b.rows, row_bytes);
  carver.take(b.counts, row_bytes);
  b.bytes = carver.used();
  return b;
}

cuda::SamplingParams CudaSampler::params(int64_t first, int64_t count) const {
  const DrawArrays in = inputs_.arrays(buffers_.inputs);
  const Arrays out(buffers_.results, count_, top_);
  cuda::SamplingParams p;
  p.sequences = static_cast<int32_t>(count);
  p.vocab = static_cast<int32_t>(vocab_);
  p.top = static_cast<int32_t>(top_);
  p.logits = logits_;
  p.logits_stride = vocab_;
  p.logit_rows = in.logit_rows + first;
  p.settings = in.settings + first;
  p.positions = in.positions + first;
  p.history = in.history;
  p.bias_ids = in.bias_ids;
  p.bias_values = in.bias_values;
  p.banned_ids = in.banned;
  p.row = buffers_.rows;
  p.counts = buffers_.counts;
  p.ids = out.ids + first;
  p.logprobs = out.logprobs + first;
  p.top_ids = out.top_ids + first * top_;
  p.top_logprobs = out.top_logprobs + first * top_;
  return p;
}

void CudaSampler::upload_inputs() const {
  for (const DrawInputs::Piece& piece : inputs_.written()) {
    if (piece.bytes == 0) continue;
    upload(buffers_.inputs + piece.offset, staging_.data() + piece.offset, piece.bytes, stream_);
  }
}

void CudaSampler::start(const Draw* draws, int64_t count) {
  count_ = count;
  top_ = 0;
  if (count == 0) return;
  for (int64_t i = 0; i < count; ++i) top_ = std::max(top_, draws[i].top);
  inputs_.fill(staging_.data(), draws, count);
  upload_inputs();
  cuda::Launch launch;
#if defined(__CUDACC__)
  launch.stream = stream_.get();
#endif
  for (int64_t first = 0; first < count; first += kDrawsAtOnce) {
    run_kernel(params(first, std::min(kDrawsAtOnce, count - first)), launch);
  }
  start_download(answers_.data(), buffers_.results, results_bytes(count, top_), stream_);
}

CudaSampler::Results CudaSampler::results() const {
  const Arrays in(answers_.data(), count_, top_);
  return {in.ids, in.logprobs, in.top_ids, in.top_logprobs, top_};
}

}  // namespace tgv::model
