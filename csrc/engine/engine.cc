#include "engine/engine.h"

#include <unistd.h>

#include <cmath>
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>
#include <unordered_map>
#include <utility>

#include "base/errors.h"
#include "base/thread_pool.h"
#include "base/topology.h"
#include "engine/fingerprint.h"
#include "engine/prompt_lookup.h"
#include "engine/scheduler.h"
#include "engine/turn.h"
#include "model/cpu_backend.h"

namespace tgv::engine {

namespace {

void require(bool holds, const char* argument, int64_t value, int64_t least, int64_t most) {
  if (holds) return;
  throw InvalidArgument(concat(argument, " is ", value, ", expected ", least, "..", most));
}

void require_between(const char* argument, int64_t value, int64_t least, int64_t most) {
  require(value >= least && value <= most, argument, value, least, most);
}

EngineOptions checked(EngineOptions options, int64_t vocab) {
  require_between("threads", options.threads, 0, 4096);
  require_between("kv_tokens", options.kv_tokens, 1, int64_t{1} << 31);
  require_between("max_sequences", options.max_sequences, 1, 256);
  require_between("prefill_chunk", options.prefill_chunk, 1, 4096);
  require_between("queue_limit", options.queue_limit, 1, int64_t{1} << 31);
  require_between("event_limit", options.event_limit, 1, int64_t{1} << 31);
  const int64_t texts = static_cast<int64_t>(options.token_bytes.size());
  if (texts != 0 && texts != vocab) {
    throw InvalidArgument(
        concat("token_bytes has ", texts, " texts, expected one for each of ", vocab, " ids"));
  }
  if (options.threads == 0) options.threads = physical_cores();
  return options;
}

kv::Shape cache_shape(const model::Architecture& model, const EngineOptions& options) {
  const int64_t pages = (options.kv_tokens + kv::kPageTokens - 1) / kv::kPageTokens;
  return {pages, model.layers, model.heads, model.head_dim, options.kv_kind};
}

std::shared_ptr<const model::LoadedModel> present(std::shared_ptr<const model::LoadedModel> model) {
  if (!model) throw InvalidArgument("model is null, expected a backbone on some device");
  return model;
}

}  // namespace

// Every sequence may have a draft to verify beside the prompts that are read.
model::BackendOptions backend_options(const model::Architecture& model,
                                      const EngineOptions& options) {
  const int64_t rows = options.max_sequences * (kMostDrafted + 1);
  return {cache_shape(model, options), options.prefill_chunk + rows, rows,
          options.max_sequences,       choose_isa(options.isa),      options.graphs,
          options.early_starts};
}

class Engine::Impl {
 public:
  Impl(std::shared_ptr<const model::LoadedModel> model, EngineOptions options);
  ~Impl() { close(); }

  int64_t submit(Submission submission);
  std::vector<Event> next(int64_t request, double timeout_s);
  void cancel(int64_t request);
  void enter_turn();
  void leave_turn() { turn_.leave(); }
  Metrics metrics() const;
  kv::Counts counts();
  void check();
  void close();

  const EngineOptions& options() const { return options_; }
  const Limits& limits() const { return limits_; }
  bool is_of_this_process() const { return getpid() == process_; }

 private:
  using RequestPointer = std::shared_ptr<Request>;

  void refuse_if_closed() const;  // with mutex_ held
  RequestPointer find(int64_t id) const;
  void refuse_unknown(int64_t id) const;
  void wake();

  void run();  // the thread's life
  bool wait_for_work(bool was_idle);
  bool iterate();
  void publish();
  void end_everything() noexcept;

  const std::shared_ptr<const model::LoadedModel> model_;
  const EngineOptions options_;
  const pid_t process_ = getpid();
  const Fingerprint fingerprint_;
  const model::BackendOptions backend_options_;
  ThreadPool pool_;
  const std::unique_ptr<model::Backend> backend_;
  const Limits limits_;
  kv::KVCache cache_;
  Step step_;
  Scheduler scheduler_;
  Turn turn_;
  std::mutex working_;  // held while cache, backend and scheduler are used

  mutable std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  bool has_news_ = false;
  bool closed_ = false;
  int64_t next_id_ = 1;
  int64_t queued_ = 0;  // submitted and not admitted, as far as is known
  std::vector<std::unique_ptr<Job>> inbox_;
  std::unordered_map<int64_t, RequestPointer> requests_;
  Metrics metrics_;

