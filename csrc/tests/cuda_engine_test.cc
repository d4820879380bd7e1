// The engine over the emulated CUDA decoder beside the same engine over the CPU's: the same ids,
// log-probabilities as close as float32 is, and failures of the device that end a request and
// nothing else.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "engine/engine.h"
#include "kernels/cuda/api.h"
#include "model/cuda_backend.h"
#include "tests/check.h"
#include "tests/cuda_models.h"
#include "tests/engine_answers.h"
#include "tests/tolerance.h"

namespace tgv::test {
namespace {

using namespace tgv::engine;
using namespace tgv::model;

const Models& models() {
  static const Models made = make_models(*tgv_cuda_model_table());
  return made;
}

EngineOptions settings() {
  EngineOptions options;
  options.threads = 1;
  options.kv_kind = kv::Kind::kF32;
  options.kv_tokens = 1024;
  options.prefill_chunk = 32;
  for (int64_t id = 0; id < kVocab; ++id) {
    options.token_bytes.push_back(std::string(1, static_cast<char>(' ' + id % 94)));
  }
  return options;
}

// --- requests -----------------------------------------------------------------------------------
std::vector<int32_t> ids(int64_t count, int64_t seed = 0) {
  return prompt_ids(kVocab, count, seed);
}

// Rows in place of every third id.
Submission with_embeddings(Submission request) {
  Prompt& prompt = request.prompt;
  std::mt19937 random(5);
  std::normal_distribution<float> normal;
  for (size_t i = 1; i < prompt.ids.size(); i += 3) {
    prompt.ids[i] = -1;
    ++prompt.embedding_rows;
    for (int64_t c = 0; c < kWidth; ++c) prompt.embeddings.push_back(normal(random));
  }
  prompt.embedding_width = kWidth;
  return request;
}

// Greedy and drawn, with and without everything that changes logits, lengths around page edges.
std::vector<Submission> many_requests() {
  std::vector<Submission> all;
  for (const int64_t length : {1, 5, 16, 33}) all.push_back(asking(ids(length, length), 8));
  all.push_back(with_embeddings(asking(ids(21, 2), 6)));
  Submission drawn = asking(ids(17, 4), 7);
  generate(drawn).temperature = 0.9;
  generate(drawn).top_p = 0.95;
  generate(drawn).seed = 3;
  generate(drawn).samples = 2;
  all.push_back(drawn);
  generate(drawn).top_k = 9;
  generate(drawn).repetition_penalty = 1.3;
  generate(drawn).frequency_penalty = 0.2;
  generate(drawn).logit_bias = {{3, 2.5f}, {40, -1.0f}};
  generate(drawn).top_logprobs = 4;
  generate(drawn).samples = 1;
  all.push_back(drawn);
  return all;
}

std::vector<Answer> ask_all(Engine& engine, const std::vector<Submission>& requests) {
  std::vector<int64_t> running;
  for (const Submission& request : requests) running.push_back(engine.submit(request));
  std::vector<Answer> answers;
  for (const int64_t id : running) answers.push_back(read(engine, id));
  return answers;
}

// --- comparison ---------------------------------------------------------------------------------
// Two ways of rounding the same float32 step. A sum of K terms that grow like a random walk rounds
// partial sums of mean square K / 2 of a term's, by a third of a squared unit each: of its own size
// sqrt(K / 6) units. Six such sums follow one another in a layer (four products, scores and their
// mean), the norms keep sizes, and errors of different sums are independent; so are those of both
// sides. Six standard deviations of logits of deviation 1.
double logit_tolerance() {
  const double sums = 6 * kLayers + 1, longest = kMlp;
  return 6 * std::sqrt(2 * sums * longest / 6) * kFloatUnit;
}

// log-softmax moves by the logit's error and at most the largest one; then float32 rounds numbers
// of up to 16.
double logprob_tolerance() { return 2 * logit_tolerance() + 2 * 16 * kFloatUnit; }

double worst_difference(const std::vector<float>& a, const std::vector<float>& b) {
  CHECK_EQ(a.size(), b.size());
  double worst = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double difference = std::fabs(static_cast<double>(a[i]) - b[i]);
    worst = difference <= worst ? worst : std::isnan(difference) ? INFINITY : difference;
  }
  return worst;
}

void check_within(const char* what, double worst, double allowed) {
  std::printf("     %s: off by %.2g of %.2g allowed\n", what, worst, allowed);
  if (!(worst <= allowed)) fail(__FILE__, __LINE__, concat(what, " are off by ", worst));
}

double check_ids_and_ends(const Answer& got, const Answer& expected) {
  CHECK(got.ids == expected.ids);
  CHECK(got.ends == expected.ends);
  CHECK_EQ(got.message, expected.message);
  double worst = 0;
  for (const auto& [sample, logprobs] : expected.logprobs) {
    worst = std::max(worst, worst_difference(got.logprobs.at(sample), logprobs));
  }
  return worst;
}

// --- the same answers ---------------------------------------------------------------------------
TEST(batches_in_chunks_are_the_cpus) {
  Engine cpu(models().cpu, settings()), cuda(models().cuda, settings());
  const std::vector<Submission> requests = many_requests();
  const std::vector<Answer> expected = ask_all(cpu, requests), got = ask_all(cuda, requests);
  double worst = 0;
  for (size_t i = 0; i < requests.size(); ++i) {
    worst = std::max(worst, check_ids_and_ends(got[i], expected[i]));
    CHECK(got[i].message.empty());
    for (const auto& [sample, tops] : expected[i].tops) {
      for (size_t t = 0; t < tops.size(); ++t) {
        for (size_t n = 0; n < tops[t].size(); ++n) {
          CHECK_EQ(got[i].tops.at(sample)[t][n].first, tops[t][n].first);
        }
      }
    }
  }
  check_within("log-probabilities", worst, logprob_tolerance());
  check_nothing_left(cuda);
}

TEST(alone_and_in_company_however_cut_are_the_same_bits) {
  const std::vector<Submission> requests = many_requests();
  Engine together(models().cuda, settings());
  const std::vector<Answer> expected = ask_all(together, requests);
  EngineOptions options = settings();
  options.prefill_chunk = 7;
  options.max_sequences = 2;
  Engine alone(models().cuda, options);
  for (size_t i = 0; i < requests.size(); ++i) CHECK(same(ask(alone, requests[i]), expected[i]));
  check_nothing_left(alone);
}

TEST(prefixes_and_last_pages_are_shared) {
  Engine cpu(models().cpu, settings()), cuda(models().cuda, settings());
  Submission request = asking(ids(39, 6), 12);  // its last page is begun: samples copy it
  generate(request).samples = 3;
  generate(request).temperature = 1.2;
  generate(request).seed = 8;
  const Answer expected = ask(cpu, request), first = ask(cuda, request);
  const double worst = check_ids_and_ends(first, expected);
  check_within("log-probabilities", worst, logprob_tolerance());
  CHECK(first.ids.at(0) != first.ids.at(1) && first.ids.at(1) != first.ids.at(2));
  const Answer again = ask(cuda, request);
  CHECK_EQ(first.stats.cached, 0);
  CHECK_EQ(again.stats.cached, 32);
  CHECK(same(again, first));
  check_nothing_left(cuda);
}

// int4 weights over int8 pages: what is copied has scales, too, and up to eight rows go through the
// same kernels as one.
TEST(greedy_samples_that_share_a_page_are_the_one_alone) {
  EngineOptions options = settings();
  options.kv_kind = kv::Kind::kI8;
  Engine engine(int4_model(*tgv_cuda_model_table()), options);
  Submission request = asking(ids(39, 6), 10);
  const Answer alone = ask(engine, request);
  generate(request).samples = 3;
  Engine other(int4_model(*tgv_cuda_model_table()), options);
  const Answer shared = ask(other, request);
  for (int sample = 0; sample < 3; ++sample) {
    CHECK(shared.ids.at(sample) == alone.ids.at(0));
    CHECK(shared.logprobs.at(sample) == alone.logprobs.at(0));
  }
  check_nothing_left(other);
}

// That the test above can fail: pages that nobody copied hold something else, NaN under the
// emulation.
TEST(a_page_that_was_not_copied_shows) {
  CudaTable table = *tgv_cuda_model_table();
  table.copy_rows = [](CudaRunnerHandle*, int64_t, int64_t, int64_t, CudaError*) {
    return CudaStatus::kNone;
  };
  EngineOptions options = settings();
  options.kv_kind = kv::Kind::kI8;
  Engine engine(int4_model(table), options);
  Submission request = asking(ids(39, 6), 10);
  generate(request).samples = 2;
  const Answer answer = ask(engine, request);
  CHECK(answer.ends.at(0) == Reason::kError || answer.logprobs.at(0) != answer.logprobs.at(1));
}

TEST(drafts_change_no_bit) {
  Engine engine(models().cuda, settings());
  Submission request = asking(ids(12), 30);
  const Answer plain = ask(engine, request);
  generate(request).speculate = true;
  const Answer guessed = ask(engine, request);
  CHECK(same(plain, guessed));
  CHECK(guessed.stats.drafted > 0);
  check_nothing_left(engine);
}

TEST(ends_by_id_and_string) {
  Engine engine(models().cuda, settings());
  const std::vector<int32_t> said = ask(engine, asking(ids(10), 12)).ids.at(0);
  Submission by_id = asking(ids(10), 12);
  generate(by_id).eos_ids = {said[5]};
  const Answer ended = ask(engine, by_id);
  CHECK_EQ(static_cast<int64_t>(ended.ids.at(0).size()),
           std::ranges::find(said, said[5]) - said.begin() + 1);
  CHECK(ended.ends.at(0) == Reason::kStop);
  Submission by_text = asking(ids(10), 12);
  const std::vector<std::string> bytes = settings().token_bytes;
  const auto text = [&](size_t i) { return bytes[static_cast<size_t>(said[i])]; };
  generate(by_text).stop = {"no such", text(2) + text(3)};
  size_t end = 1;  // the texts may have stood side by side before
  while (text(end - 1) + text(end) != text(2) + text(3)) ++end;
  const Answer stopped = ask(engine, by_text);
  CHECK_EQ(stopped.ids.at(0).size(), end + 1);
  CHECK(stopped.ends.at(0) == Reason::kStop);
  check_nothing_left(engine);
}

// Every setting that has a say, in one batch: drawn on the device, the CPU's ids.
TEST(settings_in_company_are_the_cpus) {
  std::vector<Submission> requests;
  for (int i = 0; i < 12; ++i) {
    Submission request = asking(ids(6 + i, i), 5);
    Generate& task = generate(request);
    task.temperature = i % 4 == 3 ? 0.0 : 0.5 + 0.4 * i;
    task.top_k = i % 3 == 1 ? 12 : 0;
    task.top_p = i % 2 ? 0.9 : 1.0;
    task.min_p = i % 5 == 2 ? 0.05 : 0.0;
    task.repetition_penalty = i % 4 == 1 ? 1.3 : 1.0;
    task.frequency_penalty = i % 4 == 2 ? 0.4 : 0.0;
    task.presence_penalty = i % 4 == 3 ? 1.5 : 0.0;
    task.history = ids(i, 3);
    if (i % 3 == 0) task.logit_bias = {{40, 1.5f}, {3, 2.5f}, {40, 0.5f}};
    if (i % 2) task.eos_ids = {1, 4, 9}, task.min_new_tokens = 3;
    task.seed = static_cast<uint64_t>(100 + i);
    task.top_logprobs = i % 6;
    requests.push_back(request);
  }
  Engine cpu(models().cpu, settings()), cuda(models().cuda, settings());
  const std::vector<Answer> expected = ask_all(cpu, requests), got = ask_all(cuda, requests);
  double worst = 0;
  for (size_t i = 0; i < requests.size(); ++i) {
    CHECK(got[i].message.empty());
    worst = std::max(worst, check_ids_and_ends(got[i], expected[i]));
    for (size_t t = 0; t < expected[i].tops.at(0).size(); ++t) {
      for (size_t n = 0; n < expected[i].tops.at(0)[t].size(); ++n) {
        CHECK_EQ(got[i].tops.at(0)[t][n].first, expected[i].tops.at(0)[t][n].first);
      }
    }
  }
  check_within("log-probabilities", worst, logprob_tolerance());
  check_nothing_left(cuda);
}

// --- what comes to the host ---------------------------------------------------------------------
CudaRunnerHandle* last_runner = nullptr;

CudaTable watched_table() {
  CudaTable table = *tgv_cuda_model_table();
  table.make_runner = [](CudaRunnerHandle** made, const CudaModelHandle* model,
                         const CudaPageShape* pages, const CudaDecoderOptions* options,
                         CudaError* error) {
    const CudaStatus status =
        tgv_cuda_model_table()->make_runner(made, model, pages, options, error);
    last_runner = *made;
    return status;
  };
  return table;
}

StreamCounts stream_counts(const CudaTable& table) {
  StreamCounts counts;
  table.stream_counts(last_runner, &counts);
  return counts;
}

int64_t downloaded_bytes(const CudaTable& table) { return stream_counts(table).downloaded_bytes; }

// Two steps read the prompt, whose last one draws. The others are launches of a graph; four of them
// go ahead of the host, with one upload before and one download behind them.
TEST(a_decode_step_is_one_graph) {
  const CudaTable table = watched_table();
  Engine engine(make_models(table).cuda, settings());
  CHECK_EQ(engine.metrics().graphs.graphs, 2 * 4);  // of 1, 2, 4 and 8 rows
  CHECK(engine.metrics().graphs.seconds > 0 && engine.metrics().graphs.bytes > 0);
  CHECK(ask(engine, asking(ids(40), 1)).message.empty());
  const StreamCounts prompt = stream_counts(table);
  CHECK_EQ(prompt.graphs, 0);
  CHECK_EQ(prompt.uploads, 2 + 2);  // and cosines and sines, at the start
  CHECK(ask(engine, asking(ids(40, 1), 6)).message.empty());
  const StreamCounts all = stream_counts(table);
  CHECK_EQ(all.graphs, 5);
  CHECK_EQ(all.launches, 2 * prompt.launches);
  CHECK_EQ(all.uploads - prompt.uploads, 2 + 2);
  CHECK_EQ(all.downloads - prompt.downloads, 1 + 2);
  CHECK_EQ(all.downloaded_bytes - prompt.downloaded_bytes, 6 * 8);
  CHECK_EQ(engine.metrics().steps, 2 + 2 + 5);
  CHECK_EQ(engine.metrics().decode_tokens, 5);
}

EngineOptions without_graphs() {
  EngineOptions options = settings();
  options.graphs = false;
  return options;
}

TEST(graphs_change_no_bit) {
  const std::vector<Submission> requests = many_requests();
  Engine with(models().cuda, settings());
  Engine without(models().cuda, without_graphs());
  CHECK_EQ(without.metrics().graphs.graphs, 0);
  const std::vector<Answer> expected = ask_all(without, requests), got = ask_all(with, requests);
  for (size_t i = 0; i < requests.size(); ++i) CHECK(same(got[i], expected[i]));
}

// --- steps without the host ---------------------------------------------------------------------
// All of them go ahead where nobody waits: penalties with a history and without, bans of end ids at
// the start, end ids and stop strings that come in the middle of several steps, lengths that are no
// multiple of what is done at once, several samples.
std::vector<Submission> plain_requests(const std::vector<int32_t>& said) {
  std::vector<Submission> all;
  for (const int64_t length : {1, 2, 5, 9, 11})
    all.push_back(asking(ids(7 + length, length), length));
  Submission ends = asking(ids(10), 12);
  generate(ends).eos_ids = {said[5], 96, 95};
  all.push_back(ends);
  generate(ends).min_new_tokens = 8;
  all.push_back(ends);
  Submission stops = asking(ids(10), 12);
  const std::vector<std::string> bytes = settings().token_bytes;
  generate(stops).stop = {bytes[static_cast<size_t>(said[5])] +
                          bytes[static_cast<size_t>(said[6])]};
  all.push_back(stops);
  Submission drawn = asking(ids(13, 3), 10);
  generate(drawn).temperature = 1.1;
  generate(drawn).seed = 12;
  generate(drawn).samples = 3;
  all.push_back(drawn);
  generate(drawn).samples = 1;
  generate(drawn).repetition_penalty = 1.4;
  generate(drawn).frequency_penalty = 0.3;
  all.push_back(drawn);
  generate(drawn).history = ids(6, 9);
  generate(drawn).logit_bias = {{3, 2.5f}, {40, -1.0f}};
  generate(drawn).top_p = 0.9;
  all.push_back(drawn);
  return all;
}

TEST(steps_without_the_host_change_no_bit) {
  const CudaTable table = watched_table();
  const Models made = make_models(table);
  Engine stepping(made.cuda, without_graphs());
  const std::vector<int32_t> said = ask(stepping, asking(ids(10), 12)).ids.at(0);
  const std::vector<Submission> requests = plain_requests(said);
  const std::vector<Answer> expected = ask_all(stepping, requests);
  Engine engine(made.cuda, settings());
  int64_t tokens = 0;
  const int64_t before = stream_counts(table).downloads;
  for (size_t i = 0; i < requests.size(); ++i) {
    const Answer alone = ask(engine, requests[i]);
    CHECK(same(alone, expected[i]));
    CHECK(alone.ends == expected[i].ends);
    CHECK(alone.message.empty());
    for (const auto& [sample, all] : alone.ids) tokens += static_cast<int64_t>(all.size());
  }
  CHECK(stream_counts(table).downloads - before < tokens / 2);
  const std::vector<Answer> together = ask_all(engine, requests);
  for (size_t i = 0; i < requests.size(); ++i) {
    CHECK(same(together[i], expected[i]));
    CHECK(together[i].ends == expected[i].ends);
  }
  check_nothing_left(engine);
}

// int4 over int8 pages, over several pages' edges.
TEST(steps_without_the_host_change_no_bit_of_int4) {
  EngineOptions options = settings(), direct = without_graphs();
  options.kv_kind = direct.kv_kind = kv::Kind::kI8;
  Engine engine(int4_model(*tgv_cuda_model_table()), options);
  Engine stepping(int4_model(*tgv_cuda_model_table()), direct);
  Submission request = asking(ids(14, 2), 40);
  generate(request).samples = 2;
  generate(request).temperature = 0.8;
  CHECK(same(ask(engine, request), ask(stepping, request)));
  check_nothing_left(engine);
}

// Requests that must see every token go step by step, and so does their company.
TEST(best_ids_and_long_lists_of_ends_go_step_by_step) {
  const CudaTable table = watched_table();
  Engine engine(make_models(table).cuda, settings());
  Submission best = asking(ids(9), 6);
  generate(best).top_logprobs = 2;
  Submission many_ends = asking(ids(9), 6);
  generate(many_ends).eos_ids = {90, 91, 92, 93, 94, 95, 96, 89, 88};
  for (const Submission& request : {best, many_ends}) {
    const int64_t before = stream_counts(table).downloads;
    const Answer answer = ask(engine, request);
    CHECK_EQ(stream_counts(table).downloads - before,
             static_cast<int64_t>(answer.ids.at(0).size()));
  }
}

TEST(ends_in_the_middle_leave_it_usable) {
  Engine engine(models().cuda, settings());
  const Answer expected = ask(engine, asking(ids(9), 50));
  const int64_t running = engine.submit(asking(ids(9), 50));
  Answer some;
  while (some.ids[0].size() < 6) {
    for (Event& event : engine.next(running, 60)) some.take(event);
  }
  engine.cancel(running);
  while (!some.done) {
    for (Event& event : engine.next(running, 60)) some.take(event);
  }
  CHECK(some.ends.at(0) == Reason::kCancelled || some.ids.at(0).size() == 50);
  CHECK(std::equal(some.ids.at(0).begin(), some.ids.at(0).end(), expected.ids.at(0).begin()));
  Submission late = asking(ids(9), 50);
  late.deadline_s = 0.1;
  const Answer cut = ask(engine, late);
  CHECK(cut.ends.at(0) == Reason::kDeadline || cut.ids.at(0).size() == 50);
  if (cut.ids.count(0)) {
    CHECK(std::equal(cut.ids.at(0).begin(), cut.ids.at(0).end(), expected.ids.at(0).begin()));
  }
  CHECK(same(ask(engine, asking(ids(9), 50)), expected));
  check_nothing_left(engine);
}

TEST(tokens_come_to_the_host_and_their_logits_stay) {
  const CudaTable table = watched_table();
  Engine engine(make_models(table).cuda, settings());
  const auto downloaded = [&](const Submission& request) {
    const int64_t before = downloaded_bytes(table);
    CHECK(ask(engine, request).message.empty());
    return downloaded_bytes(table) - before;
  };
  CHECK_EQ(downloaded(asking(ids(40), 6)), 6 * 8);  // an id and its log-probability
  Submission samples = asking(ids(20), 6);
  generate(samples).samples = 3;
  generate(samples).temperature = 1;
  generate(samples).top_logprobs = 4;
  CHECK_EQ(downloaded(samples), 3 * 6 * (8 + 4 * 8));
  const Submission logits{{ids(10), {}, 0, 0}, Logits{7}, {}};
  CHECK_EQ(downloaded(logits), 3 * 4 * kVocab);
  const Submission score{{ids(20), {}, 0, 0}, Score{{{1, 2, 3}}}, {}};
  CHECK_EQ(downloaded(score), 3 * 4 * kVocab);
  Submission guessed = asking(ids(12), 30);
  generate(guessed).speculate = true;
  const int64_t before = downloaded_bytes(table);
  const Answer answer = ask(engine, guessed);
  CHECK_EQ(downloaded_bytes(table) - before,
           8 * (30 + answer.stats.drafted - answer.stats.accepted));
}

// Lists that the device has no room for: that request's logits come to the host, the ids stay.
TEST(lists_without_room_are_drawn_from_on_the_host) {
  const CudaTable table = watched_table();
  Engine cpu(models().cpu, settings()), cuda(make_models(table).cuda, settings());
  Submission many_biases = asking(ids(9), 4);
  for (int32_t i = 0; i < 1025; ++i) generate(many_biases).logit_bias.push_back({i % 90, 0.01f});
  Submission long_history = asking(ids(9), 4);
  generate(long_history).history = ids(1300, 2);
  generate(long_history).frequency_penalty = 0.01;
  Submission many_ends = asking(ids(9), 4);
  generate(many_ends).eos_ids.assign(257, 5);
  generate(many_ends).min_new_tokens = 3;
  for (const Submission& request : {many_biases, long_history, many_ends}) {
    const int64_t before = downloaded_bytes(table);
    const Answer got = ask(cuda, request);
    CHECK_EQ(downloaded_bytes(table) - before,
             4 * kVocab * static_cast<int64_t>(got.ids.at(0).size()));
    check_ids_and_ends(got, ask(cpu, request));
  }
  check_nothing_left(cuda);
}

// --- the other kinds of request -----------------------------------------------------------------
TEST(logits_and_scores_are_the_cpus) {
  Engine cpu(models().cpu, settings()), cuda(models().cuda, settings());
  const Submission logits{{ids(37, 3), {}, 0, 0}, Logits{0}, {}};
  check_within("logits", worst_difference(ask(cuda, logits).logits, ask(cpu, logits).logits),
               logit_tolerance());
  const Score candidates{{{1, 2, 3, 4, 5}, {9}, {1, 2, 90}, {60, 61}, {1, 2, 3, 4, 6}}};
  const Submission score{{ids(20, 3), {}, 0, 0}, candidates, {}};
  const Answer expected = ask(cpu, score), got = ask(cuda, score);
  CHECK_EQ(got.scores.size(), candidates.candidates.size());
  double worst = 0;
  for (const auto& [candidate, logprobs] : expected.scores) {
    worst = std::max(worst, worst_difference(got.scores.at(candidate), logprobs));
  }
  check_within("scores", worst, logprob_tolerance());
  check_nothing_left(cuda);
}

TEST(beams_are_the_cpus) {
  Engine cpu(models().cpu, settings()), cuda(models().cuda, settings());
  Beams task;
  task.beams = 4;
  task.returned = 3;
  task.max_new_tokens = 7;
  task.eos_ids = {4, 9};
  const Submission request{{ids(20), {}, 0, 0}, task, {}};
  const Answer expected = ask(cpu, request), got = ask(cuda, request);
  CHECK_EQ(got.beams.size(), 3u);
  double worst = 0;
  for (size_t i = 0; i < 3; ++i) {
    CHECK(got.beams[i].ids == expected.beams[i].ids);
    worst = std::max(worst, std::fabs(double{got.beams[i].score} - expected.beams[i].score));
  }
  check_within("scores of beams", worst, logprob_tolerance());  // means over the ids
  check_nothing_left(cuda);
}

// --- ends that nobody planned -------------------------------------------------------------------
TEST(cancelled_and_late_requests_leave_it_usable) {
  EngineOptions options = settings();
  options.event_limit = 2;  // nobody reads: they cannot end by themselves
  Engine engine(models().cuda, options);
  const Answer expected = ask(engine, asking(ids(9), 5));
  const int64_t running = engine.submit(asking(ids(60), 100));
  while (engine.metrics().running == 0) std::this_thread::yield();
  engine.cancel(running);
  CHECK(read(engine, running).ends.at(0) == Reason::kCancelled);
  Submission late = asking(ids(60), 100);
  late.deadline_s = 0;
  CHECK(ask(engine, late).ends.at(0) == Reason::kDeadline);
  CHECK(same(ask(engine, asking(ids(9), 5)), expected));
  check_nothing_left(engine);
}

// A table whose calls fail when they are told to, as a GPU's do.
struct Failures {
  std::atomic<int> steps{0}, draws{0}, copies{0};  // calls until one fails; 0: none does
};
Failures failures;

bool is_next(std::atomic<int>& count) { return count > 0 && --count == 0; }

CudaStatus refuse(CudaError* error) {
  std::strcpy(error->message, "a kernel or a copy failed: planted");
  return CudaStatus::kSystem;
}

CudaTable failing_table() {
  CudaTable table = *tgv_cuda_model_table();
  table.step = [](CudaRunnerHandle* runner, const DeviceSegment* segments, int64_t count,
                  const Draw* draws, int64_t draw_count, const std::atomic<bool>* stop,
                  CudaStepResults* out, CudaError* error) {
    if (is_next(failures.steps)) return refuse(error);
    const bool fails = draw_count > 0 && is_next(failures.draws);
    const CudaStatus status = tgv_cuda_model_table()->step(
        runner, segments, count, draws, fails ? 0 : draw_count, stop, out, error);
    return fails ? refuse(error) : status;  // behind the decoder's launches
  };
  table.copy_rows = [](CudaRunnerHandle* runner, int64_t to, int64_t from, int64_t rows,
                       CudaError* error) {
    if (is_next(failures.copies)) return refuse(error);
    return tgv_cuda_model_table()->copy_rows(runner, to, from, rows, error);
  };
  return table;
}

TEST(a_failing_device_ends_the_requests_in_the_step_and_no_other) {
  const CudaTable table = failing_table();
  Engine engine(make_models(table).cuda, settings());
  const Answer expected = ask(engine, asking(ids(20), 6));
  for (const int at : {1, 2, 4}) {  // reading the prompt, the first token, a later one
    failures.steps = at;
    const Answer broken = ask(engine, asking(ids(50, at), 6));
    CHECK(broken.ends.at(0) == Reason::kError);
    CHECK_EQ(broken.message, std::string("a kernel or a copy failed: planted"));
    CHECK(same(ask(engine, asking(ids(20), 6)), expected));
    check_nothing_left(engine);
  }
  CHECK_EQ(engine.metrics().ended[static_cast<size_t>(Reason::kError)], 3);
}

// The decoder's launches are done, the sampler's fails: its step ends with whoever is in it, and
// who waits for room is served.
TEST(failing_draws_end_the_requests_in_the_step_and_no_other) {
  const CudaTable table = failing_table();
  EngineOptions options = settings();
  options.max_sequences = 2;
  Engine engine(make_models(table).cuda, options);
  const Answer expected = ask(engine, asking(ids(20), 6));
  for (const int at : {1, 2}) {  // after the prompt, and later
    failures.draws = at;
    const Answer broken = ask(engine, asking(ids(30, at), 6));
    CHECK(broken.ends.at(0) == Reason::kError);
    CHECK_EQ(static_cast<int>(broken.ids.size()), at - 1);
    CHECK(same(ask(engine, asking(ids(20), 6)), expected));
  }
  for (const int at : {4, 5}) {  // by then the second is in the first one's steps
    failures.draws = at;
    engine.enter_turn();
    const int64_t one = engine.submit(asking(ids(30, at), 6));
    const int64_t two = engine.submit(asking(ids(9, at), 6));
    const int64_t waiting = engine.submit(asking(ids(20), 6));
    engine.leave_turn();
    for (const int64_t id : {one, two}) {
      const Answer broken = read(engine, id);
      CHECK(broken.ends.at(0) == Reason::kError);
      CHECK_EQ(broken.message, std::string("a kernel or a copy failed: planted"));
    }
    CHECK(same(read(engine, waiting), expected));
    check_nothing_left(engine);
  }
  CHECK_EQ(engine.metrics().ended[static_cast<size_t>(Reason::kError)], 6);
}

TEST(a_failing_copy_ends_the_request_that_shares_the_page) {
  const CudaTable table = failing_table();
  Engine engine(make_models(table).cuda, settings());
  const Answer expected = ask(engine, asking(ids(20), 6));
  Submission sharing = asking(ids(23, 2), 6);
  generate(sharing).samples = 2;
  failures.copies = 1;
  engine.enter_turn();  // both in one step
  const int64_t bad = engine.submit(sharing), good = engine.submit(asking(ids(20), 6));
  engine.leave_turn();
  const Answer broken = read(engine, bad);
  CHECK(broken.ends.at(0) == Reason::kError);
  CHECK_EQ(broken.message, std::string("a kernel or a copy failed: planted"));
  CHECK(same(read(engine, good), expected));
  CHECK(ask(engine, sharing).ends.at(1) == Reason::kLength);
  check_nothing_left(engine);
}

TEST(an_embedding_that_overflows_ends_its_request) {
  Engine engine(models().cuda, settings());
  const Answer expected = ask(engine, asking(ids(9), 6));
  Submission broken = asking(ids(20), 6);
  broken.prompt.ids[15] = -1;
  broken.prompt.embedding_rows = 1;
  broken.prompt.embedding_width = kWidth;
  broken.prompt.embeddings.assign(kWidth, 3e38f);
  broken.prompt.embeddings[0] = -3e38f;
  const int64_t bad = engine.submit(broken), good = engine.submit(asking(ids(9), 6));
  CHECK(same(read(engine, good), expected));
  CHECK(read(engine, bad).ends.at(0) == Reason::kError);
  check_nothing_left(engine);
}

// --- what is refused ----------------------------------------------------------------------------
TEST(what_cannot_be_made_is_refused_in_the_devices_words) {
  const CudaTable& table = *tgv_cuda_model_table();
  CHECK_EQ(table.version, kCudaTableVersion);
  const auto model = std::make_shared<CudaModel>(table, architecture(), exact_forms(), "test");
  CHECK_THROWS(InvalidArgument, Engine(model, settings()),
               "'text.layers.0.attn.qkv' was never put");
  CHECK_THROWS(InvalidArgument, model->put_vector("text.tail", {}), "'text.tail' is not");
  CHECK_THROWS(InvalidArgument, model->put_matrix("text.head", {}), "without its f32 values");
  CHECK_THROWS(InvalidArgument, CudaModel(table, architecture(), exact_forms(), ""),
               "the length of id");
  CudaForms wrong;
  wrong.body.group = 33;
  CHECK_THROWS(InvalidArgument, CudaModel(table, architecture(), wrong, "test"), "group");
  CudaTable full = table;
  full.make_runner = [](CudaRunnerHandle**, const CudaModelHandle*, const CudaPageShape*,
                        const CudaDecoderOptions*, CudaError* error) { return refuse(error); };
  CHECK_THROWS(SystemError, Engine(make_models(full).cuda, settings()), "failed: planted");
  CHECK_THROWS(InvalidArgument, Engine(std::shared_ptr<const LoadedModel>(), settings()),
               "model is null");
}

TEST(no_room_is_a_capacity_error) {
  CudaTable full = *tgv_cuda_model_table();
  full.make_model = [](CudaModelHandle**, const Architecture*, const CudaForms*, CudaError* error) {
    std::snprintf(error->message, sizeof error->message, "cannot have 5 bytes");
    return CudaStatus::kCapacity;
  };
  CHECK_THROWS(CapacityError, CudaModel(full, architecture(), exact_forms(), "test"), "5 bytes");
}

TEST(without_a_gpu_there_is_no_table_and_one_reason) {
  if (cuda::available()) return;
  CHECK_THROWS(Unsupported, cuda_table(), cuda::why_not());
}

TEST(memory_is_the_devices_and_known_before) {
  Engine engine(models().cuda, settings());
  const Metrics metrics = engine.metrics();
  const BackendOptions asked = backend_options(architecture(), settings());
  const CudaMemoryPlan plan =
      plan_cuda_memory(*tgv_cuda_model_table(), architecture(), exact_forms(), asked);
  const int64_t logits = 4 * asked.max_logit_rows * kVocab;  // pinned on the host
  CHECK_EQ(plan.weights_bytes, metrics.weight_bytes);
  CHECK_EQ(plan.arena_bytes + logits, metrics.arena_bytes);
  CHECK(plan.pages_bytes >= 64 * metrics.kv_page_bytes);
  CHECK(plan.pages_bytes < 64 * metrics.kv_page_bytes + 8192);
  CHECK(plan.pinned_bytes > logits);
  CHECK(plan.free_bytes > 0 && plan.free_bytes <= plan.total_bytes);
  CHECK_EQ(metrics.kv.pages, 64);
  CHECK_EQ(metrics.kv_page_bytes, 2 * kLayers * 16 * kWidth * 4);
  CHECK_EQ(metrics.weight_bytes, models().cuda->bytes());
  CHECK(metrics.arena_bytes > 4 * 64 * kVocab);
}

}  // namespace
}  // namespace tgv::test

TEST_MAIN()
