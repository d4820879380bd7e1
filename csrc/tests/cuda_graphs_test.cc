// Steps replayed as captured graphs beside the same steps launched kernel by kernel: the same bits
// of tokens, log-probabilities, logits and pages. Compiled for the emulation and, by nvcc, for a
// GPU.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "base/float16.h"
#include "model/cuda/runner.h"
#include "tests/check.h"
#include "tests/schedules.h"

namespace tgv::test {
namespace {

using namespace tgv::model;
using cuda::KvKind;
using Role = CudaTensor::Role;

constexpr int kMost = 9;  // sequences

Architecture architecture() {
  Architecture a;
  a.layers = 2, a.heads = 2, a.head_dim = 64, a.width = 128, a.rotary_dims = 32;
  a.mlp_width = 192, a.vocab = 97, a.max_positions = 192;
  return a;
}

CudaForms forms_of(CudaForm form) {
  CudaForms forms;
  forms.body.form = forms.head.form = form;
  forms.embedding = form == CudaForm::kF32 ? cuda::EmbeddingKind::kF32 : cuda::EmbeddingKind::kI8;
  return forms;
}

// --- weights of any bits that keep the size of what they multiply -------------------------------
struct Numbers {
  std::vector<uint8_t> bytes;
  std::vector<uint16_t> scales;
  std::vector<float> values, row_scales;

  Numbers(const CudaTensor& t, std::mt19937& random) {
    const auto count = static_cast<size_t>(t.rows * t.columns);
    const float size = 1 / std::sqrt(static_cast<float>(t.columns));
    const bool weight = t.role == Role::kVector && t.name.find("norm.weight") != std::string::npos;
    std::normal_distribution<float> normal(weight ? 1.0f : 0.0f, t.columns > 1 ? size : 0.1f);
    bytes.resize(count);
    values.resize(count);
    for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random());
    for (float& value : values) value = normal(random);
    scales.assign(count / 32 + 1, float_to_half(size / 4.6f));  // levels of deviation 4.6
    row_scales.assign(static_cast<size_t>(t.rows), size / 74.0f);
  }

  MatrixSource source(bool is_f32) const {
    MatrixSource out;
    out.int4 = bytes.data(), out.scales = scales.data();
    out.int8 = reinterpret_cast<const int8_t*>(bytes.data()), out.row_scales = row_scales.data();
    if (is_f32) out.f32 = values.data();
    return out;
  }
};

std::shared_ptr<const CudaWeights> make_weights(CudaForm form) {
  auto weights = std::make_shared<CudaWeights>(architecture(), forms_of(form));
  std::mt19937 random(4);
  for (const CudaTensor& t : weights->tensors()) {
    const Numbers numbers(t, random);
    const bool is_f32 = form != CudaForm::kInt4 && form != CudaForm::kInt8;
    if (t.role == Role::kMatrix) weights->put_matrix(t.name, numbers.source(is_f32));
    if (t.role == Role::kEmbedding) weights->put_embedding(numbers.source(form == CudaForm::kF32));
    if (t.role == Role::kVector) weights->put_vector(t.name, numbers.values.data(), t.rows);
  }
  return weights;
}

// --- sequences and their steps ------------------------------------------------------------------
CudaDecoderOptions options_of(bool graphs) {
  CudaDecoderOptions options;
  options.max_tokens = 64;
  options.max_logit_rows = 16;
  options.max_sequences = kMost;
  options.graphs = graphs;
  return options;
}

// A runner and sequences over it, each with pages that no other has.
struct Rig {
  static constexpr int64_t kPages = 12;  // of a sequence

  Rig(const std::shared_ptr<const CudaWeights>& weights, KvKind kind, bool graphs)
      : runner(weights, {kMost * kPages, 2, 2, 64, kind}, options_of(graphs)), lengths(kMost, 0) {
    for (int s = 0; s < kMost; ++s) {
      tables.emplace_back();
      for (int i = 0; i < kPages; ++i) {
        tables.back().push_back(i * kMost + s);
      }
    }
  }

