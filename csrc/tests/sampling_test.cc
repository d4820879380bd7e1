// kernels/cpu/sampling on every instruction set here: the generator's published vectors, the best
// ids and log-probabilities against double precision, what filters may keep, and all sentences.
// Exact draws are compared with the twin from Python (tests/ops/test_sampling.py).
#include "kernels/cpu/sampling.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <numeric>
#include <random>

#include "kernels/cpu/philox.h"
#include "tests/check.h"
#include "tests/tolerance.h"

namespace tgv::test {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
const std::vector<int64_t> kVocabs = {1,   2,   15,   16,   17,   63,   64,   65,  100,
                                      127, 129, 1023, 1024, 1025, 1040, 2049, 5000};

std::vector<float> random_logits(int64_t vocab, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, 3.0f);
  std::vector<float> out(static_cast<size_t>(vocab));
  for (float& value : out) value = std::round(normal(random) * 16) / 16;  // with equals
  return out;
}

// Scratch of exactly the size asked for, so that sanitizers see its end.
struct Memory {
  explicit Memory(int64_t vocab)
      : bytes(static_cast<std::byte*>(
            ::operator new(cpu::sampling_scratch_bytes(vocab), std::align_val_t{64}))) {}
  ~Memory() { ::operator delete(bytes, std::align_val_t{64}); }
  Memory(const Memory&) = delete;
  std::byte* bytes;
};

cpu::SampleResult choose(const std::vector<float>& logits, const cpu::SamplingParams& params,
                         Isa isa, std::vector<int32_t> history = {}, int64_t position = 0) {
  const int64_t vocab = static_cast<int64_t>(logits.size());
  CHECK_EQ(cpu::sampling_why_not(params, vocab), std::string());
  const Memory scratch(vocab);
  return cpu::sample({logits.data(), vocab, history, position}, params, scratch.bytes, isa);
}

double log_sum_exp(const std::vector<float>& logits) {
  const double peak = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float x : logits) sum += std::exp(x - peak);
  return peak + std::log(sum);
}

// sampling.h, Numerics: the sum, then two subtractions and the logarithm rounded to float32.
double logprob_bound(double logit, double normalizer, double peak) {
  return kFloatUnit * (25 + std::fabs(logit - peak) + std::fabs(normalizer - peak) +
                       std::fabs(logit - normalizer));
}

