// kernels/cuda/advance against the same on the host.
#include <algorithm>
#include <random>
#include <vector>

#include "kernels/cuda/launch.cuh"
#include "tests/check.h"
#include "tests/device_array.h"
#include "tests/schedules.h"

namespace tgv::test {
namespace {

using namespace tgv::cuda;

constexpr int kSteps = 4, kHistory = 12;  // room of a row

// What the kernel reads and changes, on the host.
struct State {
  std::vector<int32_t> ids, positions, lengths, logit_rows, history, answers, steps{0};
  std::vector<int64_t> counters;
  std::vector<SamplingSettings> settings;
  std::vector<AdvanceRow> rows;

  State(int count, std::mt19937& random) {
    for (int r = 0; r < count; ++r) {
      const bool there = random() % 5 != 0;
      ids.push_back(there ? static_cast<int32_t>(random() % 50) : 0);
      positions.push_back(there ? static_cast<int32_t>(random() % 900) : -1);
      lengths.push_back(positions.back() + 1);
      logit_rows.push_back(there ? r : -1);
      counters.push_back(int64_t{1} << 33 | (random() % 900));
      SamplingSettings s;
      if (random() % 3 == 0) s.frequency_penalty = 0.5f;
      if (random() % 3 == 0) s.repetition_penalty = 1.5f;
      s.history_begin = r * kHistory;
      s.history_end = s.history_begin + static_cast<int32_t>(random() % 4);
      s.banned_begin = r;
      s.banned_end = r + static_cast<int32_t>(random() % 2);
      settings.push_back(s);
      AdvanceRow row;
      row.left = 1 + static_cast<int32_t>(random() % 5);
      row.banned_left = static_cast<int32_t>(random() % 4) - 1;
      row.ends = static_cast<int32_t>(random() % (kAdvanceMostEnds + 1));
      for (int i = 0; i < row.ends; ++i) row.end_ids[i] = static_cast<int32_t>(random() % 50);
      rows.push_back(row);
    }
    history.assign(static_cast<size_t>(count) * kHistory, -7);
    answers.assign(static_cast<size_t>(2 * kSteps * count), -9);
  }
  size_t count() const { return ids.size(); }
};

void end_row(State& s, size_t r) {
  s.ids[r] = 0, s.positions[r] = -1, s.lengths[r] = 0, s.logit_rows[r] = -1;
}

bool is_penalized(const SamplingSettings& s) {
  return s.repetition_penalty != 1 || s.presence_penalty != 0 || s.frequency_penalty != 0;
}

void advance_on_host(State& s, const std::vector<int32_t>& drawn,
                     const std::vector<int32_t>& logprobs) {
  const size_t count = s.count(), step = static_cast<size_t>(s.steps[0]++);
  for (size_t r = 0; r < count; ++r) {
    const bool draws = s.logit_rows[r] >= 0;
    s.answers[2 * step * count + r] = draws ? drawn[r] : -1;
    s.answers[(2 * step + 1) * count + r] = logprobs[r];
    if (!draws) continue;
    AdvanceRow& row = s.rows[r];
    if (drawn[r] < 0) {
      end_row(s, r);
      continue;
    }
    --row.left;
    if (row.left == 0 || std::count(row.end_ids, row.end_ids + row.ends, drawn[r])) {
      end_row(s, r);
      continue;
    }
    SamplingSettings& settings = s.settings[r];
    if (is_penalized(settings)) {
      s.history[static_cast<size_t>(settings.history_end)] = drawn[r];
      ++settings.history_end;
    }
    --row.banned_left;
    if (row.banned_left <= 0) settings.banned_end = settings.banned_begin;
    ++s.counters[r], ++s.positions[r], ++s.lengths[r];
    s.ids[r] = drawn[r];
  }
}

template <class T>
void check_same(DeviceArray<T>& got, const std::vector<T>& expected, const char* name) {
  CHECK(got.guards_intact());
  const std::vector<T> values = got.download();
  for (size_t i = 0; i < expected.size(); ++i) {
    if (values[i] != expected[i]) {
      fail(__FILE__, __LINE__, concat(name, "[", i, "] is ", values[i], ", not ", expected[i]));
    }
  }
}

// kSteps steps on both; tokens are any, some of them none.
void check(int count) {
  std::mt19937 random(static_cast<unsigned>(count));
  State s(count, random);
  DeviceArray<int32_t> ids(s.ids), positions(s.positions), lengths(s.lengths),
      logit_rows(s.logit_rows), history(s.history), answers(s.answers), steps(s.steps);
  DeviceArray<int64_t> counters(s.counters);
  DeviceArray<SamplingSettings> settings(s.settings);
  DeviceArray<AdvanceRow> rows(s.rows);
  for (int step = 0; step < kSteps; ++step) {
    std::vector<int32_t> drawn, logprobs;
    for (int r = 0; r < count; ++r) {
      drawn.push_back(static_cast<int32_t>(random() % 60) - 2);
      logprobs.push_back(static_cast<int32_t>(random() % 0x7f000000u));  // bits
    }
    DeviceArray<int32_t> tokens(drawn), bits(logprobs);
    AdvanceParams p;
    p.rows = count, p.most_steps = kSteps;
    p.drawn = tokens.data(), p.logprobs = reinterpret_cast<const float*>(bits.data());
    p.ids = ids.data(), p.positions = positions.data(), p.lengths = lengths.data();
    p.settings = settings.data(), p.counters = counters.data(), p.logit_rows = logit_rows.data();
    p.history = history.data(), p.state = rows.data();
    p.answers = answers.data(), p.steps = steps.data();
    launch_advance(p, {});
    advance_on_host(s, drawn, logprobs);
  }
  check_same(ids, s.ids, "ids");
  check_same(positions, s.positions, "positions");
  check_same(lengths, s.lengths, "lengths");
  check_same(logit_rows, s.logit_rows, "logit_rows");
  check_same(history, s.history, "history");
  check_same(answers, s.answers, "answers");
  check_same(steps, s.steps, "steps");
  check_same(counters, s.counters, "counters");
  const std::vector<SamplingSettings> settings_now = settings.download();
  const std::vector<AdvanceRow> rows_now = rows.download();
  for (size_t r = 0; r < s.count(); ++r) {
    CHECK_EQ(settings_now[r].history_end, s.settings[r].history_end);
    CHECK_EQ(settings_now[r].banned_end, s.settings[r].banned_end);
  }
  CHECK(settings.guards_intact() && rows.guards_intact());
}

TEST(steps_are_the_hosts) {
  for (const int count : {1, 3, 255, 256, 257, 600}) check(count);
}

TEST(schedules_change_nothing) {
  for_each_schedule([] { check(300); });
}

// Threads would read the number of the step after another has raised it.
TEST(the_barrier_matters) {
  if (kCanMutate) CHECK(mutation_is_seen(0, false, [] { check(300); }));
}

TEST(what_it_cannot_take_is_said) {
  AdvanceParams p;
  CHECK_EQ(advance_why_not(p), "B is 0, expected 1..65535");
  p.rows = 1;
  CHECK_EQ(advance_why_not(p), "most_steps is 0, expected 1..1024");
  p.most_steps = 2;
  CHECK_EQ(advance_why_not(p), "drawn or logprobs is null");
}

}  // namespace
}  // namespace tgv::test

TEST_MAIN()