  // `count` new tokens of sequence s.
  // id: of a single token, if it is to be another than its position's.
  void add(int s, int64_t count, int64_t logit_rows, bool reads_logits, int64_t ahead = 0,
           int32_t given = -1) {
    const auto at = static_cast<size_t>(s);
    tokens.emplace_back();
    for (int64_t i = 0; i < count; ++i) {
      const int64_t id = ((lengths[at] + i) * 7 + s * 31) % architecture().vocab;
      tokens.back().push_back({given >= 0 ? given : static_cast<int32_t>(id), nullptr});
    }
    segments.push_back(
        {tables[at].data(), kPages, lengths[at], nullptr, count, logit_rows, reads_logits, ahead});
    lengths[at] += count;
  }

  int64_t run(const std::vector<Draw>& draws, const std::atomic<bool>* stop = nullptr) {
    for (size_t i = 0; i < segments.size(); ++i) segments[i].tokens = tokens[i].data();
    before = runner.stream().counts();
    const int64_t done = runner.step(segments.data(), static_cast<int64_t>(segments.size()),
                                     draws.data(), static_cast<int64_t>(draws.size()), stop);
    segments.clear();
    tokens.clear();
    return done;
  }

  // Everything that decoding could change.
  std::vector<uint8_t> pages() const {
    std::vector<uint8_t> out;
    const CudaPageShape& shape = runner.storage().shape();
    const auto add_plane = [&](const void* plane, int64_t bytes) {
      out.resize(out.size() + static_cast<size_t>(bytes));
      download(out.data() + out.size() - bytes, plane, static_cast<size_t>(bytes), runner.stream());
    };
    for (int64_t l = 0; l < shape.layers; ++l) {
      const CudaPages pages = runner.storage().layer(l);
      add_plane(pages.k, shape.pages * shape.plane_bytes());
      add_plane(pages.v, shape.pages * shape.plane_bytes());
      if (!shape.scales_bytes()) continue;
      add_plane(pages.k_scales, shape.pages * shape.scales_bytes());
      add_plane(pages.v_scales, shape.pages * shape.scales_bytes());
    }
    return out;
  }

  CudaRunner runner;
  std::vector<std::vector<int32_t>> tables;
  std::vector<int64_t> lengths;
  std::vector<DeviceSegment> segments;
  std::vector<std::vector<StepToken>> tokens;
  StreamCounts before;  // of the last step
};

struct Lists {
  std::vector<int32_t> history = {5, 7, 5, 90, 5, 11, 7, 0}, banned = {0, 1, 2};
  std::vector<LogitBias> bias = {{3, -2.0f}, {9, 1.5f}, {9, 0.25f}};
};

// Another for each row and step.
Draw draw_of(const Lists& lists, int64_t row, int64_t step, bool with_lists) {
  Draw draw;
  draw.row = row;
  draw.temperature = (row + step) % 3 ? 1.1f : 0.0f;
  draw.top_k = row % 4 == 1 ? 12 : 0;
  draw.top_p = row % 2 ? 0.9f : 1.0f;
  draw.seed = static_cast<uint64_t>(row);
  draw.position = 100 * row + step;
  if (!with_lists) return draw;
  draw.repetition_penalty = 1.3f;
  draw.history = lists.history.data();
  draw.history_count = (row + step) % 9;
  if (row % 2) draw.bias = lists.bias.data(), draw.bias_count = 3;
  if (row % 3 == 0) draw.banned = lists.banned.data(), draw.banned_count = 3;
  return draw;
}

// --- comparison ---------------------------------------------------------------------------------
template <class T>
bool same_bits(const T* a, const T* b, int64_t count) {
  return std::memcmp(a, b, static_cast<size_t>(count) * sizeof(T)) == 0;
}

void check_same_draws(const CudaRunner& a, const CudaRunner& b, int64_t draws) {
  const CudaSampler::Results x = a.drawn(), y = b.drawn();
  CHECK_EQ(x.top, y.top);
  CHECK(same_bits(x.ids, y.ids, draws));
  CHECK(same_bits(x.logprobs, y.logprobs, draws));
  CHECK(same_bits(x.top_ids, y.top_ids, draws * x.top));
  CHECK(same_bits(x.top_logprobs, y.top_logprobs, draws * x.top));
}

struct Both {
  Both(const std::shared_ptr<const CudaWeights>& weights, KvKind kind)
      : direct(weights, kind, false), replayed(weights, kind, true) {}

