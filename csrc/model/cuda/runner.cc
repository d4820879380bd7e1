#include "model/cuda/runner.h"

#include <algorithm>
#include <utility>

namespace tgv::model {

namespace {

// Of lists longer than these the logits come to the host. An array of each kind has room for the
// lists of all draws.
DrawLimits draw_limits_of(const Architecture& model, const CudaDecoderOptions& options) {
  DrawLimits limits;
  limits.draws = options.max_logit_rows;
  limits.history = std::min<int64_t>(model.max_positions, 8192) + 1024;
  limits.bias = 1024;
  limits.banned = 256;
  limits.top = std::min<int64_t>(cuda::kSamplingMaxTop, model.vocab);
  return limits;
}

size_t head_bytes_of(const Architecture& model, const CudaDecoderOptions& options) {
  return CudaSampler::head_bytes(model.vocab, draw_limits_of(model, options));
}

size_t logits_bytes(const Architecture& model, const CudaDecoderOptions& options) {
  return static_cast<size_t>(4 * options.max_logit_rows * model.vocab);
}

// Of a step that only decodes.
int64_t most_rows(const CudaDecoderOptions& options) {
  if (!options.graphs) return 0;
  return std::min({options.max_sequences, options.max_logit_rows, options.max_tokens});
}

int64_t rows_of(const DeviceSegment* segments, int64_t count) {
  int64_t rows = 0;
  for (int64_t i = 0; i < count; ++i) rows += segments[i].logit_rows;
  return rows;
}

}  // namespace

CudaRunner::Memory CudaRunner::memory_for(const Architecture& architecture, const CudaForms& forms,
                                          const CudaPageShape& pages,
                                          const CudaDecoderOptions& options) {
  const auto decoder = CudaDecoder::memory_for(architecture, forms, pages, options,
                                               head_bytes_of(architecture, options));
  const auto sampler =
      CudaSampler::memory_for(architecture.vocab, draw_limits_of(architecture, options));
  return {decoder.arena_bytes + sampler.arena_bytes,
          decoder.pinned_bytes + sampler.pinned_bytes + logits_bytes(architecture, options)};
}

CudaRunner::CudaRunner(std::shared_ptr<const CudaWeights> weights, const CudaPageShape& pages,
                       const CudaDecoderOptions& options)
    : storage_(pages),
      decoder_(weights, storage_, options, head_bytes_of(weights->architecture(), options)),
      sampler_(weights->architecture().vocab, draw_limits_of(weights->architecture(), options),
               decoder_.all_logits(), {decoder_.front_host(), decoder_.front_device()},
               decoder_.stream()),
      logits_(logits_bytes(weights->architecture(), options), "the logits of a step"),
      graphs_(most_rows(options)) {
  ahead_.reserve(static_cast<size_t>(options.max_logit_rows));
  graphs_.capture(stream(), [&](int64_t rows, bool draws) { launch_graph(rows, draws); });
}

size_t CudaRunner::arena_bytes() const {
  return decoder_.arena_bytes() + sampler_.arena_bytes() + logits_.bytes();
}

// --- launches -----------------------------------------------------------------------------------
CudaRunner::Launches CudaRunner::choose(const StepShape& shape, int64_t segments) const {
  Launches out;
  if (shape.tokens != segments || shape.logit_rows != shape.tokens) return out;
  out.rows = graphs_.rows_for(shape.tokens);
  out.draws = sampler_.count() > 0 && sampler_.count() <= out.rows && sampler_.top() == 0;
  return out;
}

// What a graph is captured of.
void CudaRunner::launch_graph(int64_t rows, bool draws) const {
  decoder_.launch(CudaDecoder::padded_shape(rows));
  if (draws) sampler_.launch_and_advance(rows, decoder_.inputs());
}

bool CudaRunner::launch(const StepShape& shape, const Launches& how,
                        const std::atomic<bool>* stop) const {
  if (!how.rows) {
    if (!decoder_.launch(shape, stop)) return false;
  }
  for (int64_t step = 0; how.rows && step < how.steps; ++step) {
    if (stop && stop->load(std::memory_order_relaxed)) return false;
    graphs_.run(stream(), how.rows, how.draws,
                [&](int64_t rows, bool draws) { launch_graph(rows, draws); });
  }
  if (!how.draws) sampler_.launch();
  return true;
}

// --- a step -------------------------------------------------------------------------------------
// The rows that are read on the host, neighbours in one copy.
void CudaRunner::start_reading(const DeviceSegment* segments, int64_t count) const {
  float* const to = reinterpret_cast<float*>(logits_.data());
  const int64_t vocab = decoder_.architecture().vocab;
  int64_t first = 0, end = 0;  // rows that wait to be copied
  for (int64_t i = 0; i < count; ++i) {
    const int64_t next = end + segments[i].logit_rows;
    if (!segments[i].reads_logits) {
      decoder_.start_reading(to + first * vocab, first, end - first);
      first = next;
    }
    end = next;
  }
  decoder_.start_reading(to + first * vocab, first, end - first);
}

// How far the furthest goes.
int64_t CudaRunner::read_ahead(const DeviceSegment* segments, int64_t count, const Draw* draws,
                               int64_t draw_count) {
  ahead_.clear();
  int64_t most = 0;
  for (int64_t i = 0; i < count; ++i) most = std::max(most, segments[i].ahead);
  if (most == 0) return 0;
  if (draw_count != count || most >= CudaSampler::kMostSteps) {
    throw InvalidArgument(concat(count, " segments with ", draw_count, " draws go ", most,
                                 " ahead, expected one draw of each and at most ",
                                 CudaSampler::kMostSteps - 1));
  }
  for (int64_t i = 0; i < count; ++i) ahead_.push_back(segments[i].ahead);
  sampler_.check_ahead(draws, draw_count, ahead_.data());
  return most;
}

int64_t CudaRunner::step(const DeviceSegment* segments, int64_t count, const Draw* draws,
                         int64_t draw_count, const std::atomic<bool>* stop) {
  sampler_.check(draws, draw_count, rows_of(segments, count));
  const int64_t ahead = read_ahead(segments, count, draws, draw_count);
  const StepShape& shape = decoder_.prepare(segments, count);
  sampler_.prepare(draws, draw_count, ahead > 0 ? ahead_.data() : nullptr);
  Launches how = choose(shape, count);
  if (how.draws) how.steps = ahead + 1;
  if (how.rows) decoder_.pad(how.rows);
  if (how.draws) sampler_.pad(how.rows);
  decoder_.upload();
  sampler_.upload_lists();
  const bool done = launch(shape, how, stop);
  if (done) {
    how.draws ? sampler_.start_download_of_steps(how.steps) : sampler_.start_download();
    start_reading(segments, count);
  }
  stream().wait();  // of a step that was given up or wants no logits, too
  return done ? how.steps : 0;
}

}  // namespace tgv::model
