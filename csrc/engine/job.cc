#include "engine/job.h"

#include <algorithm>
#include <cmath>
#include <type_traits>
#include <utility>

#include "base/errors.h"
#include "engine/beam_job.h"
#include "engine/generate_job.h"
#include "engine/logits_job.h"
#include "engine/pages_job.h"
#include "engine/score_job.h"

namespace tgv::engine {

namespace {

// A negative key for each position that is an embedding, and for the first of a prompt that brings
// its pages. `fresh_from`: positions from there on get
// keys that nothing in the cache has, because their logits are wanted.
std::vector<int64_t> keys_of(const Prompt& prompt, const Fingerprint& fingerprint,
                             int64_t fresh_from, uint64_t request) {
  std::vector<int64_t> keys(prompt.ids.begin(), prompt.ids.end());
  const float* row = prompt.embeddings.data();
  for (int64_t& key : keys) {
    if (key >= 0) continue;
    key = fingerprint.row_key(row, prompt.embedding_width);
    row += prompt.embedding_width;
  }
  if (prompt.pages) keys[0] = fingerprint.brought_key(keys[0], prompt.pages->digest);
  for (size_t i = static_cast<size_t>(fresh_from); i < keys.size(); ++i) {
    keys[i] = fingerprint.fresh_key((request << 24) + i);  // max_positions <= 2^20
  }
  return keys;
}

}  // namespace

Scratch::Scratch(int64_t vocab)
    : lines_(cpu::sampling_scratch_bytes(vocab) / sizeof(Line) + 1),
      row_(static_cast<size_t>(vocab)) {}

// --- Lane ----------------------------------------------------------------------------------------
int64_t Lane::logits_of_next(int64_t count) const {
  return std::max<int64_t>(0, fed + count - std::max(fed, first_logit));
}

void Lane::clear() {
  tokens.clear();
  keys.clear();
  fed = 0;
  first_logit = 0;
  bulk = false;
}

void Lane::add(int32_t id) {
  tokens.push_back({id, nullptr});
  keys.push_back(id);
}

// --- Job -----------------------------------------------------------------------------------------
Job::Job(std::shared_ptr<Request> request, Submission&& submission, const Room& room,
         const Context& context, std::vector<int64_t> keys)
    : request_(std::move(request)),
      room_(room),
      context_(context),
      keys_(std::move(keys)),
      ids_(std::move(submission.prompt.ids)),
      embeddings_(std::move(submission.prompt.embeddings)),
      pages_(std::move(submission.prompt.pages)),
      lanes_(static_cast<size_t>(room.sequences)) {
  stats_.prompt = prompt_length();
  feed_prompt();
}

void Job::feed_prompt() {
  Lane& first = lanes_[0];
  first.keys = keys_;
  first.tokens.reserve(ids_.size());
  const size_t rows = static_cast<size_t>(std::count(ids_.begin(), ids_.end(), -1));
  const size_t width = rows ? embeddings_.size() / rows : 0;
  const float* row = embeddings_.data();
  for (const int32_t id : ids_) {
    first.tokens.push_back(id >= 0 ? model::StepToken{id, nullptr} : model::StepToken{0, row});
    if (id < 0) row += width;
  }
  first.first_logit = first.size() - 1;
  first.bulk = true;
}

void Job::admit() {
  Lane& first = lanes_[0];
  first.sequence = cache().reserve(reservation());
  take_pages(first);
  first.fed = cache().length(first.sequence);
  stats_.cached = first.fed;
  admitted_ = Clock::now();
  stats_.queue_ms = ms_between(request_->submitted(), admitted_);
}

// What the request has brought and the cache has not, as if it had been computed: up to the first
// position whose logits are wanted.
void Job::take_pages(const Lane& first) {
  if (!pages_) return;
  const int64_t found = cache().length(first.sequence) / kv::kPageTokens;
  const int64_t wanted = std::min(pages_->pages(), first.first_logit / kv::kPageTokens);
  for (int64_t page = found; page < wanted; ++page) {
    const kv::Keys keys(keys_);
    cache().append(first.sequence,
                   keys.subspan(static_cast<size_t>(page * kv::kPageTokens), kv::kPageTokens));
    cache().write_page(first.sequence, page, pages_->page_numbers(page), pages_->page_scales(page));
  }
  cache().commit(first.sequence);
  stats_.brought = std::max<int64_t>(0, wanted - found) * kv::kPageTokens;
  pages_ = nullptr;
}

void Job::fed(size_t index, int64_t count) {
  Lane& lane = lanes_[index];
  lane.fed += count;
  if (has_read_prompt_) {
    if (lane.left() == 0) on_lane(index);
    return;
  }
  if (commits_prompt()) cache().commit(lane.sequence);
  on_part(lane.fed - count, count);
  if (lane.left() > 0) return;
  has_read_prompt_ = true;
  read_ = Clock::now();
  stats_.prefill_ms = ms_between(admitted_, read_);
  lane.clear();
  embeddings_ = {};
  on_prompt();
}

void Job::count_token() {
  if (stats_.generated++ == 0) {
    stats_.first_token_ms = ms_between(request_->submitted(), Clock::now());
  }
}

void Job::count_draft(int64_t drafted, int64_t accepted) {
  stats_.drafted += drafted;
  stats_.accepted += accepted;
}

void Job::release(Lane& lane) noexcept {
  lane.clear();
  const kv::SequenceId sequence = std::exchange(lane.sequence, 0);
  if (sequence != 0) cache().release(sequence);
}

void Job::close_times() noexcept {
  const Time now = Clock::now();
  stats_.total_ms = ms_between(request_->submitted(), now);
  if (admitted_ == kNever) {
    stats_.queue_ms = stats_.total_ms;
  } else if (read_ == kNever) {
    stats_.prefill_ms = ms_between(admitted_, now);
  } else {
    stats_.decode_ms = ms_between(read_, now);
  }
}

void Job::finish(Reason reason, std::string message) noexcept {
  if (std::exchange(is_finished_, true)) return;
  reason_ = reason;
  message_ = std::move(message);
  if (reason == Reason::kDeadline) {
    try {
      on_deadline();
    } catch (...) {  // no memory for the best so far: the end itself gets through
    }
  }
  for (Lane& lane : lanes_) release(lane);
  close_times();
}

std::unique_ptr<Job> make_job(std::shared_ptr<Request> request, Submission&& submission,
                              const Limits& limits, const Context& context,
                              const Fingerprint& fingerprint) {
  const Room room = room_of(submission, limits);
  const auto* logits = std::get_if<Logits>(&submission.task);
  const int64_t fresh_from =
      logits ? logits->first : static_cast<int64_t>(submission.prompt.ids.size());
  auto keys =
      keys_of(submission.prompt, fingerprint, fresh_from, static_cast<uint64_t>(request->id()));
  auto task = std::move(submission.task);
  return std::visit(
      [&]<class Task>(Task& asked) -> std::unique_ptr<Job> {
        const auto make = [&]<class Kind>(std::type_identity<Kind>) {
          return std::make_unique<Kind>(std::move(request), std::move(submission), std::move(asked),
                                        room, context, std::move(keys));
        };
        if constexpr (std::is_same_v<Task, Generate>) {
          return make(std::type_identity<GenerateJob>());
        } else if constexpr (std::is_same_v<Task, Beams>) {
          return make(std::type_identity<BeamJob>());
        } else if constexpr (std::is_same_v<Task, Score>) {
          return make(std::type_identity<ScoreJob>());
        } else if constexpr (std::is_same_v<Task, Pages>) {
          return make(std::type_identity<PagesJob>());
        } else {
          return make(std::type_identity<LogitsJob>());
        }
      },
      task);
}

void check_logits(const float* logits, int64_t vocab) {
  const float* end = logits + vocab;
  const float* bad = std::find_if_not(logits, end, [](float x) { return x < INFINITY; });
  if (bad != end) {
    throw Error(concat("the model computed ", *bad, " as the logit of id ", bad - logits));
  }
}

}  // namespace tgv::engine
