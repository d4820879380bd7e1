#include "engine/step.h"

#include <algorithm>
#include <exception>

namespace tgv::engine {

namespace {

// Runs what concerns one job alone; what it throws ends that job.
template <class Body>
void guarded(Job& job, const Body& body) noexcept {
  if (job.is_finished()) return;
  try {
    body();
  } catch (const std::exception& error) {
    std::string message;
    try {
      message = error.what();
    } catch (...) {  // no memory for the words
    }
    job.finish(Reason::kError, std::move(message));
  } catch (...) {
    job.finish(Reason::kError, {});
  }
}

}  // namespace

Step::Step(model::Backend& backend, kv::KVCache& cache, ThreadPool& pool, const StepSizes& sizes)
    : backend_(backend),
      cache_(cache),
      pool_(pool),
      logit_rows_(sizes.logit_rows),
      share_(sizes.prefill_chunk),
      scratch_(static_cast<size_t>(pool.threads()), Scratch(sizes.vocab)) {
  rows_.reserve(static_cast<size_t>(sizes.logit_rows));
  draws_.reserve(static_cast<size_t>(backend.draw_limits().draws));
  drawn_.reserve(draws_.capacity());
}

bool Step::run(const Jobs& jobs, bool may_go_ahead, Metrics& metrics) {
  const Time began = Clock::now();
  plan(jobs);
  if (may_go_ahead) look_ahead();
  append();
  if (parts_.empty()) return false;
  const bool is_whole = decode(metrics);
  if (is_whole) {
    compute();
    deliver();
    go_on(metrics);
  }
  const double ms = ms_between(began, Clock::now());
  metrics.last_step_ms = step_ms_ = ms / static_cast<double>(is_whole ? backend_.steps() : 1);
  metrics.busy_seconds += 1e-3 * ms;
  if (is_whole) share_.learn(tokens(false), tokens(true), metrics.last_step_ms);
  metrics.prefill_share = share_.tokens();
  return true;
}

int64_t Step::tokens(bool bulk) const {
  int64_t count = 0;
  for (const Part& part : parts_) count += part.bulk == bulk ? part.count : 0;
  return count;
}

// --- what is in it -----------------------------------------------------------------------------
void Step::plan(const Jobs& jobs) {
  parts_.clear();
  jobs_.clear();
  for (const auto& job : jobs) {
    if (!job->is_finished() && job->has_room()) jobs_.push_back(job.get());
  }
  for (Job* job : jobs_) {
    for (size_t i = 0; i < job->lanes().size(); ++i) {
      const Lane& lane = job->lanes()[i];
      const int64_t left = lane.left();
      if (left > 0 && !lane.bulk)
        parts_.push_back({job, i, left, lane.logits_of_next(left), 0, false});
    }
  }
  const auto decoding = static_cast<std::ptrdiff_t>(parts_.size());
  plan_prompts(jobs_);
  // Long ones first, as the CPU's decoder begins with the first.
  std::rotate(parts_.begin(), parts_.begin() + decoding, parts_.end());
}

// First come, first served, within the share of a step that decodes and the rows of logits there
// are.
void Step::plan_prompts(std::span<Job* const> jobs) {
  int64_t share = parts_.empty() ? share_.most() : share_.tokens();
  int64_t rows = logit_rows_;
  for (const Part& part : parts_) rows -= part.logits;
  for (Job* job : jobs) {
    for (size_t i = 0; i < job->lanes().size(); ++i) {
      const Lane& lane = job->lanes()[i];
      if (!lane.bulk) continue;
      const int64_t until_rows = std::max(lane.fed, lane.first_logit) + rows - lane.fed;
      const int64_t count = std::min({lane.left(), share, until_rows});
      if (count <= 0) continue;
      parts_.push_back({job, i, count, lane.logits_of_next(count), 0, true});
      share -= count;
      rows -= parts_.back().logits;
    }
  }
}

// So far that no deadline passes unseen meanwhile: as many steps as fit before the first.
int64_t Step::steps_ahead() const {
  Time first = kNever;
  for (const Part& part : parts_) first = std::min(first, part.job->request().over_at());
  if (first == kNever) return backend_.most_steps() - 1;
  const Time now = Clock::now();
  if (first <= now) return 0;
  const double left_ms = ms_between(now, first);
  const double fit = step_ms_ > 0 ? left_ms / step_ms_ : 0;
  const double most = static_cast<double>(backend_.most_steps() - 1);
  return static_cast<int64_t>(std::clamp(fit - 1, 0.0, most));
}

void Step::look_ahead() {
  const int64_t steps = steps_ahead();
  if (steps <= 0) return;
  const auto can = [&](const Part& part) {
    return !part.bulk && part.count == 1 && part.logits == 1 && part.job->is_drawn() &&
           part.job->has_room(steps + 1);
  };
  if (!std::ranges::all_of(parts_, can)) return;
  int64_t most = 0;
  for (const Part& part : parts_) {
    const int64_t ahead = part.job->may_go_ahead(part.lane);
    if (ahead < 0) return;  // it would have to wait for the others
    most = std::max(most, ahead);
  }
  for (Part& part : parts_) {
    part.ahead = std::min({steps, most, part.job->may_go_ahead(part.lane)});
  }
}

void Step::append() {
  for (Part& part : parts_) {
    guarded(*part.job, [&] {
      const Lane& lane = part.at();
      const kv::Keys keys(lane.keys);
      part.before = cache_.length(lane.sequence);
      cache_.append(lane.sequence,
                    keys.subspan(static_cast<size_t>(lane.fed), static_cast<size_t>(part.count)));
      if (part.ahead) cache_.cover(lane.sequence, part.before + part.count + part.ahead);
    });
  }
  std::erase_if(parts_, [](const Part& part) { return part.job->is_finished(); });
}

// --- running it --------------------------------------------------------------------------------
// In the order of the segments, with the draws from each.
void Step::list_rows() {
  rows_.clear();
  draws_.clear();
  for (const Part& part : parts_) {
    const int64_t end = part.at().fed + part.count;
    for (int64_t token = end - part.logits; token < end; ++token) {
      const size_t first = draws_.size();
      if (part.job->is_drawn()) part.job->add_draws(draws_, part.lane, token);
      for (size_t i = first; i < draws_.size(); ++i) {
        draws_[i].row = static_cast<int64_t>(rows_.size());
      }
      rows_.push_back({part.job, part.lane, token, first, draws_.size() - first, {}});
    }
  }
}

bool Step::decode(Metrics& metrics) {
  list_rows();
  segments_.clear();
  requests_.clear();
  for (const Part& part : parts_) {
    const Lane& lane = part.at();
    const std::span<const model::StepToken> all(lane.tokens);
    segments_.push_back(
        {cache_.block_table(lane.sequence), part.before,
         all.subspan(static_cast<size_t>(lane.fed), static_cast<size_t>(part.count)), part.logits,
         !part.job->is_drawn(), part.ahead});
    requests_.push_back(&part.job->request());
  }
  bool is_whole = false;
  std::string error;
  try {
    watch_.begin(requests_);
    is_whole = backend_.step(segments_, draws_, &watch_.flag());
    watch_.end();
  } catch (...) {
    watch_.end();
    const std::exception_ptr thrown = std::current_exception();
    for (const Part& part : parts_) guarded(*part.job, [&] { std::rethrow_exception(thrown); });
    return false;
  }
  if (!is_whole) {
    take_back();
    ++metrics.steps_given_up;
    return false;
  }
  ++metrics.steps;
  metrics.prefill_tokens += tokens(true);
  metrics.decode_tokens += tokens(false);
  return true;
}

// Everybody in a step that was given up is about to end; the cache is put right all the same.
void Step::take_back() noexcept {
  for (const Part& part : parts_) {
    guarded(*part.job, [&] { cache_.truncate(part.at().sequence, part.before); });
  }
}

// --- what comes out ----------------------------------------------------------------------------
void Step::compute() {
  drawn_.clear();
  for (size_t i = 0; i < draws_.size(); ++i) {
    drawn_.push_back(backend_.drawn(static_cast<int64_t>(i)));
  }
  const int64_t count = static_cast<int64_t>(rows_.size());
  const auto reads_logits = [](const Row& row) { return row.draws == 0; };
  if (std::ranges::count_if(rows_, reads_logits) <= 1) {  // what was drawn is not worth waking for
    for (int64_t row = 0; row < count; ++row) compute_row(row, 0);
    return;
  }
  pool_.run([&](int worker) {
    for (int64_t row = pool_.claim(1); row < count; row = pool_.claim(1)) compute_row(row, worker);
  });
}

void Step::compute_row(int64_t index, int worker) {
  Row& row = rows_[static_cast<size_t>(index)];
  try {
    if (row.draws > 0) {
      const std::span<const model::Drawn> all(drawn_);
      row.job->take_draws(row.lane, row.token, all.subspan(row.first_draw, row.draws));
    } else {
      row.job->compute(row.lane, row.token, backend_.logits(index),
                       scratch_[static_cast<size_t>(worker)]);
    }
  } catch (const std::exception& error) {
    row.error = error.what();
    if (row.error.empty()) row.error = "an unknown error";
  }
}

// Tokens of further steps, as if each had been a step of its own; a sequence that has ended has no
// more, whatever was drawn for it.
void Step::go_on(Metrics& metrics) {
  for (int64_t step = 1; step < backend_.steps(); ++step) {
    ++metrics.steps;
    for (size_t i = 0; i < parts_.size(); ++i) {
      const Part& part = parts_[i];
      if (part.ahead < step || part.job->is_finished() || part.at().sequence == 0) continue;
      ++metrics.decode_tokens;
      guarded(*part.job, [&] {
        cache_.append(part.at().sequence, part.at().keys);
        const model::Drawn drawn = backend_.drawn(static_cast<int64_t>(i), step);
        part.job->take_draws(part.lane, 0, std::span(&drawn, 1));
        part.job->fed(part.lane, 1);
      });
    }
  }
  give_back_pages();
}

// Of steps ahead that were not done.
void Step::give_back_pages() noexcept {
  for (const Part& part : parts_) {
    if (part.ahead == 0) continue;
    guarded(*part.job, [&] {
      if (part.at().sequence) cache_.cover(part.at().sequence, 0);
    });
  }
}

void Step::deliver() {
  for (Row& row : rows_) {
    if (!row.error.empty() && !row.job->is_finished()) {
      row.job->finish(Reason::kError, std::move(row.error));
    }
  }
  for (const Part& part : parts_) {
    guarded(*part.job, [&] { part.job->fed(part.lane, part.count); });
  }
}

}  // namespace tgv::engine