  // The same step on both; what it came to is compared.
  void step(const std::vector<Draw>& draws, bool reads_logits) {
    const size_t segments = direct.segments.size();
    CHECK(direct.run(draws));
    CHECK(replayed.run(draws));
    check_same_draws(direct.runner, replayed.runner, static_cast<int64_t>(draws.size()));
    if (!reads_logits) return;
    CHECK(same_bits(direct.runner.logits(), replayed.runner.logits(),
                    static_cast<int64_t>(segments) * architecture().vocab));
  }
  void add(int s, int64_t count, int64_t logit_rows, bool reads_logits = false) {
    direct.add(s, count, logit_rows, reads_logits);
    replayed.add(s, count, logit_rows, reads_logits);
  }
  // Prompts over a page's edge and of odd lengths, in two steps.
  void read_prompts(int count) {
    for (const int first : {0, 5}) {
      for (int s = first; s < std::min(count, first + 5); ++s) add(s, 7 + 3 * (s % 4), 0);
      if (!direct.segments.empty()) step({}, false);
    }
  }
  // One token of each of the first sequences, the last one first.
  void decode(int count, const std::vector<Draw>& draws, bool reads_logits = false) {
    for (int s = count - 1; s >= 0; --s) add(s, 1, 1, reads_logits);
    step(draws, reads_logits);
  }

  StreamCounts last() const {
    const StreamCounts now = replayed.runner.stream().counts(), then = replayed.before;
    return {now.uploads - then.uploads, now.launches - then.launches, now.graphs - then.graphs,
            now.downloads - then.downloads, now.downloaded_bytes - then.downloaded_bytes};
  }
  void check_last(int64_t uploads, int64_t launches, int64_t graphs, int64_t downloads) const {
    CHECK_EQ(last().uploads, uploads);
    CHECK_EQ(last().launches, launches);
    CHECK_EQ(last().graphs, graphs);
    CHECK_EQ(last().downloads, downloads);
  }
  void check_pages() const { CHECK(direct.pages() == replayed.pages()); }

  Rig direct, replayed;
};

std::vector<Draw> draws_of(const Lists& lists, int64_t rows, int64_t step, bool with_lists) {
  std::vector<Draw> out;
  for (int64_t row = 0; row < rows; ++row) out.push_back(draw_of(lists, row, step, with_lists));
  return out;
}

// Steps of n rows: with and without lists, rows read on the host, and all of it counted.
void check_batch(Both& both, int n) {
  const Lists lists;
  both.read_prompts(n);
  for (int64_t step = 0; step < 2; ++step) {
    both.decode(n, draws_of(lists, n, step, false));
    both.check_last(1, 0, 1, 1);
  }
  both.decode(n, draws_of(lists, n, 2, true));
  CHECK_EQ(both.last().graphs, 1);
  CHECK_EQ(both.last().launches, 0);
  CHECK(both.last().uploads <= 5);  // history, bias as two lists, bans
  both.decode(n, {}, true);
  both.check_last(1, 0, 1, 1);
  both.check_pages();
}

constexpr CudaForm kBothForms[] = {CudaForm::kF32, CudaForm::kInt4};
KvKind pages_of(CudaForm form) { return form == CudaForm::kF32 ? KvKind::kF32 : KvKind::kI8; }

TEST(every_number_of_rows_is_the_direct_step) {
  for (const CudaForm form : kBothForms) {
    const auto weights = make_weights(form);
    for (const int n : {1, 2, 3, 5, 8, 9}) {
      Both both(weights, pages_of(form));
      check_batch(both, n);
    }
  }
}

TEST(every_kind_of_page_is_the_direct_step) {
  const auto weights = make_weights(CudaForm::kInt4);
  for (int kind = 0; kind < cuda::kKvKinds; ++kind) {
    Both both(weights, static_cast<KvKind>(kind));
    check_batch(both, 3);
  }
}

TEST(other_forms_of_weights_are_the_direct_step) {
  for (const CudaForm form : {CudaForm::kInt8, CudaForm::kBF16}) {
    Both both(make_weights(form), KvKind::kF16);
    check_batch(both, 3);
  }
}

TEST(schedules_change_no_bit) {
  for (const CudaForm form : kBothForms) {
    const auto weights = make_weights(form);
    for_each_schedule([&] {
      Both both(weights, pages_of(form));
      const Lists lists;
      both.read_prompts(3);
      both.decode(3, draws_of(lists, 3, 0, true));
      both.decode(3, draws_of(lists, 3, 1, false));
      both.check_pages();
    });
  }
}

// Numbers of rows that change from step to step, prompts in between: what a larger step has left in
// padding rows must not matter.
TEST(steps_of_changing_sizes) {
  for (const CudaForm form : kBothForms) {
    Both both(make_weights(form), pages_of(form));
    const Lists lists;
    both.read_prompts(6);
    int64_t step = 0;
    for (const int n : {6, 3, 1, 5, 2}) {
      both.decode(n, draws_of(lists, n, step, step % 2 == 1));
      CHECK_EQ(both.last().graphs, 1);
      ++step;
    }
    both.add(7, 20, 1);
    both.add(1, 1, 1);
    both.step(draws_of(lists, 2, step, true), false);
    CHECK_EQ(both.last().graphs, 0);
    CHECK(both.last().launches > 10);
    both.decode(3, draws_of(lists, 3, 9, false));
    both.check_pages();
  }
}

TEST(best_ids_are_drawn_behind_the_decoders_graph) {
  Both both(make_weights(CudaForm::kInt4), KvKind::kI8);
  const Lists lists;
  both.read_prompts(3);
  std::vector<Draw> draws = draws_of(lists, 3, 0, false);
  draws[1].top = 5;
  both.decode(3, draws);
  both.check_last(1, 1, 1, 1);
  CHECK_EQ(both.last().downloaded_bytes, 3 * (8 + 5 * 8));
  std::vector<Draw> twice = draws_of(lists, 3, 1, false);  // more draws than rows of the graph
  for (int64_t i = 0; i < 3; ++i) twice.push_back(draw_of(lists, i, 5, false));
  both.decode(3, twice);
  both.check_last(1, 1, 1, 1);
  both.check_pages();
}

// --- several steps without the host -------------------------------------------------------------
// One row of a run, and the same row fed token by token.
struct Going {
  int sequence;
  int64_t ahead;
  Draw draw;
  std::vector<int32_t> ends, history;
  int32_t next = -1;
  bool is_over = false;

