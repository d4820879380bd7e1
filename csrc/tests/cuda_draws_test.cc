// Draws of a step of the emulated CUDA backend beside the CPU's sampler on the same logits, what a
// step copies to the host, and draws that are refused.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <new>
#include <numeric>
#include <string>
#include <vector>

#include "kernels/cpu/sampling.h"
#include "model/cuda/draw_inputs.h"
#include "model/cuda/step.h"
#include "model/cuda_backend.h"
#include "tests/check.h"
#include "tests/cuda_models.h"
#include "tests/tolerance.h"

namespace {

std::atomic<int64_t> allocations{0};

}  // namespace

// Counts every allocation of the program. The sanitizers' own operators call malloc, too. Never
// inlined: the compiler would take the free() of one for a mismatch with the other.
[[gnu::noinline]] void* operator new(size_t bytes) {
  allocations.fetch_add(1, std::memory_order_relaxed);
  if (void* out = std::malloc(bytes)) return out;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* pointer) noexcept { std::free(pointer); }
[[gnu::noinline]] void operator delete(void* pointer, size_t) noexcept { std::free(pointer); }

namespace tgv::test {
namespace {

// More ids than a block has threads; fewer fibers would have to be many rows.
#if defined(__SANITIZE_THREAD__)
constexpr int64_t kIds = 150;
#else
constexpr int64_t kIds = 1100;
#endif
constexpr int64_t kRows = 8, kDraws = 72;

CudaRunnerHandle* last_runner = nullptr;

const CudaTable& table() {
  static const CudaTable watched = [] {
    CudaTable out = *tgv_cuda_model_table();
    out.make_runner = [](CudaRunnerHandle** made, const CudaModelHandle* model,
                         const CudaPageShape* pages, const CudaDecoderOptions* options,
                         CudaError* error) {
      const CudaStatus status =
          tgv_cuda_model_table()->make_runner(made, model, pages, options, error);
      last_runner = *made;
      return status;
    };
    return out;
  }();
  return watched;
}

const Models& models() {
  static const Models made = make_models(table(), kIds);
  return made;
}

// A backend and a text of kRows tokens, all of whose rows can be drawn from.
struct Rig {
  ThreadPool pool{1};
  std::unique_ptr<Backend> backend;
  std::vector<int32_t> pages = {2, 0};
  std::vector<StepToken> tokens;

  Rig() {
    BackendOptions options;
    options.pages = {4, kLayers, 2, 64, kv::Kind::kF32};
    options.max_tokens = options.max_logit_rows = kDraws;
    backend = models().cuda->make_backend(options, pool);
    for (int32_t i = 0; i < kRows; ++i) tokens.push_back({i * i % 97, nullptr});
  }

  int64_t downloaded() const { return counts().downloaded_bytes; }
  StreamCounts counts() const {
    StreamCounts out;
    table().stream_counts(last_runner, &out);
    return out;
  }

  // `read` of the rows come to the host, the rest stay. Bytes that the step copied.
  int64_t step(const std::vector<Draw>& draws, int64_t read = 0,
               const std::atomic<bool>* stop = nullptr) {
    const std::span<const StepToken> all(tokens);
    std::vector<Segment> segments;
    const auto at = static_cast<size_t>(read);
    if (read > 0) segments.push_back({pages, 0, all.first(at), read, true});
    if (read < kRows) segments.push_back({pages, read, all.subspan(at), kRows - read, false});
    const int64_t before = downloaded();
    CHECK_EQ(backend->step(segments, draws, stop), stop == nullptr);
    return downloaded() - before;
  }

