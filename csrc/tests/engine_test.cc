// The engine over tiny random weights, and its parts alone. Small enough for ThreadSanitizer.
#include "engine/engine.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <map>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "engine/beam_search.h"
#include "engine/box_grammar.h"
#include "engine/constraint.h"
#include "engine/fingerprint.h"
#include "engine/prefill_share.h"
#include "engine/prompt_lookup.h"
#include "engine/stop_strings.h"
#include "engine/turn.h"
#include "model/random_weights.h"
#include "tests/check.h"
#include "tests/engine_answers.h"

namespace {

using tgv::CapacityError;
using tgv::ClosedError;
using tgv::InvalidArgument;
using namespace tgv::engine;
using namespace tgv::test;

constexpr int64_t kVocab = 61, kWidth = 32, kPositions = 256;

std::shared_ptr<const tgv::model::Weights> weights() {
  static const auto made = [] {
    tgv::model::Architecture a;
    a.width = kWidth;
    a.layers = 2;
    a.heads = 2;
    a.head_dim = 16;
    a.rotary_dims = 8;
    a.mlp_width = 64;
    a.vocab = kVocab;
    a.max_positions = kPositions;
    tgv::ThreadPool pool(1);
    return tgv::model::random_weights(a, {}, 7, pool);
  }();
  return made;
}

EngineOptions settings() {
  EngineOptions options;
  options.threads = 2;
  options.kv_tokens = 2048;
  for (int64_t id = 0; id < kVocab; ++id) {
    options.token_bytes.push_back(std::string(1, static_cast<char>('A' + id)));
  }
  return options;
}

std::vector<int32_t> ids(int64_t count, int64_t seed = 0) {
  return prompt_ids(kVocab, count, seed);
}

// --- parts -------------------------------------------------------------------------------------
TEST(stop_strings_are_found_across_pieces) {
  const std::vector<std::string> stops{"###", "ab"};
  StopStrings watch(stops);
  CHECK(!watch.put("x#"));
  CHECK(!watch.put(""));
  CHECK(!watch.put("#"));
  CHECK(watch.put("#y"));
  CHECK(watch.put("later"));
  StopStrings other(stops);
  CHECK(!other.put("##a"));
  CHECK(other.put("b"));
  CHECK(StopStrings(stops).put("long text with ab inside"));
  const std::vector<std::string> none;
  CHECK(!StopStrings(none).put("###"));
}

TEST(a_stop_string_is_foreseen) {
  const std::vector<std::string> stops{"###", "ab"};
  StopStrings watch(stops);
  CHECK(!watch.put("x#"));
  CHECK(watch.would_stop("", "##y"));
  CHECK(watch.would_stop("#", "#"));
  CHECK(!watch.would_stop("", "#"));
  CHECK(!watch.would_stop("##", "y"));  // it was complete before the piece
  CHECK(!watch.would_stop("x", "##"));
  CHECK(watch.would_stop("xa", "b"));
  CHECK(watch.would_stop("", "cab"));
  CHECK(!watch.would_stop("", ""));
  CHECK(!watch.put("#"));  // asking has changed nothing
  CHECK(watch.put("#"));
}

// All bytes, numbers of one id beside their digits, an id without text.
std::vector<std::string> texts_that_write_boxes() {
  std::vector<std::string> texts;
  for (int byte = 0; byte < 256; ++byte) texts.emplace_back(1, static_cast<char>(byte));
  for (const char* text : {"10", "57", "99", "100", "><", "{<", ">}", ">} and {<", ""}) {
    texts.emplace_back(text);
  }
  return texts;
}

TEST(boxes_fit_the_ids_that_are_left) {
  const auto vocabulary = std::make_shared<BoxVocabulary>(texts_that_write_boxes());
  CHECK(vocabulary->why_not().empty());
  const BoxGrammar start(vocabulary);
  std::mt19937 random(1);
  for (int64_t length = 1; length < 60; ++length) {
    const auto row = start.copy();
    std::vector<uint32_t> mask(mask_words(row->vocab()));
    for (int64_t left = length; left > 0; --left) {
      row->allow(mask, left);
      std::vector<int32_t> ids;
      for (int32_t id = 0; id < row->vocab(); ++id) {
        if (is_allowed(mask, id)) ids.push_back(id);
      }
      CHECK(!ids.empty());
      const bool opens = is_allowed(mask, '{') && random() % 2;
      row->accept(opens ? '{' : ids[random() % ids.size()]);
    }
    CHECK(row->allow(mask, 1));  // no box is open
  }
}

TEST(guesses_are_cut_where_the_grammar_does_not_go) {
  const std::vector<std::string> texts = texts_that_write_boxes(), stops;
  const ConstraintRules rules({}, stops, texts);
  Constraint row(std::make_unique<BoxGrammar>(std::make_shared<BoxVocabulary>(texts)), rules, 8);
  std::vector<int32_t> seen{'a', '{', '<', '7', '7', '7'};
  row.look_ahead(seen, 1, StopStrings(stops), 100);
  CHECK(seen == (std::vector<int32_t>{'a', '{', '<', '7', '7'}));
  CHECK(is_allowed(row.mask(0), '{') && is_allowed(row.mask(1), '<') &&
        !is_allowed(row.mask(1), 'a'));
  CHECK(is_allowed(row.mask(4), '>') && !is_allowed(row.mask(4), '7'));
  row.accept('b');  // none of the guesses came true
  row.look_ahead(seen, seen.size(), StopStrings(stops), 5);
  CHECK(is_allowed(row.mask(0), 'c') && !is_allowed(row.mask(0), '{'));
}

TEST(prompt_lookup_proposes_what_followed) {
  const auto guess = [](std::vector<int32_t> text, int64_t most) {
    std::vector<int32_t> draft;
    look_up(draft, text, most);
    return draft;
  };
  using Draft = std::vector<int32_t>;
  CHECK(guess({1, 2, 3, 4, 9, 1, 2, 3}, 7) == (Draft{4, 9, 1, 2, 3}));
  CHECK(guess({1, 2, 3, 4, 9, 1, 2, 3}, 2) == (Draft{4, 9}));
  CHECK(guess({5, 3, 6, 1, 2, 3, 7, 9, 2, 3}, 1) == (Draft{7}));  // two ids before one
  CHECK(guess({5, 5}, 3) == (Draft{5}));                          // overlapping the end
  CHECK(guess({1, 2, 3}, 7).empty());
  CHECK(guess({1, 2, -1, 3, 1, 2}, 7).empty());  // an embedding follows
  CHECK(guess({-1, 4, -1}, 7).empty());
  CHECK(guess({4}, 7).empty());
  CHECK(guess({1, 1, 1}, 0).empty());
}

TEST(prefill_share_follows_times) {
  PrefillShare share(256);
  CHECK_EQ(share.tokens(), 16);
  share.learn(0, 256, 1000);  // nobody decodes: no matter
  CHECK_EQ(share.tokens(), 16);
  for (int i = 0; i < 100; ++i) {  // a decode step of 10 ms, 0.1 ms a prompt token: 100 fit
    share.learn(3, 0, 10);
    share.learn(3, share.tokens(), 10 + 0.1 * static_cast<double>(share.tokens()));
  }
  CHECK(share.tokens() >= 90 && share.tokens() <= 110);
  for (int i = 0; i < 100; ++i) share.learn(3, share.tokens(), 1000);
  CHECK_EQ(share.tokens(), 4);
  for (int i = 0; i < 100; ++i) share.learn(3, share.tokens(), 1);
  CHECK_EQ(share.tokens(), 256);
  share.learn(3, 2, 1000);  // less than its share: says nothing about it
  CHECK_EQ(share.tokens(), 256);
  CHECK_EQ(PrefillShare(1).tokens(), 1);
}

TEST(fingerprint_is_siphash) {
  const Fingerprint known({0x0706050403020100, 0x0f0e0d0c0b0a0908});
  std::vector<uint8_t> bytes;
  for (uint8_t i = 0; i < 15; ++i) bytes.push_back(i);
  CHECK(known.hash(bytes) == 0xa129ca6149be45e5u);  // the example of the paper
  std::vector<float> row(8, 0.5f);
  const int64_t key = known.row_key(row.data(), 8);
  CHECK(key < 0);
  row[7] = std::nextafter(0.5f, 1.0f);
  CHECK(known.row_key(row.data(), 8) != key);
  CHECK(Fingerprint().row_key(row.data(), 8) != Fingerprint().row_key(row.data(), 8));
  CHECK(known.fresh_key(1) < 0 && known.fresh_key(1) != known.fresh_key(2));
  std::array<uint8_t, 32> digest = {};
  const int64_t brought = known.brought_key(5, digest);
  CHECK(brought < 0 && brought != known.brought_key(6, digest));
  digest[31] = 1;
  CHECK(known.brought_key(5, digest) != brought);
}

TEST(turns_come_in_order) {
  Turn turn;
  CHECK(turn.enter());
  CHECK_THROWS(InvalidArgument, (void)turn.enter(), "has a turn already");
  std::vector<int> order;
  std::vector<std::thread> others;
  for (int i = 0; i < 4; ++i) {
    others.emplace_back([&, i] {
      if (!turn.enter()) return;
      order.push_back(i);
      turn.leave();
    });
    while (turn.waiting() != i + 1) std::this_thread::yield();
  }
  turn.leave();
  for (std::thread& other : others) other.join();
  CHECK(order == (std::vector<int>{0, 1, 2, 3}));
  CHECK(turn.enter());
  std::thread late([&] { CHECK(!turn.enter()); });
  while (turn.waiting() != 1) std::this_thread::yield();
  turn.close();
  late.join();
  CHECK(!turn.enter());
}

TEST(beam_search_takes_the_lowest_of_equals_first) {
  Beams task;
  task.max_new_tokens = 2;
  task.eos_ids = {3};
  task.returned = 2;
  BeamSearch search(task);
  const auto rank_all = [&](std::vector<float> logprobs) {
    for (int64_t beam = 0; beam < 2; ++beam) {
      auto row = logprobs;
      search.rank(beam, row);
    }
  };
  rank_all({-1, -2, -1, -5});
  CHECK(search.advance() == (std::vector<int64_t>{0, 0}));
  CHECK_EQ(search.last_id(0), 0);
  CHECK_EQ(search.last_id(1), 2);
  rank_all({-2, -2, -2, -1});  // both beams end best
  CHECK(search.advance().empty());
  CHECK(search.is_done());
  const auto results = search.results();
  CHECK_EQ(results.size(), 2u);
  CHECK(results[0].ids == (std::vector<int32_t>{0, 3}));
  CHECK(results[1].ids == (std::vector<int32_t>{2, 3}));
  CHECK_EQ(results[0].score, -1.0);
}

// --- the same bits, whatever else happens ------------------------------------------------------
TEST(answers_do_not_depend_on_company_threads_chunks_cache_or_drafts) {
  std::vector<Submission> requests;
  for (int64_t i = 0; i < 8; ++i) {
    requests.push_back(asking(ids(3 + 13 * i, i), 12 + i));
    if (i % 3 == 1) {
      Generate& task = generate(requests.back());
      task.temperature = 0.8;
      task.top_p = 0.9;
      task.seed = 5;
      task.samples = 2;
    }
  }
  std::vector<Answer> expected;
  {
    EngineOptions options = settings();
    options.threads = 1;
    for (const Submission& request : requests) {
      Engine engine(weights(), options);
      expected.push_back(ask(engine, request));
      CHECK_EQ(expected.back().stats.cached, 0);
    }
  }
  for (const int threads : {1, 2}) {
    for (const int64_t chunk : {1, 7, 64}) {
      EngineOptions options = settings();
      options.threads = threads;
      options.prefill_chunk = chunk;
      Engine engine(weights(), options);
      for (int round = 0; round < 2; ++round) {  // the second finds its prompts
        std::vector<int64_t> running;
        for (const Submission& request : requests) running.push_back(engine.submit(request));
        for (size_t i = 0; i < requests.size(); ++i) {
          const Answer answer = read(engine, running[i]);
          CHECK(same(answer, expected[i]));
          if (round == 1 && requests[i].prompt.ids.size() > 16) CHECK(answer.stats.cached >= 16);
        }
      }
      for (size_t i = 0; i < requests.size(); ++i) {
        Submission guessing = requests[i];
        if (generate(guessing).temperature > 0) continue;
        generate(guessing).speculate = true;
        CHECK(same(ask(engine, guessing), expected[i]));
      }
      check_nothing_left(engine);
    }
  }
}

TEST(drafts_are_accepted_in_repetitive_text) {
  Engine engine(weights(), settings());
  Submission request = asking(ids(20), 120);
  const Answer plain = ask(engine, request);
  generate(request).speculate = true;
  const Answer guessed = ask(engine, request);
  CHECK(same(plain, guessed));
  CHECK(guessed.stats.drafted > 0);
  CHECK(guessed.stats.accepted > 0);  // greedy text of a tiny model runs in circles
  CHECK_EQ(guessed.stats.generated, 120);
  check_nothing_left(engine);
}

TEST(embeddings_stand_for_their_contents) {
  Engine engine(weights(), settings());
  Submission request = asking(ids(60), 5);
  for (size_t i = 4; i < 40; ++i) request.prompt.ids[i] = -1;
  request.prompt.embedding_rows = 36;
  request.prompt.embedding_width = kWidth;
  for (int64_t i = 0; i < 36 * kWidth; ++i) {
    request.prompt.embeddings.push_back(std::sin(static_cast<float>(i)));
  }
  const Answer first = ask(engine, request);
  const Answer again = ask(engine, request);
  CHECK(same(first, again));
  CHECK_EQ(again.stats.cached, 48);
  request.prompt.embeddings[static_cast<size_t>(20 * kWidth)] += 0.25f;
  CHECK_EQ(ask(engine, request).stats.cached, 16);
  Submission asked = request;
  asked.prompt.embeddings[5] = std::numeric_limits<float>::quiet_NaN();
  CHECK_THROWS(InvalidArgument, engine.submit(asked), "embeddings has nan at [0,5]");
  check_nothing_left(engine);
}

TEST(a_second_question_waits_for_the_first_ones_prompt) {
  EngineOptions options = settings();
  options.prefill_chunk = 16;
  Engine engine(weights(), options);
  engine.enter_turn();  // so that both are there before the first is admitted
  const int64_t first = engine.submit(asking(ids(150), 4));
  const int64_t second = engine.submit(asking(ids(160), 4));
  engine.leave_turn();
  CHECK_EQ(read(engine, first).stats.cached, 0);
  CHECK_EQ(read(engine, second).stats.cached, 144);
}

// --- keys and values that are carried -----------------------------------------------------------
// 40 positions, of which 10..35 are rows of embeddings, and a question of 7 to 9 ids after them.
Submission about_a_picture(int64_t question) {
  Submission request = asking(ids(40), 12);
  for (size_t i = 10; i < 36; ++i) request.prompt.ids[i] = -1;
  for (const int32_t id : ids(7 + question % 3, question + 3)) request.prompt.ids.push_back(id);
  request.prompt.embedding_rows = 26;
  request.prompt.embedding_width = kWidth;
  for (int64_t i = 0; i < 26 * kWidth; ++i) {
    request.prompt.embeddings.push_back(std::sin(static_cast<float>(i)));
  }
  return request;
}

// The first `positions` of a prompt.
Prompt beginning(const Prompt& prompt, size_t positions) {
  Prompt out = prompt;
  out.ids.resize(positions);
  out.embedding_rows = std::ranges::count(out.ids, -1);
  out.embeddings.resize(static_cast<size_t>(out.embedding_rows * kWidth));
  return out;
}

PrefixPages read_pages(Engine& engine, const Prompt& prompt) {
  const Answer answer = ask(engine, {prompt, Pages{}, {}});
  CHECK(answer.ends.at(0) == Reason::kStop);
  PrefixPages pages;
  pages.model_id = engine.limits().cache.model_id;
  pages.kind = answer.pages.shape.kind;
  pages.layers = answer.pages.shape.layers;
  pages.heads = answer.pages.shape.heads;
  pages.head_dim = answer.pages.shape.head_dim;
  pages.ids = prompt.ids;
  pages.embeddings = prompt.embeddings;
  pages.numbers = answer.pages.numbers;
  pages.scales = answer.pages.scales;
  pages.check();
  return pages;
}

Submission with(Submission request, const PrefixPages& pages) {
  request.prompt.pages = std::make_shared<const PrefixPages>(pages);
  return request;
}

EngineOptions settings(tgv::kv::Kind kind) {
  EngineOptions options = settings();
  options.kv_kind = kind;
  return options;
}

constexpr tgv::kv::Kind kKvKinds[] = {tgv::kv::Kind::kF32, tgv::kv::Kind::kF16,
                                      tgv::kv::Kind::kBF16, tgv::kv::Kind::kI8};

TEST(answers_with_carried_pages_are_those_without) {
  for (const auto kind : kKvKinds) {
    Engine reader(weights(), settings(kind));
    const PrefixPages pages = read_pages(reader, beginning(about_a_picture(0).prompt, 32));
    EngineOptions other = settings(kind);
    other.prefill_chunk = 7;
    other.isa = "portable";
    Engine small(weights(), other);
    const PrefixPages again = read_pages(small, beginning(about_a_picture(0).prompt, 32));
    CHECK(again.numbers == pages.numbers && again.scales == pages.scales);  // whoever computes them
    Engine plain(weights(), settings(kind)), engine(weights(), settings(kind));
    for (int64_t i = 0; i < 4; ++i) {
      const Answer expected = ask(plain, about_a_picture(i));
      const Answer answer = ask(engine, with(about_a_picture(i), pages));
      CHECK(same(answer, expected));
      CHECK_EQ(answer.stats.cached, 32);
      CHECK_EQ(answer.stats.brought, i == 0 ? 32 : 0);  // the others find them
    }
    CHECK_EQ(engine.metrics().brought_tokens, 32);
    check_nothing_left(engine);
  }
}

TEST(carried_pages_serve_every_kind_of_request) {
  Engine plain(weights(), settings());
  const PrefixPages pages = read_pages(plain, beginning(about_a_picture(0).prompt, 32));
  const Submission request = about_a_picture(1);
  Beams beams;
  beams.max_new_tokens = 5;
  beams.returned = 2;
  for (const auto& task : std::vector<decltype(request.task)>{beams, Score{{{3, 4}, {5}}},
                                                              Logits{33}, Logits{20}, Logits{0}}) {
    Engine engine(weights(), settings());
    const Submission asked{request.prompt, task, {}};
    const Answer expected = ask(plain, asked), answer = ask(engine, with(asked, pages));
    CHECK(answer.logits == expected.logits && answer.scores == expected.scores);
    CHECK_EQ(answer.beams.size(), expected.beams.size());
    for (size_t i = 0; i < answer.beams.size(); ++i) {
      CHECK(answer.beams[i].ids == expected.beams[i].ids);
    }
    // No further than the first position whose logits are wanted.
    const auto* logits = std::get_if<Logits>(&task);
    CHECK_EQ(answer.stats.brought, logits ? logits->first / 16 * 16 : 32);
    check_nothing_left(engine);
  }
}

// Nobody but who brings the same pages ever reads them: false ones spoil their own answers alone.
TEST(brought_pages_are_found_by_who_brings_the_same) {
  Engine engine(weights(), settings()), plain(weights(), settings());
  const PrefixPages pages = read_pages(plain, beginning(about_a_picture(0).prompt, 32));
  PrefixPages false_ones = pages;
  std::ranges::fill(false_ones.scales, uint16_t{0x4000});
  false_ones.digest[0] = 1;
  const Answer expected = ask(plain, about_a_picture(1));
  const Answer spoilt = ask(engine, with(about_a_picture(1), false_ones));
  CHECK(!same(spoilt, expected));
  CHECK_EQ(spoilt.stats.cached, 32);
  const Answer without = ask(engine, about_a_picture(1));
  CHECK(same(without, expected));
  CHECK_EQ(without.stats.cached, 0);
  const Answer good = ask(engine, with(about_a_picture(1), pages));
  CHECK(same(good, expected));
  CHECK_EQ(good.stats.brought, 32);
  CHECK(same(ask(engine, with(about_a_picture(1), false_ones)), spoilt));  // still there
  // Read from the cache of an engine to which they were brought, they are the same.
  CHECK(read_pages(engine, beginning(about_a_picture(0).prompt, 32)).numbers == pages.numbers);
  check_nothing_left(engine);
}

TEST(evicted_pages_are_brought_again) {
  EngineOptions options = settings();
  options.kv_tokens = 64;  // what one request needs, and no more
  Engine engine(weights(), options), plain(weights(), settings());
  const PrefixPages pages = read_pages(engine, beginning(about_a_picture(0).prompt, 32));
  const Answer expected = ask(plain, about_a_picture(2));
  for (int round = 0; round < 3; ++round) {
    const Answer answer = ask(engine, with(about_a_picture(2), pages));
    CHECK(same(answer, expected));
    CHECK_EQ(answer.stats.cached, 32);
    CHECK_EQ(answer.stats.brought, 32);
    ask(engine, asking(ids(60, round), 2));  // takes every page
  }
  CHECK(engine.counts().evicted >= 6);
  check_nothing_left(engine);
}

TEST(requests_with_pages_wait_and_are_cancelled_as_others_are) {
  EngineOptions options = settings();
  options.kv_tokens = 64;
  Engine engine(weights(), options);
  const PrefixPages pages = read_pages(engine, beginning(about_a_picture(0).prompt, 32));
  engine.enter_turn();
  const int64_t first = engine.submit(asking(ids(20), 30));
  const int64_t waiting = engine.submit(with(about_a_picture(2), pages));
  const int64_t cancelled = engine.submit(with(about_a_picture(2), pages));
  const int64_t read_cancelled =
      engine.submit({beginning(about_a_picture(0).prompt, 32), Pages{}, {}});
  engine.cancel(cancelled);
  engine.cancel(read_cancelled);
  engine.leave_turn();
  CHECK(read(engine, cancelled).ends.at(0) == Reason::kCancelled);
  const Answer nothing = read(engine, read_cancelled);
  CHECK(nothing.ends.at(0) == Reason::kCancelled && nothing.pages.numbers.empty());
  CHECK_EQ(read(engine, first).ids.at(0).size(), 30u);
  CHECK_EQ(read(engine, waiting).stats.brought, 32);
  check_nothing_left(engine);
}

TEST(pages_of_something_else_are_refused) {
  Engine engine(weights(), settings());
  const PrefixPages pages = read_pages(engine, beginning(about_a_picture(0).prompt, 32));
  const auto refuses = [&](const char* words, const auto& change) {
    PrefixPages other = pages;
    Submission request = about_a_picture(1);
    change(other, request.prompt);
    CHECK_THROWS(InvalidArgument, engine.submit(with(request, other)), words);
  };
  refuses("of model other", [](PrefixPages& p, Prompt&) { p.model_id = "other"; });
  refuses("pages is f16 [L=2", [](PrefixPages& p, Prompt&) { p.kind = tgv::kv::Kind::kF16; });
  refuses("[L=3,H=2,D=16]", [](PrefixPages& p, Prompt&) { p.layers = 3; });
  refuses("[L=2,H=1,D=16]", [](PrefixPages& p, Prompt&) { p.heads = 1; });
  refuses("[L=2,H=2,D=8]", [](PrefixPages& p, Prompt&) { p.head_dim = 8; });
  refuses("id 0 at position 0, the prompt has 1", [](PrefixPages&, Prompt& p) { p.ids[0] = 1; });
  refuses("other embeddings", [](PrefixPages&, Prompt& p) { p.embeddings[9] += 0.5f; });
  refuses("32 positions, the prompt 20", [](PrefixPages&, Prompt& p) { p = beginning(p, 20); });
  const auto bad = [&](const char* words, const auto& change) {
    PrefixPages other = pages;
    change(other);
    CHECK_THROWS(InvalidArgument, other.check(), words);
  };
  bad("ids has 31", [](PrefixPages& p) { p.ids.pop_back(); });
  bad("ids has 0", [](PrefixPages& p) { p.ids.clear(); });
  bad("embeddings has", [](PrefixPages& p) { p.embeddings.pop_back(); });
  bad("numbers has", [](PrefixPages& p) { p.numbers.pop_back(); });
  bad("scales has", [](PrefixPages& p) { p.scales.pop_back(); });
  bad("element 7", [](PrefixPages& p) { p.numbers[7] = 0x80; });
  bad("scale 3", [](PrefixPages& p) { p.scales[3] = 0x7e00; });
  bad("layers is 0", [](PrefixPages& p) { p.layers = 0; });
  CHECK_THROWS(InvalidArgument, engine.submit({{ids(33), {}, 0, 0}, Pages{}, {}}),
               "33 positions, expected a multiple of 16");
  Limits gpu = engine.limits();
  gpu.carries_pages = false;
  check(about_a_picture(1), gpu);
  const Submission reading{beginning(about_a_picture(0).prompt, 32), Pages{}, {}};
  CHECK_THROWS(tgv::Unsupported, check(reading, gpu), "lie on a GPU");
  CHECK_THROWS(tgv::Unsupported, check(with(about_a_picture(1), pages), gpu), "lie on a GPU");
  check_nothing_left(engine);
}

// --- scores, logits, beams ---------------------------------------------------------------------
TEST(scores_logits_and_tokens_agree) {
  Engine engine(weights(), settings());
  const auto prompt = ids(40);
  const Answer answer = ask(engine, asking(prompt, 9));
  const std::vector<int32_t>& said = answer.ids.at(0);
  std::vector<std::vector<int32_t>> candidates{said, {said[0]}, {said[0], said[1]}};
  for (int32_t i = 0; i < 20; ++i) candidates.push_back({said[0], i, 5, i});
  for (const int64_t sequences : {1, 3, 8}) {
    EngineOptions options = settings();
    options.max_sequences = sequences;
    options.prefill_chunk = 11;
    Engine scorer(weights(), options);
    const Answer scores = ask(scorer, {{prompt, {}, 0, 0}, Score{candidates}, {}});
    CHECK_EQ(scores.scores.size(), candidates.size());
    CHECK(scores.scores.at(0) == answer.logprobs.at(0));
    CHECK_EQ(scores.scores.at(1)[0], answer.logprobs.at(0)[0]);
    CHECK_EQ(scores.scores.at(2)[1], answer.logprobs.at(0)[1]);
    CHECK(scores.ends.at(0) == Reason::kStop);
    for (size_t i = 3; i < candidates.size(); ++i) {  // each as if it were alone
      const Answer one = ask(scorer, {{prompt, {}, 0, 0}, Score{{candidates[i]}}, {}});
      CHECK(one.scores.at(0) == scores.scores.at(static_cast<int>(i)));
    }
    check_nothing_left(scorer);
  }
  const Answer logits = ask(engine, {{prompt, {}, 0, 0}, Logits{0}, {}});
  CHECK_EQ(logits.logits.size(), prompt.size() * kVocab);
  const auto last = logits.logits.end() - kVocab;
  CHECK_EQ(std::max_element(last, logits.logits.end()) - last, said[0]);
  const Answer some = ask(engine, {{prompt, {}, 0, 0}, Logits{29}, {}});
  CHECK(std::equal(some.logits.begin(), some.logits.end(), logits.logits.begin() + 29 * kVocab));
  check_nothing_left(engine);
}

TEST(beams_share_pages_and_leave_none) {
  EngineOptions options = settings();
  options.kv_tokens = 192;  // what five beams may need, and no more
  Engine engine(weights(), options);
  Beams task;
  task.beams = 5;
  task.returned = 3;
  task.max_new_tokens = 20;
  task.eos_ids = {4, 9};
  const Submission request{{ids(20), {}, 0, 0}, task, {}};
  const Answer first = ask(engine, request), again = ask(engine, request);
  CHECK_EQ(first.beams.size(), 3u);
  for (size_t i = 0; i < 3; ++i) {
    CHECK(first.beams[i].ids == again.beams[i].ids);
    CHECK_EQ(first.beams[i].score, again.beams[i].score);
    CHECK(i == 0 || first.beams[i].score <= first.beams[i - 1].score);
  }
  check_nothing_left(engine);
}

// --- the end of requests -----------------------------------------------------------------------
TEST(ends_by_id_string_and_length) {
  Engine engine(weights(), settings());
  const Answer plain = ask(engine, asking(ids(10), 30));
  const std::vector<int32_t>& said = plain.ids.at(0);
  CHECK(plain.ends.at(0) == Reason::kLength);

  Submission by_id = asking(ids(10), 30);
  generate(by_id).eos_ids = {said[5]};
  const Answer ended = ask(engine, by_id);
  const auto first = std::ranges::find(said, said[5]) - said.begin();
  CHECK_EQ(static_cast<int64_t>(ended.ids.at(0).size()), first + 1);
  CHECK(ended.ends.at(0) == Reason::kStop);

  generate(by_id).min_new_tokens = 8;
  const std::vector<int32_t> later = ask(engine, by_id).ids.at(0);
  CHECK(later.size() >= 8);
  CHECK(std::find(later.begin(), later.begin() + 8, said[5]) == later.begin() + 8);

  Submission by_text = asking(ids(10), 30);
  const auto text = [](int32_t id) { return static_cast<char>('A' + id); };
  generate(by_text).stop = {"no such", std::string{text(said[2]), text(said[3])}};
  const Answer stopped = ask(engine, by_text);
  CHECK_EQ(stopped.ids.at(0).size(), 4u);
  CHECK(stopped.ends.at(0) == Reason::kStop);
  generate(by_text).speculate = true;
  CHECK(same(stopped, ask(engine, by_text)));
  check_nothing_left(engine);
}

TEST(cancelled_before_during_and_after) {
  EngineOptions options = settings();
  options.max_sequences = 1;
  options.event_limit = 4;  // the running one cannot end by itself: nobody reads it
  Engine engine(weights(), options);
  const int64_t running = engine.submit(asking(ids(10), 200));
  const int64_t waiting = engine.submit(asking(ids(10), 5));
  engine.cancel(waiting);
  engine.cancel(waiting);
  const Answer never = read(engine, waiting);
  CHECK(never.ids.empty());
  CHECK(never.ends.at(0) == Reason::kCancelled);
  engine.cancel(waiting);  // forgotten by now
  engine.cancel(running);
  const Answer some = read(engine, running);
  CHECK(some.ends.at(0) == Reason::kCancelled);
  CHECK(some.ids.empty() || some.ids.at(0).size() <= 5);
  CHECK_THROWS(InvalidArgument, engine.cancel(99), "request is 99");
  CHECK_THROWS(InvalidArgument, engine.next(waiting, 0), "whose end was not read");
  CHECK(ask(engine, asking(ids(10), 5)).ends.at(0) == Reason::kLength);
  check_nothing_left(engine);
}

TEST(deadlines_give_what_there_is) {
  EngineOptions options = settings();
  options.event_limit = 4;
  Engine engine(weights(), options);
  Submission late = asking(ids(10), 200);
  late.deadline_s = 0.05;  // reached for sure: nobody reads, so it stays at 4 tokens
  const int64_t request = engine.submit(late);
  std::this_thread::sleep_for(std::chrono::milliseconds(80));
  const Answer answer = read(engine, request);
  CHECK(answer.ends.at(0) == Reason::kDeadline);
  late.deadline_s = 0;
  CHECK(ask(engine, late).ids.empty());
  late.deadline_s = -1;
  CHECK(ask(engine, late).ends.at(0) == Reason::kDeadline);

  Beams beams;
  beams.beams = 3;
  beams.max_new_tokens = 200;
  beams.eos_ids = {1};
  const int64_t searching = engine.submit({{ids(10), {}, 0, 0}, beams, 0.02});
  const Answer best = read(engine, searching);
  // A fast machine may be through before.
  CHECK(best.ends.at(0) == Reason::kDeadline || best.ends.at(0) == Reason::kStop ||
        best.ends.at(0) == Reason::kLength);
  check_nothing_left(engine);
}

TEST(a_slow_reader_stops_only_itself) {
  EngineOptions options = settings();
  options.event_limit = 3;
  Engine engine(weights(), options);
  const Answer expected = ask(engine, asking(ids(9), 40));
  const int64_t slow = engine.submit(asking(ids(9), 40));
  const Answer quick = ask(engine, asking(ids(30), 60));
  CHECK_EQ(quick.ids.at(0).size(), 60u);
  CHECK_EQ(engine.metrics().running, 1);
  CHECK(same(read(engine, slow), expected));
  check_nothing_left(engine);
}

TEST(full_queues_and_impossible_requests_are_refused) {
  EngineOptions options = settings();
  options.kv_tokens = 64;
  options.queue_limit = 2;
  options.event_limit = 1;
  Engine engine(weights(), options);
  CHECK_THROWS(CapacityError, engine.submit(asking(ids(30), 40)), "can never fit");
  CHECK_THROWS(InvalidArgument, engine.submit(asking(ids(200), 100)), "passes the model's 256");
  CHECK_THROWS(InvalidArgument, engine.submit(asking({}, 1)), "ids is empty");
  CHECK_THROWS(InvalidArgument, engine.submit(asking({61}, 1)), "ids has 61 at position 0");
  CHECK_THROWS(InvalidArgument, engine.submit(asking({-1}, 1)), "embeddings has 0 rows");
  CHECK_THROWS(InvalidArgument, engine.submit(asking({1}, 0)), "max_new_tokens is 0");
  const int64_t running = engine.submit(asking(ids(10), 40));  // stays: nobody reads it
  while (engine.metrics().running == 0) std::this_thread::yield();
  std::vector<int64_t> waiting;
  for (int i = 0; i < 2; ++i) waiting.push_back(engine.submit(asking(ids(10), 40)));
  CHECK_THROWS(CapacityError, engine.submit(asking(ids(10), 40)), "the queue is full");
  CHECK_EQ(read(engine, running).ids.at(0).size(), 40u);
  for (const int64_t id : waiting) CHECK_EQ(read(engine, id).ids.at(0).size(), 40u);
  check_nothing_left(engine);
}

TEST(an_error_ends_one_request_and_no_other) {
  Engine engine(weights(), settings());
  const Answer expected = ask(engine, asking(ids(9), 20));
  Submission broken = asking(ids(40), 20);
  broken.prompt.ids[35] = -1;
  broken.prompt.embedding_rows = 1;
  broken.prompt.embedding_width = kWidth;
  // Finite, and so large that the norms of the first layer overflow.
  broken.prompt.embeddings.assign(kWidth, std::numeric_limits<float>::max());
  broken.prompt.embeddings[0] = -std::numeric_limits<float>::max();
  const int64_t bad = engine.submit(broken);
  const int64_t good = engine.submit(asking(ids(9), 20));
  CHECK(same(read(engine, good), expected));
  const Answer answer = read(engine, bad);
  CHECK(answer.ends.at(0) == Reason::kError);
  CHECK(!answer.message.empty());
  CHECK(same(ask(engine, asking(ids(9), 20)), expected));
  CHECK_EQ(engine.metrics().ended[static_cast<size_t>(Reason::kError)], 1);
  check_nothing_left(engine);
}

TEST(closing_ends_everything) {
  Engine engine(weights(), settings());
  std::vector<int64_t> requests;
  for (int64_t i = 0; i < 12; ++i) requests.push_back(engine.submit(asking(ids(20, i), 200)));
  std::thread reader([&] { CHECK(read(engine, requests[0]).done); });
  engine.close();
  engine.close();
  reader.join();
  for (size_t i = 1; i < requests.size(); ++i) {
    const Answer answer = read(engine, requests[i]);
    CHECK(answer.ends.at(0) == Reason::kCancelled);
  }
  CHECK_THROWS(ClosedError, engine.submit(asking(ids(3), 1)), "closed");
  CHECK_THROWS(ClosedError, engine.metrics(), "closed");
  CHECK_THROWS(ClosedError, engine.counts(), "closed");
  CHECK_THROWS(ClosedError, engine.enter_turn(), "closed");
}

TEST(no_step_runs_during_a_turn) {
  Engine engine(weights(), settings());
  engine.enter_turn();
  const int64_t request = engine.submit(asking(ids(5), 3));
  CHECK(engine.next(request, 0.02).empty());
  CHECK_EQ(engine.metrics().steps, 0);
  engine.leave_turn();
  CHECK_EQ(read(engine, request).ids.at(0).size(), 3u);
}

TEST(many_threads_ask_cancel_and_turn_at_once) {
  EngineOptions options = settings();
  options.max_sequences = 3;
  options.kv_tokens = 512;
  options.event_limit = 8;
  Engine engine(weights(), options);
  const Answer expected = ask(engine, asking(ids(17), 10));
  std::vector<std::thread> callers;
  std::atomic<int> wrong{0};
  for (int64_t t = 0; t < 4; ++t) {
    callers.emplace_back([&, t] {
      for (int64_t i = 0; i < 8; ++i) {
        if (t == 3) {
          engine.enter_turn();
          engine.leave_turn();
          engine.check();
          continue;
        }
        const int64_t request = engine.submit(asking(ids(17), 10));
        if (i % 3 == 2) engine.cancel(request);
        const Answer answer = read(engine, request);
        if (answer.ends.at(0) == Reason::kLength && !same(answer, expected)) ++wrong;
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  CHECK_EQ(wrong.load(), 0);
  check_nothing_left(engine);
}

}  // namespace

TEST_MAIN()