  Draw draw_of_step(int64_t step, int64_t row) const {
    Draw out = draw;
    out.row = row;
    out.position += step;
    out.history = history.data(), out.history_count = static_cast<int64_t>(history.size());
    if (draw.banned_steps <= step) out.banned_count = 0;
    out.end_ids = ends.data(), out.end_count = static_cast<int64_t>(ends.size());
    return out;
  }
  void take(int32_t id, int64_t step) {
    next = id;
    is_over = id < 0 || step == ahead || std::count(ends.begin(), ends.end(), id);
    if (draw.repetition_penalty != 1) history.push_back(id);
  }
};

std::vector<Going> going(const Lists& lists, int rows, int64_t most) {
  std::vector<Going> out;
  for (int r = 0; r < rows; ++r) {
    Going one{r, most - r % 3, draw_of(lists, r, 0, r % 2 == 1), {}, {}};
    one.draw.history = nullptr, one.draw.history_count = 0;
    if (r % 4 == 1) one.history = lists.history;
    one.draw.banned = lists.banned.data(), one.draw.banned_count = 3;
    one.draw.banned_steps = 1 + r % 3;
    out.push_back(one);
  }
  return out;
}

// The tokens of a run, step by step, of the host's own making.
struct Told {
  std::vector<std::vector<int32_t>> ids;
  std::vector<std::vector<float>> logprobs;
};

Told step_by_step(Rig& rig, std::vector<Going> rows) {
  Told told;
  const auto alive = [](const Going& one) { return !one.is_over; };
  for (int64_t step = 0; std::any_of(rows.begin(), rows.end(), alive); ++step) {
    std::vector<Draw> draws;
    for (const Going& one : rows) {
      if (one.is_over) continue;
      rig.add(one.sequence, 1, 1, false, 0, one.next);
      draws.push_back(one.draw_of_step(step, static_cast<int64_t>(draws.size())));
    }
    CHECK_EQ(rig.run(draws), 1);
    const CudaSampler::Results drawn = rig.runner.drawn();
    told.ids.emplace_back(rows.size(), -1);
    told.logprobs.emplace_back(rows.size(), 0.0f);
    size_t at = 0;
    for (size_t r = 0; r < rows.size(); ++r) {
      if (rows[r].is_over) continue;
      told.ids.back()[r] = drawn.ids[at];
      told.logprobs.back()[r] = drawn.logprobs[at];
      rows[r].take(drawn.ids[at++], step);
    }
  }
  return told;
}

Told without_the_host(Rig& rig, const std::vector<Going>& rows, int64_t steps) {
  std::vector<Draw> draws;
  for (const Going& one : rows) {
    rig.add(one.sequence, 1, 1, false, one.ahead);
    draws.push_back(one.draw_of_step(0, static_cast<int64_t>(draws.size())));
    draws.back().banned_steps = one.draw.banned_steps;
  }
  CHECK_EQ(rig.run(draws), steps);
  const CudaSampler::Results drawn = rig.runner.drawn();
  Told told;
  for (int64_t step = 0; step < steps; ++step) {
    const int32_t* ids = drawn.ids + step * drawn.stride;
    const float* logprobs = drawn.logprobs + step * drawn.stride;
    told.ids.emplace_back(ids, ids + rows.size());
    told.logprobs.emplace_back(logprobs, logprobs + rows.size());
    for (size_t r = 0; r < rows.size(); ++r) {
      if (told.ids.back()[r] < 0) told.logprobs.back()[r] = 0;
    }
  }
  return told;
}

// Ends: some rows end at the token they say second, as a run without ends has found.
void check_ahead(const std::shared_ptr<const CudaWeights>& weights, KvKind kind, int n,
                 int64_t most) {
  const Lists lists;
  std::vector<Going> rows = going(lists, n, most);
  for (const bool with_ends : {false, true}) {
    Both both(weights, kind);
    both.read_prompts(n);
    const Told expected = step_by_step(both.direct, rows);
    const Told got = without_the_host(both.replayed, rows, most + 1);
    CHECK_EQ(both.last().graphs, most + 1);
    CHECK_EQ(both.last().launches, 0);
    CHECK_EQ(both.last().downloads, 1);
    for (size_t step = 0; step < got.ids.size(); ++step) {
      const bool is_over = step >= expected.ids.size();  // all of them ended early
      for (size_t r = 0; r < rows.size(); ++r) {
        CHECK_EQ(got.ids[step][r], is_over ? -1 : expected.ids[step][r]);
        CHECK_EQ(got.logprobs[step][r], is_over ? 0.0f : expected.logprobs[step][r]);
      }
    }
    both.check_pages();
    if (with_ends) CHECK(got.ids[2][0] == -1);
    for (size_t r = 0; r < rows.size(); r += 2) rows[r].ends = {96, got.ids[1][r]};
  }
}

// Nine rows in the exact mode alone: elsewhere those that are left when one has ended are few
// enough for another kernel, whose rounding is its own.
TEST(steps_without_the_host_are_the_hosts) {
  const auto exact = make_weights(CudaForm::kF32), int4 = make_weights(CudaForm::kInt4);
  check_ahead(exact, KvKind::kF32, 9, 3);
  for (const int n : {3, 4}) check_ahead(int4, KvKind::kI8, n, 3);
  check_ahead(int4, KvKind::kF16, 1, 7);
}

TEST(steps_without_the_host_under_every_schedule) {
  const auto weights = make_weights(CudaForm::kInt4);
  for_each_schedule([&] { check_ahead(weights, KvKind::kI8, 3, 3); });
}

TEST(what_cannot_go_ahead_is_refused_or_goes_one_step) {
  const auto weights = make_weights(CudaForm::kInt4);
  Rig rig(weights, KvKind::kI8, true), direct(weights, KvKind::kI8, false);
  const auto run = [&](int64_t ahead, std::vector<Draw> draws) {
    rig.lengths.assign(kMost, 0);
    rig.segments.clear();
    rig.tokens.clear();
    rig.add(0, 1, 1, false, ahead);
    rig.add(1, 1, 1, false, 1);
    return rig.run(draws);
  };
  Draw second;
  second.row = 1;
  CHECK_EQ(run(2, {Draw{}, second}), 3);
  CHECK_THROWS(InvalidArgument, run(2, {Draw{}}), "2 segments with 1 draws go 2 ahead");
  CHECK_THROWS(InvalidArgument, run(8, {Draw{}, second}), "go 8 ahead");
  CHECK_THROWS(InvalidArgument, run(2, {second, Draw{}}), "draws[0].row is 1, expected 0..0");
  CHECK_THROWS(InvalidArgument, run(-1, {Draw{}, second}), "goes -1 ahead");
  Draw ends = second;
  ends.end_count = 9;
  CHECK_THROWS(InvalidArgument, run(2, {Draw{}, ends}), "draws[1].end_count is 9, expected 0..8");
  Draw best = second;
  best.top = 1;
  CHECK_EQ(run(2, {Draw{}, best}), 1);
  direct.add(0, 1, 1, false, 2);
  CHECK_EQ(direct.run({Draw{}}), 1);
}

TEST(a_step_given_up_runs_no_graph) {
  Both both(make_weights(CudaForm::kInt4), KvKind::kI8);
  both.read_prompts(2);
  const std::atomic<bool> stop{true};
  both.replayed.add(0, 1, 1, false);
  CHECK(!both.replayed.run({Draw{}}, &stop));
  CHECK_EQ(both.last().graphs, 0);
  both.replayed.lengths = both.direct.lengths;
  both.decode(2, draws_of({}, 2, 0, false));
  both.check_pages();
}

TEST(what_graphs_cost_is_known) {
  const Rig with(make_weights(CudaForm::kInt4), KvKind::kI8, true);
  const Rig without(make_weights(CudaForm::kInt4), KvKind::kI8, false);
  CHECK_EQ(with.runner.graph_cost().graphs, 2 * 5);  // 1, 2, 4, 8 and 9 rows
  CHECK(with.runner.graph_cost().seconds > 0);
  CHECK_EQ(without.runner.graph_cost().graphs, 0);
  if (kCanMutate) CHECK(with.runner.graph_cost().bytes > 0);
}

// --- that the tests above can fail --------------------------------------------------------------
#if !defined(__CUDACC__)

// A norm of `rows` rows, `rows` and the epsilon being what a step might tell a launch by value.
struct Norm {
  const DeviceStream& stream;
  std::vector<float> in = std::vector<float>(8, 1.5f), weight = std::vector<float>(4, 1.0f),
                     bias = std::vector<float>(4, 0.25f), out = std::vector<float>(8, -1.0f);
  int64_t rows = 1;
  float eps = 1e-5f;

