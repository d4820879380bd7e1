// A request as the engine's thread works on it: its sequences in the cache, what each is fed next,
// and what is made of the logits. One subclass for each kind of request.
//
// The scheduler knows this class only. In each step it feeds some tokens of some lanes, has
// compute() called for every row of logits (in parallel), and then fed() for every lane in turn. A
// job whose tokens the backend draws says what to draw beforehand, and gets that in place of
// logits.
#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/isa.h"
#include "engine/clock.h"
#include "engine/fingerprint.h"
#include "engine/request.h"
#include "engine/submission.h"
#include "kv/kv_cache.h"
#include "model/draw.h"
#include "model/step_token.h"

namespace tgv::engine {

// What all jobs of an engine share.
struct Context {
  kv::KVCache* cache = nullptr;
  int64_t vocab = 0;
  Isa isa = Isa::kPortable;
  const std::vector<std::string>* token_bytes = nullptr;  // [V], or empty
  model::DrawLimits draw_limits = {};                     // of the backend
};

// What one thread needs for one row of logits.
class Scratch {
 public:
  explicit Scratch(int64_t vocab);
  void* sampling() { return lines_.data(); }  // cpu::sampling_scratch_bytes(V), aligned
  float* row() { return row_.data(); }        // [V]

 private:
  struct alignas(64) Line {
    uint8_t bytes[64];
  };
  std::vector<Line> lines_;
  std::vector<float> row_;
};

// A sequence and what it is to be fed. Nothing of it is in the cache while `sequence` is 0.
struct Lane {
  kv::SequenceId sequence = 0;
  std::vector<model::StepToken> tokens;
  std::vector<int64_t> keys;  // of the tokens
  int64_t fed = 0;            // so many of them are in the cache
  int64_t first_logit = 0;    // logits are wanted from this token on
  bool bulk = false;          // many tokens that may come in several steps

  int64_t size() const { return static_cast<int64_t>(tokens.size()); }
  int64_t left() const { return size() - fed; }
  int64_t logits_of_next(int64_t count) const;  // rows, if the next `count` tokens are fed
  void clear();
  void add(int32_t id);
};

class Job {
 public:
  Job(std::shared_ptr<Request> request, Submission&& submission, const Room& room,
      const Context& context, std::vector<int64_t> keys);
  virtual ~Job() = default;
  Job(const Job&) = delete;
  Job& operator=(const Job&) = delete;

  Request& request() { return *request_; }
  const Request& request() const { return *request_; }
  const std::vector<int64_t>& keys() const { return keys_; }  // of the prompt; [T]
  const Room& room() const { return room_; }
  const Stats& stats() const { return stats_; }

  // --- admission -------------------------------------------------------------------------------
  kv::Reservation reservation() const { return {keys_, room_.new_positions, room_.sequences}; }
  void admit();  // throws CapacityError

  // --- a step ----------------------------------------------------------------------------------
  std::span<Lane> lanes() { return lanes_; }
  bool has_read_prompt() const { return has_read_prompt_; }
  // Whether others can find what was read of the prompt.
  virtual bool commits_prompt() const { return true; }
  // Whether the reader keeps up: what the next step may say fits its queue.
  bool has_room(int64_t steps = 1) { return request_->has_room(steps * events_of_step()); }

  // Logits after tokens[token] of a lane. Called on any thread, for several rows at once.
  virtual void compute(size_t lane, int64_t token, const float* logits, Scratch& scratch) = 0;

  // Whether the backend draws this job's tokens: then these two are called and compute() is not.
  // The same for as long as the job lives: a device's log-probabilities are not the host's to the
  // bit.
  virtual bool is_drawn() const { return false; }
  // Appends what is to be drawn after tokens[token] of a lane; the row is filled in by the caller.
  virtual void add_draws(std::vector<model::Draw>& /*draws*/, size_t /*lane*/, int64_t /*token*/) {}
  // How many tokens more than the next one of a lane the backend may draw and feed by itself; 0:
  // the next one is the last. -1: the job must see every one of them first.
  virtual int64_t may_go_ahead(size_t /*lane*/) const { return -1; }
  // What they came to.
  virtual void take_draws(size_t /*lane*/, int64_t /*token*/,
                          std::span<const model::Drawn> /*drawn*/) {}

  // So many further tokens of the lane are in the cache and their logits have been seen.
  void fed(size_t lane, int64_t count);

  // --- the end ---------------------------------------------------------------------------------
  bool is_finished() const { return is_finished_; }
  Reason reason() const { return reason_; }  // once it is

  // Gives the sequences back and says what there is to say for this reason. Once; later calls do
  // nothing.
  void finish(Reason reason, std::string message) noexcept;

  // Lets the reader know of the end. Once, after finish().
  void deliver_end() noexcept { request_->finish(reason_, std::move(message_), stats_); }

 protected:
  // The whole prompt is in the cache, and compute() was called for its last position.
  virtual void on_prompt() = 0;
  // All tokens of this lane are in the cache, not committed.
  virtual void on_lane(size_t lane) = 0;
  // After each part of the prompt, before on_prompt.
  virtual void on_part(int64_t /*first*/, int64_t /*count*/) {}
  // The deadline has come: the best so far may be said.
  virtual void on_deadline() {}
  virtual int64_t events_of_step() const = 0;

  kv::KVCache& cache() const { return *context_.cache; }
  const Context& context() const { return context_; }
  int64_t prompt_length() const { return static_cast<int64_t>(keys_.size()); }
  int32_t prompt_id(int64_t position) const { return ids_[static_cast<size_t>(position)]; }
  Lane& lane(int64_t index) { return lanes_[static_cast<size_t>(index)]; }
  int64_t lane_count() const { return static_cast<int64_t>(lanes_.size()); }
  void say(Event event) { request_->put(std::move(event)); }
  void count_token();  // for the stats
  void count_draft(int64_t drafted, int64_t accepted);
  void set_first_logit(int64_t position) { lanes_[0].first_logit = position; }
  void release(Lane& lane) noexcept;
  void set_finished(Reason reason) noexcept { finish(reason, ""); }

 private:
  void feed_prompt();
  void take_pages(const Lane& first);
  void close_times() noexcept;

  const std::shared_ptr<Request> request_;
  const Room room_;
  const Context context_;
  const std::vector<int64_t> keys_;
  const std::vector<int32_t> ids_;
  std::vector<float> embeddings_;             // until the prompt was read
  std::shared_ptr<const PrefixPages> pages_;  // until it is admitted; or null
  std::vector<Lane> lanes_;                   // [room_.sequences]
  bool has_read_prompt_ = false;
  bool is_finished_ = false;
  Reason reason_ = Reason::kStop;
  std::string message_;
  Stats stats_;
  Time admitted_ = kNever, read_ = kNever;
};

// A list, because its elements move from one to another without memory.
using Jobs = std::list<std::unique_ptr<Job>>;

// The job for a submission that was checked. Called on the submitter's thread.
std::unique_ptr<Job> make_job(std::shared_ptr<Request> request, Submission&& submission,
                              const Limits& limits, const Context& context,
                              const Fingerprint& fingerprint);

// Throws Error if there is NaN or +inf among the logits [V]. (-inf is a logit like any other.)
void check_logits(const float* logits, int64_t vocab);

}  // namespace tgv::engine