TEST(philox_known_answers) {  // from the authors' kat_vectors
  using Four = std::array<uint32_t, 4>;
  static_assert(cpu::philox({0, 0, 0, 0}, {0, 0}) ==
                Four{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
  constexpr uint32_t kOnes = 0xffffffff;
  CHECK((cpu::philox({kOnes, kOnes, kOnes, kOnes}, {kOnes, kOnes}) ==
         Four{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  CHECK((cpu::philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}) ==
         Four{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
  CHECK_EQ(cpu::random_bits(0, 0, 0), 0xe169c58d6627e8d5u);
  CHECK(cpu::random_bits(1, 2, 3) != cpu::random_bits(1, 2, 4));
  CHECK(cpu::random_bits(1, int64_t{1} << 40, 0) != cpu::random_bits(1, 0, 0));
}

TEST(the_best_id_and_its_logprob) {
  for (const Isa isa : available_isas()) {
    for (const int64_t vocab : kVocabs) {
      const std::vector<float> logits = random_logits(vocab, static_cast<uint32_t>(vocab));
      const auto best = std::max_element(logits.begin(), logits.end());  // the first of equals
      const cpu::SampleResult r = choose(logits, {}, isa);
      CHECK(r.finite);
      CHECK_EQ(r.id, static_cast<int32_t>(best - logits.begin()));
      const double normalizer = log_sum_exp(logits), peak = *best;
      CHECK(std::fabs(r.logprob - (peak - normalizer)) <= logprob_bound(peak, normalizer, peak));
      std::vector<float> y(logits.size(), std::nanf(""));
      cpu::log_softmax_row(y.data(), logits.data(), vocab, isa);
      CHECK_EQ(y[static_cast<size_t>(r.id)], r.logprob);
      for (size_t i = 0; i < y.size(); ++i) {
        const double x = logits[i];
        CHECK(std::fabs(y[i] - (x - normalizer)) <= logprob_bound(x, normalizer, peak));
      }
    }
  }
}

TEST(a_mask_bans_what_it_does_not_allow) {
  std::mt19937 random(3);
  for (const Isa isa : available_isas()) {
    for (const int64_t vocab : kVocabs) {
      const std::vector<float> logits = random_logits(vocab, 6);
      std::vector<uint32_t> allowed(static_cast<size_t>((vocab + 31) / 32));
      std::vector<int32_t> banned;
      for (int32_t id = 0; id < vocab; ++id) {
        const bool is_in = random() % 3 == 0 || id == vocab - 1;
        if (is_in) allowed[static_cast<size_t>(id / 32)] |= uint32_t{1} << (id % 32);
        if (!is_in) banned.push_back(id);
      }
      for (const float temperature : {0.0f, 1.5f}) {
        cpu::SamplingParams masked, listed;
        masked.temperature = listed.temperature = temperature;
        masked.allowed = allowed;
        listed.banned = banned;
        for (int64_t position = 0; position < 5; ++position) {
          const cpu::SampleResult a = choose(logits, masked, isa, {}, position);
          const cpu::SampleResult b = choose(logits, listed, isa, {}, position);
          CHECK_EQ(a.id, b.id);
          CHECK_EQ(a.logprob, b.logprob);
        }
      }
    }
  }
  cpu::SamplingParams params;
  const std::vector<uint32_t> short_mask(1);
  params.allowed = short_mask;
  CHECK_EQ(cpu::sampling_why_not(params, 33), std::string("allowed has 1 words, expected 2"));
}

TEST(the_n_best) {
  for (const Isa isa : available_isas()) {
    for (const int64_t vocab : kVocabs) {
      const std::vector<float> logits = random_logits(vocab, 5);
      std::vector<int32_t> order(logits.size());
      std::iota(order.begin(), order.end(), 0);
      std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
        return logits[static_cast<size_t>(a)] > logits[static_cast<size_t>(b)];
      });
      for (const int64_t n : {int64_t{1}, std::min<int64_t>(vocab, 5), vocab / 2 + 1, vocab}) {
        std::vector<int32_t> ids(static_cast<size_t>(n));
        std::vector<float> logprobs(static_cast<size_t>(n));
        const Memory scratch(vocab);
        CHECK(cpu::top_logprobs(ids.data(), logprobs.data(), n, logits.data(), vocab, scratch.bytes,
                                isa));
        CHECK(std::equal(ids.begin(), ids.end(), order.begin()));
        CHECK_EQ(logprobs[0], choose(logits, {}, isa).logprob);
      }
    }
  }
}

// Filters keep what they must: a thousand draws stay inside the set that doubles allow.
TEST(draws_stay_inside_the_filters_and_agree_on_every_isa) {
  const std::vector<float> logits = random_logits(2049, 9);
  std::vector<float> sorted = logits;
  std::sort(sorted.rbegin(), sorted.rend());
  for (const int64_t top_k : {0, 1, 7, 40, 300, 2048, 5000}) {
    for (const float top_p : {1.0f, 0.9f, 0.1f}) {
      for (const float min_p : {0.0f, 0.05f, 1.0f}) {
        cpu::SamplingParams p;
        p.temperature = 1.3f;
        p.top_k = top_k;
        p.top_p = top_p;
        p.min_p = min_p;
        for (int64_t position = 0; position < 20; ++position) {
          const cpu::SampleResult first = choose(logits, p, Isa::kPortable, {}, position);
          for (const Isa isa : available_isas()) {
            const cpu::SampleResult r = choose(logits, p, isa, {}, position);
            CHECK(r.id == first.id && r.logprob == first.logprob);
          }
          const float value = logits[static_cast<size_t>(first.id)];
          if (top_k > 0)
            CHECK(value >= sorted[static_cast<size_t>(std::min<int64_t>(top_k, 2049)) - 1]);
          CHECK(std::exp((value - sorted[0]) / 1.3) >= static_cast<double>(min_p) * (1 - 1e-6));
        }
      }
    }
  }
}

TEST(penalties_and_bans) {
  const std::vector<float> logits = {1.0f, 4.0f, 3.9f, -2.0f, 3.0f};
  for (const Isa isa : available_isas()) {
    cpu::SamplingParams p;
    p.repetition_penalty = 1.1f;
    CHECK_EQ(choose(logits, p, isa).id, 1);
    CHECK_EQ(choose(logits, p, isa, {1, 1, 3}).id, 2);
    CHECK_EQ(choose(logits, p, isa, {1, 2}).id, 1);
    p = {};
    p.frequency_penalty = 0.06f;
    CHECK_EQ(choose(logits, p, isa, {1}).id, 1);
    CHECK_EQ(choose(logits, p, isa, {1, 1}).id, 2);
    p = {};
    p.presence_penalty = 0.06f;
    CHECK_EQ(choose(logits, p, isa, {1, 1}).id, 1);
    p.presence_penalty = 0.2f;
    CHECK_EQ(choose(logits, p, isa, {1}).id, 2);
    p = {};
    const std::vector<std::pair<int32_t, float>> bias = {{4, 0.5f}, {4, 0.75f}};
    const std::vector<int32_t> banned = {1, 2};
    p.logit_bias = bias;
    CHECK_EQ(choose(logits, p, isa).id, 4);
    p.logit_bias = {};
    p.banned = banned;
    CHECK_EQ(choose(logits, p, isa).id, 4);
    p.temperature = 1;
    for (int64_t position = 0; position < 50; ++position) {
      const int32_t id = choose(logits, p, isa, {}, position).id;
      CHECK(id == 0 || id == 3 || id == 4);
    }
  }
}

TEST(rows_without_a_token) {
  const std::vector<int32_t> all = {0, 1, 2};
  for (const Isa isa : available_isas()) {
    for (const float bad : {std::nanf(""), kInfinity}) {
      for (const int64_t vocab : kVocabs) {
        std::vector<float> logits = random_logits(vocab, 1);
        logits[static_cast<size_t>(vocab - 1)] = bad;
        const cpu::SampleResult r = choose(logits, {}, isa);
        CHECK(!r.finite && r.id == -1 && std::isnan(r.logprob));
      }
    }
    CHECK(!choose({-kInfinity, -kInfinity}, {}, isa).finite);
    cpu::SamplingParams p;
    p.banned = all;
    CHECK(!choose({1, 2, 3}, p, isa).finite);
    const cpu::SampleResult one = choose({-kInfinity, 3e38f, -kInfinity}, {}, isa);
    CHECK(one.finite && one.id == 1 && one.logprob == 0.0f);
    p = {};
    p.repetition_penalty = 0.01f;  // the quotient would be infinite
    p.temperature = 1e-45f;
    CHECK_EQ(choose({1, 3e38f, 2}, p, isa, {1}).id, 1);
    int32_t id = 0;
    float logprob = 0;
    const std::vector<float> nothing = {kInfinity};
    const Memory scratch(1);
    CHECK(!cpu::top_logprobs(&id, &logprob, 1, nothing.data(), 1, scratch.bytes, isa));
    CHECK(id == -1 && std::isnan(logprob));
  }
}

TEST(one_sentence_for_every_bad_field) {
  const auto sentence = [](auto change) {
    cpu::SamplingParams p;
    change(p);
    return cpu::sampling_why_not(p, 10);
  };
  const float nan = std::nanf("");
  const std::vector<std::pair<int32_t, float>> outside = {{1, 1.0f}, {10, 1.0f}}, nans = {{1, nan}};
  const std::vector<int32_t> banned = {-1};
  const std::vector<std::pair<std::string, std::string>> cases = {
      {sentence([&](auto& p) { p.temperature = -1; }), "temperature is -1"},
      {sentence([&](auto& p) { p.temperature = nan; }), "temperature is nan"},
      {sentence([&](auto& p) { p.temperature = kInfinity; }), "temperature is inf"},
      {sentence([&](auto& p) { p.top_k = -1; }), "top_k is -1"},
      {sentence([&](auto& p) { p.top_p = 0; }), "top_p is 0"},
      {sentence([&](auto& p) { p.top_p = 1.5f; }), "top_p is 1.5"},
      {sentence([&](auto& p) { p.min_p = nan; }), "min_p is nan"},
      {sentence([&](auto& p) { p.repetition_penalty = 0; }), "repetition_penalty is 0"},
      {sentence([&](auto& p) { p.presence_penalty = 101; }), "presence_penalty is 101"},
      {sentence([&](auto& p) { p.frequency_penalty = nan; }), "frequency_penalty is nan"},
      {sentence([&](auto& p) { p.logit_bias = outside; }), "logit_bias[1] is for id 10"},
      {sentence([&](auto& p) { p.logit_bias = nans; }), "logit_bias[0] of id 1 is nan"},
      {sentence([&](auto& p) { p.banned = banned; }), "banned[0] is -1"},
  };
  for (const auto& [got, part] : cases) {
    if (got.find(part) != 0) fail(__FILE__, __LINE__, concat("'", got, "' lacks '", part, "'"));
  }
  CHECK(!cpu::sampling_why_not({}, 0).empty());
  CHECK(!cpu::sampling_why_not({}, (int64_t{1} << 22) + 1).empty());
  cpu::SamplingParams p;
  p.presence_penalty = 1;
  CHECK_THROWS(InvalidArgument, choose({1, 2}, p, Isa::kPortable, {2}), "history[0] is 2");
}

}  // namespace
}  // namespace tgv::test

TEST_MAIN()
