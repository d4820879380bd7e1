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

bool Step::run(const Jobs& jobs, Metrics& metrics) {
  const Time began = Clock::now();
  plan(jobs);
  append();
  if (parts_.empty()) return false;
  const bool is_whole = decode(metrics);
  if (is_whole) {
    compute();
    deliver();
  }
  metrics.last_step_ms = ms_between(began, Clock::now());
  metrics.busy_seconds += 1e-3 * metrics.last_step_ms;
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

void Step::append() {
  for (Part& part : parts_) {
    guarded(*part.job, [&] {
      const Lane& lane = part.at();
      const kv::Keys keys(lane.keys);
      part.before = cache_.length(lane.sequence);
      cache_.append(lane.sequence,
                    keys.subspan(static_cast<size_t>(lane.fed), static_cast<size_t>(part.count)));
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
         !part.job->is_drawn()});
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