  void launch() {
    alignas(16) static float memory[4][8];
    std::copy(in.begin(), in.end(), memory[0]);
    std::copy(weight.begin(), weight.end(), memory[1]);
    std::copy(bias.begin(), bias.end(), memory[2]);
    cuda::NormParams p;
    p.rows = rows, p.width = 4, p.eps = eps;
    p.residual = memory[0], p.weight = memory[1], p.bias = memory[2], p.y_float = memory[3];
    run_kernel(p, stream.launch());
  }
};

TEST(an_argument_that_follows_the_step_is_found) {
  RestoreOptions restore;
  const DeviceStream stream;
  Norm norm{stream};
  const auto launches = [&](int64_t, bool) { norm.launch(); };
  StepGraphs graphs(2);
  graphs.capture(stream, launches);
  graphs.run(stream, 1, true, launches);
  norm.rows = 2;
  CHECK_THROWS(SystemError, graphs.run(stream, 2, false, launches),
               "the graph of 2 rows is not the step: launch 0 has another grid");
  norm.rows = 1;
  norm.eps = 2e-5f;
  CHECK_THROWS(SystemError, graphs.run(stream, 1, false, launches), "has other arguments from");
  const auto twice = [&](int64_t, bool) { norm.launch(), norm.launch(); };
  CHECK_THROWS(SystemError, graphs.run(stream, 1, false, twice), "2 launches, not 1");
  simt::options().check_replays = false;
  graphs.run(stream, 1, false, launches);
}

TEST(what_cannot_be_captured_is_refused_and_leaves_the_stream_usable) {
  const DeviceStream stream;
  Norm norm{stream};
  float word = 0;
  const auto capture = [&](auto body) { return DeviceGraph::capture(stream, body); };
  CHECK_THROWS(simt::Error, capture([&] { upload(&word, &word, 4, stream); }),
               "an upload while a graph is captured");
  CHECK_THROWS(simt::Error, capture([&] { start_download(&word, &word, 4, stream); }),
               "a download while");
  CHECK_THROWS(simt::Error, capture([&] { stream.wait(); }), "a wait while");
  CHECK_THROWS(simt::Error, capture([&] { capture([] {}); }), "inside another");
  CHECK_EQ(capture([&] { norm.launch(); }).size(), 1u);
  stream.wait();
}

// Of the launches of a step, in their order. What reads nothing of the launch right before it would
// be right without a wait for that one, too: fc1 and fc2 beside the product before them, and what
// places q, k and v, which the product before fc1 has made.
bool needs_the_launch_before(int launch) {
  constexpr int kFirst = 1, kOfLayer = 8, kLayers = 2;  // norm qkv fc1 append cuts merge out fc2
  if (launch < kFirst || launch >= kFirst + kOfLayer * kLayers) return launch > 0;
  const int at = (launch - kFirst) % kOfLayer;
  return at != 2 && at != 3 && at != 7;
}

TEST(every_wait_for_the_launch_before_matters) {
  RestoreOptions restore;
  const auto weights = make_weights(CudaForm::kInt4);
  const Lists lists;
  simt::options().order = 2;
  constexpr int kLaunches = 21;  // the embedding, two layers, norm, head, draw, advance
  for (int launch = 1; launch < kLaunches; ++launch) {
    simt::options().unwaiting_launch = -1;
    Both both(weights, KvKind::kI8);
    both.read_prompts(2);
    simt::options().unwaiting_launch = launch;
    bool is_seen = false;
    try {
      for (int64_t step = 0; step < 2; ++step) both.decode(2, draws_of(lists, 2, step, false));
      both.check_pages();
    } catch (const std::exception&) {
      is_seen = true;
    }
    CHECK_EQ(is_seen, needs_the_launch_before(launch));
  }
}

// Rows of nobody that still have a place write to the page of whoever had it.
TEST(padding_that_is_left_out_shows_in_the_pages) {
  const auto weights = make_weights(CudaForm::kInt4);
  CudaStorage storage({kMost * Rig::kPages, 2, 2, 64, KvKind::kI8});
  CudaDecoder decoder(weights, storage, options_of(false));
  const int32_t tables[2][2] = {{0, 1}, {2, 3}};
  const StepToken tokens[2] = {{3, nullptr}, {4, nullptr}};
  const auto segment = [&](int s, int64_t position) {
    return DeviceSegment{tables[s], 2, position, tokens + s, 1, 1, true};
  };
  const DeviceSegment both[] = {segment(0, 0), segment(1, 0)};
  decoder.step(both, 2);
  const size_t bytes = static_cast<size_t>(storage.shape().plane_bytes());
  const auto page = [&] {
    std::vector<uint8_t> out(bytes);
    download(out.data(), static_cast<uint8_t*>(storage.layer(0).k) + 2 * bytes, bytes,
             decoder.stream());
    return out;
  };
  std::vector<uint8_t> zeros(bytes, 0);
  for (const bool pads : {false, true}) {
    upload(static_cast<uint8_t*>(storage.layer(0).k) + 2 * bytes, zeros.data(), bytes,
           decoder.stream());
    const DeviceSegment one = segment(0, 1);
    decoder.prepare(&one, 1);
    if (pads) decoder.pad(2);
    decoder.upload();
    CHECK(decoder.launch(CudaDecoder::padded_shape(2)));
    CHECK_EQ(page() == zeros, pads);
  }
}

#endif

TEST(steps_that_cannot_be_padded_are_refused) {
  const auto weights = make_weights(CudaForm::kInt4);
  CudaStorage storage({kMost * Rig::kPages, 2, 2, 64, KvKind::kI8});
  CudaDecoder decoder(weights, storage, options_of(false));
  const int32_t table[] = {0};
  const StepToken tokens[2] = {{3, nullptr}, {4, nullptr}};
  const DeviceSegment prompt{table, 1, 0, tokens, 2, 1, true}, one{table, 1, 0, tokens, 1, 1, true};
  decoder.prepare(&prompt, 1);
  CHECK_THROWS(InvalidArgument, decoder.pad(4), "1 prompts and 1 rows of logits cannot have 4");
  decoder.prepare(&one, 1);
  CHECK_THROWS(InvalidArgument, decoder.pad(0), "cannot have 0 rows");
  CHECK_THROWS(InvalidArgument, decoder.pad(10), "cannot have 10 rows");
}

}  // namespace
}  // namespace tgv::test

TEST_MAIN()