  std::mutex closing_;  // one closes, others wait for it
  std::thread thread_;
};

Engine::Impl::Impl(std::shared_ptr<const model::LoadedModel> model, EngineOptions options)
    : model_(present(std::move(model))),
      options_(checked(std::move(options), model_->architecture().vocab)),
      backend_options_(backend_options(model_->architecture(), options_)),
      pool_(options_.threads),
      backend_(model_->make_backend(backend_options_, pool_)),
      limits_{model_->architecture(),
              {model_->id(), backend_options_.pages},
              options_.max_sequences,
              !options_.token_bytes.empty(),
              backend_->pages().can_carry()},
      cache_(backend_->pages(), model_->id()),
      step_(*backend_, cache_, pool_,
            {limits_.architecture.vocab, backend_options_.max_logit_rows, options_.prefill_chunk}),
      scheduler_(cache_, step_, options_.max_sequences) {
  publish();
  try {
    thread_ = std::thread([this] { run(); });
  } catch (const std::system_error& error) {
    throw SystemError(concat("the engine's thread cannot be started: ", error.what()));
  }
}

// --- callers -----------------------------------------------------------------------------------
void Engine::Impl::refuse_if_closed() const {
  if (closed_) throw ClosedError("the engine is closed");
}

int64_t Engine::Impl::submit(Submission submission) {
  engine::check(submission, limits_);
  const auto* generate = std::get_if<Generate>(&submission.task);
  const int64_t samples = generate ? generate->samples : 1;
  const Time deadline =
      submission.deadline_s ? after(Clock::now(), *submission.deadline_s) : kNever;
  int64_t id;
  {
    std::lock_guard lock(mutex_);
    refuse_if_closed();
    id = next_id_++;
  }
  const auto request = std::make_shared<Request>(id, samples, deadline, options_.event_limit);
  const Context context{&cache_, limits_.architecture.vocab, backend_options_.isa,
                        &options_.token_bytes, backend_->draw_limits()};
  auto job = make_job(request, std::move(submission), limits_, context, fingerprint_);
  {
    std::lock_guard lock(mutex_);
    refuse_if_closed();
    if (queued_ >= options_.queue_limit) {
      throw CapacityError(
          concat("the queue is full: ", queued_, " requests wait; try again when some have ended"));
    }
    inbox_.reserve(inbox_.size() + 1);
    requests_.emplace(id, request);
    inbox_.push_back(std::move(job));
    ++queued_;
    has_news_ = true;
  }
  changed_.notify_one();
  return id;
}

Engine::Impl::RequestPointer Engine::Impl::find(int64_t id) const {
  std::lock_guard lock(mutex_);
  const auto found = requests_.find(id);
  return found == requests_.end() ? nullptr : found->second;
}

std::vector<Event> Engine::Impl::next(int64_t id, double timeout_s) {
  if (std::isnan(timeout_s)) throw InvalidArgument("timeout_s is NaN, expected seconds");
  const RequestPointer request = find(id);
  if (!request) {
    throw InvalidArgument(
        concat("request is ", id, ", expected one that was submitted and whose end was not read"));
  }
  Request::Taken taken = request->take(after(Clock::now(), timeout_s));
  if (taken.made_room) wake();
  if (taken.done) {
    std::lock_guard lock(mutex_);
    requests_.erase(id);
  }
  return std::move(taken.events);
}

void Engine::Impl::cancel(int64_t id) {
  RequestPointer request;
  {
    std::lock_guard lock(mutex_);
    refuse_if_closed();
    if (id < 1 || id >= next_id_) {
      throw InvalidArgument(concat("request is ", id, ", expected one that was submitted"));
    }
    const auto found = requests_.find(id);
    if (found == requests_.end()) return;
    request = found->second;
  }
  request->cancel();
  step_.watch().look_again();
  wake();
}

void Engine::Impl::wake() {
  {
    std::lock_guard lock(mutex_);
    has_news_ = true;
  }
  changed_.notify_one();
}

void Engine::Impl::enter_turn() {
  if (!turn_.enter()) throw ClosedError("the engine is closed");
}

Metrics Engine::Impl::metrics() const {
  std::lock_guard lock(mutex_);
  refuse_if_closed();
  Metrics metrics = metrics_;
  metrics.waiting = queued_;
  metrics.submitted += static_cast<int64_t>(inbox_.size());
  return metrics;
}

kv::Counts Engine::Impl::counts() {
  enter_turn();
  const kv::Counts counts = [&] {
    std::lock_guard working(working_);
    return cache_.counts();
  }();
  leave_turn();
  return counts;
}

void Engine::Impl::check() {
  enter_turn();
  try {
    std::lock_guard working(working_);
    cache_.check();
  } catch (...) {
    leave_turn();
    throw;
  }
  leave_turn();
}

void Engine::Impl::close() {
  std::lock_guard once(closing_);
  {
    std::lock_guard lock(mutex_);
    closed_ = true;
    has_news_ = true;
    for (const auto& [id, request] : requests_) request->cancel();
  }
  turn_.close();
  step_.watch().look_again();
  changed_.notify_one();
  if (thread_.joinable()) thread_.join();
}

// --- the engine's thread -----------------------------------------------------------------------
void Engine::Impl::run() {
  bool has_run = true;
  while (wait_for_work(!has_run)) {
    if (!turn_.enter()) break;
    has_run = iterate();
    turn_.leave();
  }
  end_everything();
}

// Takes in what was submitted; sleeps first if there was nothing to do. False: closed.
bool Engine::Impl::wait_for_work(bool was_idle) {
  std::vector<std::unique_ptr<Job>> jobs;
  {
    std::unique_lock lock(mutex_);
    const auto has_news = [&] { return has_news_; };
    if (was_idle) {
      const Time until = scheduler_.wake_at();
      if (until == kNever) {
        changed_.wait(lock, has_news);
      } else {
        changed_.wait_until(lock, until, has_news);
      }
    }
    has_news_ = false;
    if (closed_) return false;
    jobs.swap(inbox_);
  }
  for (auto& job : jobs) {
    try {
      scheduler_.add(job);
    } catch (const std::exception& error) {
      job->finish(Reason::kError, error.what());
      job->deliver_end();
    }
  }
  return true;
}

bool Engine::Impl::iterate() {
  std::lock_guard working(working_);
  bool has_run = true;
  try {
    has_run = scheduler_.iterate();
  } catch (const std::exception& error) {  // outside any one request's part
    scheduler_.end_all(Reason::kError, error.what());
  }
  publish();
  scheduler_.deliver_ends();
  return has_run;
}

void Engine::Impl::publish() {
  Metrics now = scheduler_.metrics();
  now.kv_page_bytes = backend_->pages().page_bytes();
  now.weight_bytes = model_->bytes();
  now.arena_bytes = backend_->arena_bytes();
  now.graphs = backend_->graph_cost();
  std::lock_guard lock(mutex_);
  metrics_ = now;
  queued_ = now.waiting + static_cast<int64_t>(inbox_.size());
}

void Engine::Impl::end_everything() noexcept {
  {
    std::lock_guard working(working_);
    scheduler_.end_all(Reason::kCancelled, "");
    scheduler_.deliver_ends();
  }
  std::lock_guard lock(mutex_);
  for (const auto& job : inbox_) {
    job->finish(Reason::kCancelled, "");
    job->deliver_end();
  }
  inbox_.clear();
}

// --- Engine: refuses the child of a fork -------------------------------------------------------
Engine::Engine(std::shared_ptr<const model::LoadedModel> model, EngineOptions options)
    : impl_(std::make_unique<Impl>(std::move(model), std::move(options))) {}

Engine::Engine(std::shared_ptr<const model::Weights> weights, EngineOptions options)
    : Engine(std::make_shared<const model::CpuModel>(std::move(weights)), std::move(options)) {}

Engine::~Engine() {
  // The threads are not in the child, and what they held locked stays locked: nothing to end there.
  if (!impl_->is_of_this_process()) (void)impl_.release();
}

Engine::Impl& Engine::impl() const {
  if (!impl_->is_of_this_process()) {
    throw SystemError(
        "this engine was made before fork(), and its threads are not in the child process; make a "
        "new one after the fork");
  }
  return *impl_;
}

int64_t Engine::submit(Submission submission) { return impl().submit(std::move(submission)); }

std::vector<Event> Engine::next(int64_t request, double timeout_s) {
  return impl().next(request, timeout_s);
}

void Engine::cancel(int64_t request) { impl().cancel(request); }
void Engine::enter_turn() { impl().enter_turn(); }
void Engine::leave_turn() { impl().leave_turn(); }
Metrics Engine::metrics() const { return impl().metrics(); }
kv::Counts Engine::counts() { return impl().counts(); }
void Engine::check() { impl().check(); }
const EngineOptions& Engine::options() const { return impl().options(); }
const Limits& Engine::limits() const { return impl().limits(); }
void Engine::close() { impl().close(); }

}  // namespace tgv::engine