  std::vector<std::vector<float>> logits() {
    step({}, kRows);
    std::vector<std::vector<float>> rows;
    for (int64_t row = 0; row < kRows; ++row) {
      const float* from = backend->logits(row);
      rows.emplace_back(from, from + kIds);
    }
    return rows;
  }
};

// --- the CPU's sampler on the same logits -------------------------------------------------------
struct alignas(64) Line {
  uint8_t bytes[64];
};

struct Expected {
  cpu::SampleResult token;
  std::vector<int32_t> top_ids;
  std::vector<float> top_logprobs;
};

Expected expected_of(const Draw& draw, const std::vector<float>& logits) {
  std::vector<std::pair<int32_t, float>> bias;
  for (int64_t i = 0; i < draw.bias_count; ++i) {
    bias.emplace_back(draw.bias[i].id, draw.bias[i].value);
  }
  cpu::SamplingParams p;
  p.temperature = draw.temperature;
  p.top_k = draw.top_k;
  p.top_p = draw.top_p;
  p.min_p = draw.min_p;
  p.repetition_penalty = draw.repetition_penalty;
  p.presence_penalty = draw.presence_penalty;
  p.frequency_penalty = draw.frequency_penalty;
  p.logit_bias = bias;
  p.banned = {draw.banned, static_cast<size_t>(draw.banned_count)};
  p.seed = draw.seed;
  p.sample = draw.sample;
  CHECK_EQ(cpu::sampling_why_not(p, kIds), std::string());
  std::vector<Line> scratch(cpu::sampling_scratch_bytes(kIds) / sizeof(Line) + 1);
  const std::span history(draw.history, static_cast<size_t>(draw.history_count));
  Expected out;
  out.token =
      cpu::sample({logits.data(), kIds, history, draw.position}, p, scratch.data(), Isa::kPortable);
  out.top_ids.resize(static_cast<size_t>(draw.top));
  out.top_logprobs.resize(static_cast<size_t>(draw.top));
  if (draw.top) {
    cpu::top_logprobs(out.top_ids.data(), out.top_logprobs.data(), draw.top, logits.data(), kIds,
                      scratch.data(), Isa::kPortable);
  }
  return out;
}

// Two sums of exponentials in float32, of up to V / 1024 and 38 terms in a chain here and of
// sampling.h's 24 there; logarithm and differences of numbers up to 16 round a few times.
constexpr double kLogprobTolerance = (kIds / 1024 + 1 + 38 + 24 + 4 * 16) * kFloatUnit;

void check_logprob(float got, float expected) {
  if (!(std::fabs(double{got} - expected) <= kLogprobTolerance)) {
    fail(__FILE__, __LINE__, concat("log-probability ", got, ", expected ", expected));
  }
}

void check_draw(const Drawn& got, const Draw& draw, const std::vector<float>& logits) {
  const Expected expected = expected_of(draw, logits);
  if (got.id != expected.token.id) {
    fail(__FILE__, __LINE__,
         concat("id ", got.id, ", expected ", expected.token.id, " (temperature ", draw.temperature,
                ", top_k ", draw.top_k, ", top_p ", draw.top_p, ", min_p ", draw.min_p, ")"));
  }
  if (got.id < 0) {
    CHECK(std::isnan(got.logprob));
  } else {
    check_logprob(got.logprob, expected.token.logprob);
  }
  for (size_t i = 0; i < expected.top_ids.size(); ++i) {
    CHECK_EQ(got.top_ids[i], expected.top_ids[i]);
    check_logprob(got.top_logprobs[i], expected.top_logprobs[i]);
  }
}

// --- draws --------------------------------------------------------------------------------------
// Lists that the draws below refer to.
struct Lists {
  std::vector<int32_t> history = {5, 7, 5, 90, 5, 140, 7, 0};
  std::vector<LogitBias> bias = {{3, -2.0f}, {9, 1.5f}, {9, 0.25f}, {140, 2.0f}};
  std::vector<int32_t> banned = {0, 1, 2, 3, 149};

