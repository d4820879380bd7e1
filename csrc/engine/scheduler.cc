#include "engine/scheduler.h"

#include <algorithm>
#include <exception>

namespace tgv::engine {

namespace {

int64_t common_pages(std::span<const int64_t> a, std::span<const int64_t> b) {
  const auto [end, other] = std::ranges::mismatch(a, b);
  return (end - a.begin()) / kv::kPageTokens;
}

}  // namespace

Scheduler::Scheduler(kv::KVCache& cache, Step& step, int64_t max_sequences)
    : cache_(cache), step_(step), max_sequences_(max_sequences) {}

void Scheduler::add(std::unique_ptr<Job>& job) {
  waiting_.emplace_back();
  waiting_.back() = std::move(job);
  ++metrics_.submitted;
}

bool Scheduler::iterate() {
  end_those_over();
  sweep();
  admit();
  const bool has_run = step_.run(running_, /*may_go_ahead=*/waiting_.empty(), metrics_);
  // An end makes room for those that wait.
  return sweep() || has_run;
}

Time Scheduler::wake_at() const {
  Time first = kNever;
  for (const auto& job : waiting_) first = std::min(first, job->request().over_at());
  for (const auto& job : running_) first = std::min(first, job->request().over_at());
  return first;
}

// --- the end -----------------------------------------------------------------------------------
void Scheduler::end_those_over() {
  const Time now = Clock::now();
  const auto end = [&](Job& job) {
    const Request& request = job.request();
    if (request.over_at() > now) return;
    job.finish(request.is_cancelled() ? Reason::kCancelled : Reason::kDeadline, {});
  };
  for (const auto& job : waiting_) end(*job);
  for (const auto& job : running_) end(*job);
}

bool Scheduler::sweep() {
  const auto move_ended = [&](Jobs& from) {
    for (auto at = from.begin(); at != from.end();) {
      const auto next = std::next(at);
      if ((*at)->is_finished()) ended_.splice(ended_.end(), from, at);
      at = next;
    }
  };
  const size_t before = ended_.size();
  move_ended(waiting_);
  const size_t waited = ended_.size();
  move_ended(running_);
  size_t index = 0;
  for (const auto& job : ended_) {
    if (index >= before) count_end(*job);
    if (index >= waited) sequences_ -= job->room().sequences;
    ++index;
  }
  return ended_.size() > before;
}

void Scheduler::deliver_ends() noexcept {
  for (const auto& job : ended_) job->deliver_end();
  ended_.clear();
}

void Scheduler::count_end(const Job& job) {
  const Stats& stats = job.stats();
  ++metrics_.ended[static_cast<size_t>(job.reason())];
  metrics_.generated_tokens += stats.generated;
  metrics_.drafted_tokens += stats.drafted;
  metrics_.accepted_tokens += stats.accepted;
}

void Scheduler::end_all(Reason reason, const std::string& message) noexcept {
  const auto end = [&](Job& job) {
    std::string words;
    try {
      words = message;
    } catch (...) {  // no memory for them
    }
    job.finish(reason, std::move(words));
  };
  for (const auto& job : waiting_) end(*job);
  for (const auto& job : running_) end(*job);
  sweep();
}

// --- admission ---------------------------------------------------------------------------------
void Scheduler::admit() {
  while (!waiting_.empty() && can_admit(*waiting_.front())) {
    Job& job = *waiting_.front();
    try {
      job.admit();
    } catch (const std::exception& error) {
      job.finish(Reason::kError, error.what());
      sweep();
      continue;
    }
    metrics_.prompt_tokens += job.stats().prompt;
    metrics_.cached_tokens += job.stats().cached;
    metrics_.brought_tokens += job.stats().brought;
    sequences_ += job.room().sequences;
    running_.splice(running_.end(), waiting_, waiting_.begin());
  }
}

bool Scheduler::can_admit(const Job& job) const {
  return sequences_ + job.room().sequences <= max_sequences_ && !is_being_read(job) &&
         cache_.can_reserve(job.reservation());
}

// Whether somebody is reading more of the same prompt than the cache has: a second question about
// a picture waits for the first one's and finds it, rather than read it again beside it.
bool Scheduler::is_being_read(const Job& job) const {
  int64_t shared = 0;
  for (const auto& other : running_) {
    if (!other->has_read_prompt() && other->commits_prompt()) {
      shared = std::max(shared, common_pages(other->keys(), job.keys()));
    }
  }
  shared = std::min(shared, (static_cast<int64_t>(job.keys().size()) - 1) / kv::kPageTokens);
  return shared > static_cast<int64_t>(cache_.find_prefix(job.keys()).size());
}

Metrics Scheduler::metrics() const {
  Metrics metrics = metrics_;
  metrics.running = static_cast<int64_t>(running_.size());
  metrics.waiting = waiting();
  metrics.kv = cache_.counts();
  return metrics;
}

}  // namespace tgv::engine