  void give_history(Draw& draw, int64_t count) const {
    draw.history = history.data();
    draw.history_count = count;
  }
  void give_bias(Draw& draw) const {
    draw.bias = bias.data();
    draw.bias_count = static_cast<int64_t>(bias.size());
  }
  void give_banned(Draw& draw) const {
    draw.banned = banned.data();
    draw.banned_count = static_cast<int64_t>(banned.size());
  }
};

// Every combination of the filters, each with something of what changes logits and with a row that
// others draw from, too.
std::vector<Draw> grid(const Lists& lists) {
  std::vector<Draw> draws;
  for (const float temperature : {0.0f, 0.3f, 1.0f, 2.5f}) {
    for (const int64_t top_k : {0, 1, 40}) {
      for (const float top_p : {1.0f, 0.9f, 0.2f}) {
        for (const float min_p : {0.0f, 0.1f}) {
          const auto i = static_cast<int64_t>(draws.size());
          Draw draw;
          draw.row = (5 * i + 3) % kRows;
          draw.temperature = temperature;
          draw.top_k = top_k;
          draw.top_p = top_p;
          draw.min_p = min_p;
          draw.seed = 0x123456789abcdefull + static_cast<uint64_t>(i / 9);
          draw.sample = static_cast<uint32_t>(i % 3);
          draw.position = (int64_t{1} << 33) + i;
          draw.top = i % 4 == 1 ? i % 7 : 0;
          if (i % 5 == 1) draw.repetition_penalty = 1.4f;
          if (i % 5 == 2) draw.frequency_penalty = 0.3f;
          if (i % 5 == 3) draw.presence_penalty = -0.7f;
          if (i % 5 != 0) lists.give_history(draw, i % 9);
          if (i % 3 == 0) lists.give_bias(draw);
          if (i % 7 == 0) lists.give_banned(draw);
          draws.push_back(draw);
        }
      }
    }
  }
  return draws;
}

TEST(draws_are_the_cpus_over_a_grid_of_settings) {
  Rig rig;
  const std::vector<std::vector<float>> logits = rig.logits();
  const Lists lists;
  const std::vector<Draw> draws = grid(lists);
  CHECK_EQ(static_cast<int64_t>(draws.size()), kDraws);  // more than one launch takes
  rig.step(draws);
  int64_t not_the_best = 0;
  for (size_t i = 0; i < draws.size(); ++i) {
    const std::vector<float>& row = logits[static_cast<size_t>(draws[i].row)];
    const Drawn got = rig.backend->drawn(static_cast<int64_t>(i));
    check_draw(got, draws[i], row);
    not_the_best += got.id != std::max_element(row.begin(), row.end()) - row.begin();
  }
  CHECK(not_the_best > kDraws / 4);  // that the settings did something
}

// Counters, history and positions of the step before must not stay: twenty steps of changing draws.
TEST(steps_in_turn_are_the_cpus) {
  Rig rig;
  const std::vector<std::vector<float>> logits = rig.logits();
  Lists lists;
  for (int32_t step = 0; step < 20; ++step) {
    std::vector<Draw> draws(static_cast<size_t>(1 + step % 3));
    for (size_t i = 0; i < draws.size(); ++i) {
      draws[i].row = (step + static_cast<int64_t>(3 * i)) % kRows;
      draws[i].temperature = 1.2f;
      draws[i].top_p = step % 2 ? 0.95f : 1.0f;
      draws[i].position = step;
      draws[i].seed = i;
      draws[i].top = step % 3;
      draws[i].repetition_penalty = step % 2 ? 1.5f : 1.0f;
      lists.give_history(draws[i], static_cast<int64_t>(lists.history.size()));
    }
    rig.step(draws);
    for (size_t i = 0; i < draws.size(); ++i) {
      check_draw(rig.backend->drawn(static_cast<int64_t>(i)), draws[i],
                 logits[static_cast<size_t>(draws[i].row)]);
    }
    lists.history.push_back(rig.backend->drawn(0).id);
  }
}

TEST(nothing_left_to_choose_is_no_token) {
  Rig rig;
  const std::vector<std::vector<float>> logits = rig.logits();
  Lists lists;
  lists.bias = {{4, std::numeric_limits<float>::max()}};
  std::vector<Draw> draws(2);
  lists.give_bias(draws[0]);
  draws[1].row = 1;
  draws[1].repetition_penalty = 0.01f;
  lists.give_history(draws[1], 3);
  rig.step(draws);
  CHECK_EQ(rig.backend->drawn(0).id, 4);
  for (size_t i = 0; i < 2; ++i) {
    check_draw(rig.backend->drawn(static_cast<int64_t>(i)), draws[i], logits[i]);
  }
}

// --- what comes to the host ---------------------------------------------------------------------
TEST(a_step_copies_what_is_asked_for) {
  Rig rig;
  const Lists lists;
  std::vector<Draw> draws(3);
  lists.give_bias(draws[1]);
  CHECK_EQ(rig.step({}), 0);
  CHECK_EQ(rig.step({draws[0]}), 8);
  CHECK_EQ(rig.step(draws), 24);
  draws[2].top = 5;
  CHECK_EQ(rig.step(draws), 3 * (8 + 5 * 8));
  draws[2].top = 0;
  CHECK_EQ(rig.step(draws, 2), 24 + 2 * 4 * kIds);
  CHECK_EQ(rig.step({}, kRows), kRows * 4 * kIds);
  CHECK_THROWS(InvalidArgument, rig.backend->drawn(0), "draw is 0, the last step had 0");
}

TEST(rows_that_stay_are_not_read) {
  Rig rig;
  const std::vector<std::vector<float>> logits = rig.logits();
  rig.step({}, 3);
  for (int64_t row = 0; row < 3; ++row) {
    CHECK(std::equal(logits[static_cast<size_t>(row)].begin(),
                     logits[static_cast<size_t>(row)].end(), rig.backend->logits(row)));
  }
  CHECK_THROWS(InvalidArgument, rig.backend->logits(3), "of a segment that reads none");
  CHECK_THROWS(InvalidArgument, rig.backend->logits(kRows), "the last step had 8");
}

TEST(a_step_given_up_draws_nothing) {
  Rig rig;
  const std::atomic<bool> stop{true};
  CHECK_EQ(rig.step({Draw{}}, 0, &stop), 0);
  CHECK_THROWS(InvalidArgument, rig.backend->drawn(0), "the last step had 0");
}

// --- memory and refusals ------------------------------------------------------------------------
// Of the decoder's part of a step, too.
TEST(laying_out_segments_allocates_nothing) {
  StepLimits limits;
  limits.max_tokens = limits.max_logit_rows = limits.max_sequences = kRows;
  limits.max_positions = 192;
  limits.vocab = kIds, limits.width = kWidth, limits.pages = 16;
  StepInputs inputs(limits);
  std::vector<uint8_t> memory(inputs.bytes() + 256);
  uint8_t* const base =
      memory.data() + (256 - reinterpret_cast<uintptr_t>(memory.data()) % 256) % 256;
  const std::vector<int32_t> pages = {3, 1, 2, 0, 15};
  const std::vector<StepToken> tokens(3);
  const std::vector<DeviceSegment> segments = {{pages.data(), 5, 70, tokens.data(), 1, 1, false},
                                               {pages.data(), 5, 0, tokens.data(), 3, 1, true}};
  const int64_t before = allocations;
  inputs.fill(base, segments.data(), 2);
  const int64_t after = allocations;
  CHECK_EQ(after, before);
}

TEST(laying_out_draws_allocates_nothing) {
  const Lists lists;
  const std::vector<Draw> draws = grid(lists);
  DrawInputs inputs(kIds, {kDraws, 100, 10, 10, 64});
  std::vector<uint8_t> memory(inputs.head_bytes() + inputs.list_bytes() + 256);
  uint8_t* const base =
      memory.data() + (256 - reinterpret_cast<uintptr_t>(memory.data()) % 256) % 256;
  const int64_t before = allocations;
  inputs.check(draws.data(), kDraws, kRows);
  inputs.fill(base, base + inputs.head_bytes(), draws.data(), kDraws);
  const int64_t after = allocations;
  CHECK_EQ(after, before);
  size_t written = 0;
  for (const DrawInputs::Piece& piece : inputs.written()) {
    CHECK(piece.offset + piece.bytes <= inputs.list_bytes());
    written += piece.bytes;
  }
  CHECK(written < inputs.list_bytes());
}

// As many draws as there may be, with lists as long as they may be: the arrays take them.
TEST(the_longest_lists_fit) {
  Rig rig;
  const DrawLimits limits = rig.backend->draw_limits();
  CHECK_EQ(limits.draws, kDraws);
  const std::vector<int32_t> history(static_cast<size_t>(limits.history), 5);
  const std::vector<LogitBias> bias(static_cast<size_t>(limits.bias), {7, 1.0f});
  const std::vector<int32_t> banned(static_cast<size_t>(limits.banned), 9);
  Draw draw;
  draw.frequency_penalty = 0.001f;
  draw.history = history.data(), draw.history_count = limits.history;
  draw.bias = bias.data(), draw.bias_count = limits.bias;
  draw.banned = banned.data(), draw.banned_count = limits.banned;
  std::vector<Draw> draws(static_cast<size_t>(kDraws), draw);
  rig.step(draws);
  for (int64_t i = 0; i < kDraws; ++i) CHECK_EQ(rig.backend->drawn(i).id, 7);
}

TEST(draws_that_do_not_fit_are_refused_and_start_nothing) {
  Rig rig;
  const DrawLimits limits = rig.backend->draw_limits();
  Lists lists;
  const auto refused = [&](const Draw& draw, const char* part) {
    CHECK_THROWS(InvalidArgument, rig.step({Draw{}, draw}), part);
    CHECK_THROWS(InvalidArgument, rig.backend->drawn(0), "the last step had 0");
  };
  Draw draw;
  draw.row = kRows;
  refused(draw, "draws[1].row is 8, expected 0..7");
  draw = {};
  draw.top = 65;
  refused(draw, "draws[1].top is 65, expected 0..64");
  draw = {};
  draw.top_k = -1;
  refused(draw, "draws[1].top_k is -1");
  draw = {};
  lists.give_history(draw, limits.history + 1);
  refused(draw, "draws[1].history_count is");
  draw.history_count = 1;
  draw.history = nullptr;
  refused(draw, "draws[1].history is null");
  draw = {};
  lists.history[2] = static_cast<int32_t>(kIds);
  lists.give_history(draw, 3);
  refused(draw, "draws[1].history is");
  draw = {};
  std::swap(lists.bias[0], lists.bias[1]);
  lists.give_bias(draw);
  refused(draw, "draws[1].bias is 3, expected 9..");
  draw = {};
  lists.banned[4] = -1;
  lists.give_banned(draw);
  refused(draw, "draws[1].banned is -1");
  CHECK_THROWS(InvalidArgument, rig.step(std::vector<Draw>(kDraws + 1)),
               "the number of draws is 73, expected 0..72");
  CHECK_EQ(rig.step({Draw{}}), 8);
  CHECK_THROWS(InvalidArgument, DrawInputs(10, {0, 1, 1, 1, 1}), "draws is 0");
  CHECK_THROWS(InvalidArgument, DrawInputs(10, {1, 1, 1, 1, 11}), "top is 11, expected 0..10");
}

TEST(the_cpu_draws_nothing) {
  ThreadPool pool(1);
  BackendOptions options;
  options.pages = {4, kLayers, 2, 64, kv::Kind::kF32};
  const std::unique_ptr<Backend> backend = models().cpu->make_backend(options, pool);
  CHECK_EQ(backend->draw_limits().draws, 0);
  const std::vector<Draw> draws(2);
  CHECK_THROWS(InvalidArgument, backend->step({}, draws, nullptr), "a step of 2 draws");
  CHECK_THROWS(InvalidArgument, backend->drawn(0), "draw is 0");
}

}  // namespace
}  // namespace tgv::test

TEST_MAIN()
