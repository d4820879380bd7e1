// The C entry points over engine::Engine: exceptions become codes, batches of events single ones.
#include "tinygptv/engine.h"

#include <cstdio>
#include <cstring>
#include <deque>
#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <unordered_map>

#include "base/errors.h"
#include "base/thread_pool.h"
#include "base/topology.h"
#include "engine/engine.h"
#include "model/weights.h"

using namespace tgv;

struct tgv_engine {
  std::shared_ptr<const model::Weights> weights;
  std::unique_ptr<engine::Engine> engine;
  std::mutex mutex;  // guards what follows: events taken from the engine and not yet asked for
  std::unordered_map<int64_t, std::deque<engine::Event>> waiting;
};

namespace {

thread_local std::string last_error;

tgv_status failed(tgv_status status, const char* message) {
  try {
    last_error = message;
  } catch (const std::bad_alloc&) {
    last_error.clear();
  }
  return status;
}

// Runs a body and turns what it throws into a status.
template <class Body>
tgv_status guarded(const Body& body) {
  try {
    body();
    return TGV_OK;
  } catch (const InvalidArgument& error) {
    return failed(TGV_INVALID, error.what());
  } catch (const CapacityError& error) {
    return failed(TGV_CAPACITY, error.what());
  } catch (const Unsupported& error) {
    return failed(TGV_UNSUPPORTED, error.what());
  } catch (const ClosedError& error) {
    return failed(TGV_CLOSED, error.what());
  } catch (const SystemError& error) {
    return failed(TGV_SYSTEM, error.what());
  } catch (const std::bad_alloc&) {
    return failed(TGV_SYSTEM, "out of memory");
  } catch (const std::exception& error) {
    return failed(TGV_INTERNAL, error.what());
  }
}

void require(bool there, const char* what) {
  if (!there) throw InvalidArgument(concat(what, " is null, expected a pointer"));
}

void require_count(const char* what, const void* pointer, int64_t count) {
  if (count < 0 || count > (int64_t{1} << 31) || (count > 0 && !pointer)) {
    throw InvalidArgument(concat(what, " has ", count, " elements",
                                 pointer ? "" : " at a null pointer", ", expected 0 or more"));
  }
}

kv::Kind kind_of(tgv_kv_kind kind) {
  switch (kind) {
    case TGV_KV_INT8:
      return kv::Kind::kI8;
    case TGV_KV_F16:
      return kv::Kind::kF16;
    case TGV_KV_BF16:
      return kv::Kind::kBF16;
    case TGV_KV_F32:
      return kv::Kind::kF32;
  }
  throw InvalidArgument(concat("kv_kind is ", static_cast<int>(kind), ", expected 0..3"));
}

engine::Submission submission_of(const tgv_request& request) {
  require_count("ids", request.ids, request.id_count);
  require_count("end_ids", request.end_ids, request.end_id_count);
  require_count("embeddings", request.embeddings, request.embedding_rows);
  if (request.embedding_rows > 0 &&
      (request.embedding_width < 1 || request.embedding_width > (int64_t{1} << 20))) {
    throw InvalidArgument(
        concat("embedding_width is ", request.embedding_width, ", expected 1..2^20"));
  }
  engine::Submission out;
  out.prompt.ids.assign(request.ids, request.ids + request.id_count);
  out.prompt.embedding_rows = request.embedding_rows;
  out.prompt.embedding_width = request.embedding_width;
  if (request.embedding_rows > 0) {
    out.prompt.embeddings.assign(
        request.embeddings, request.embeddings + request.embedding_rows * request.embedding_width);
  }
  engine::Generate task;
  task.max_new_tokens = request.max_new_tokens;
  if (request.end_id_count > 0) {
    task.eos_ids.assign(request.end_ids, request.end_ids + request.end_id_count);
  }
  task.temperature = request.temperature;
  task.top_k = request.top_k;
  task.top_p = request.top_p;
  task.min_p = request.min_p;
  task.repetition_penalty = request.repetition_penalty;
  task.seed = request.seed;
  task.speculate = request.speculate != 0;
  out.task = std::move(task);
  if (request.deadline_seconds != 0) out.deadline_s = request.deadline_seconds;
  return out;
}

tgv_event to_c(const engine::Event& event) {
  tgv_event out;
  std::memset(&out, 0, sizeof(out));
  if (const auto* token = std::get_if<engine::TokenEvent>(&event)) {
    out.kind = TGV_TOKEN;
    out.id = token->id;
    out.logprob = token->logprob;
  } else if (const auto* end = std::get_if<engine::EndEvent>(&event)) {
    out.kind = TGV_END;
    out.reason = static_cast<tgv_reason>(end->reason);
    std::snprintf(out.message, sizeof(out.message), "%s", end->message.c_str());
  } else if (const auto* done = std::get_if<engine::DoneEvent>(&event)) {
    const engine::Stats& stats = done->stats;
    out.kind = TGV_DONE;
    out.queue_ms = stats.queue_ms;
    out.prefill_ms = stats.prefill_ms;
    out.decode_ms = stats.decode_ms;
    out.first_token_ms = stats.first_token_ms;
    out.total_ms = stats.total_ms;
    out.prompt_tokens = stats.prompt;
    out.cached_tokens = stats.cached;
    out.generated_tokens = stats.generated;
  } else {
    throw Error("an event that no request of this interface asks for");
  }
  return out;
}
static_assert(static_cast<int>(engine::Reason::kStop) == TGV_STOP &&
              static_cast<int>(engine::Reason::kError) == TGV_ERROR);

// The first event kept for `id`; false: none.
bool take_waiting(tgv_engine& handle, int64_t id, tgv_event* out) {
  const std::lock_guard lock(handle.mutex);
  const auto found = handle.waiting.find(id);
  if (found == handle.waiting.end()) return false;
  *out = to_c(found->second.front());
  found->second.pop_front();
  if (found->second.empty()) handle.waiting.erase(found);
  return true;
}

void keep(tgv_engine& handle, int64_t id, std::vector<engine::Event> events) {
  if (events.empty()) return;
  const std::lock_guard lock(handle.mutex);
  auto& queue = handle.waiting[id];
  for (engine::Event& event : events) queue.push_back(std::move(event));
}

}  // namespace

int32_t tgv_version(void) { return TGV_VERSION; }

const char* tgv_last_error(void) { return last_error.c_str(); }

tgv_options tgv_default_options(void) {
  tgv_options options;
  std::memset(&options, 0, sizeof(options));
  options.kv_kind = TGV_KV_INT8;
  options.kv_tokens = 8192;
  options.max_sequences = 8;
  return options;
}

tgv_request tgv_default_request(void) {
  tgv_request request;
  std::memset(&request, 0, sizeof(request));
  request.max_new_tokens = 64;
  request.top_p = 1;
  request.repetition_penalty = 1;
  return request;
}

tgv_status tgv_load(const char* path, const tgv_options* options, tgv_engine** engine) {
  return guarded([&] {
    require(path, "path");
    require(engine, "engine");
    *engine = nullptr;
    const tgv_options chosen = options ? *options : tgv_default_options();
    auto handle = std::make_unique<tgv_engine>();
    {
      const int threads = chosen.threads > 0 ? chosen.threads : physical_cores();
      ThreadPool pool(threads);
      handle->weights = model::Weights::load(
          path, "", chosen.map_file ? model::Weights::Mode::kMap : model::Weights::Mode::kRead,
          pool);
    }
    engine::EngineOptions engine_options;
    engine_options.threads = chosen.threads;
    engine_options.kv_kind = kind_of(chosen.kv_kind);
    engine_options.kv_tokens = chosen.kv_tokens;
    engine_options.max_sequences = chosen.max_sequences;
    handle->engine = std::make_unique<engine::Engine>(handle->weights, engine_options);
    *engine = handle.release();
  });
}

tgv_status tgv_sizes(const tgv_engine* engine, int64_t* width, int64_t* vocab) {
  return guarded([&] {
    require(engine, "engine");
    const model::Architecture& a = engine->weights->plan().architecture();
    if (width) *width = a.width;
    if (vocab) *vocab = a.vocab;
  });
}

tgv_status tgv_submit(tgv_engine* engine, const tgv_request* request, int64_t* id) {
  return guarded([&] {
    require(engine, "engine");
    require(request, "request");
    require(id, "id");
    *id = engine->engine->submit(submission_of(*request));
  });
}

tgv_status tgv_poll(tgv_engine* engine, int64_t id, double timeout_seconds, tgv_event* event) {
  return guarded([&] {
    require(engine, "engine");
    require(event, "event");
    std::memset(event, 0, sizeof(*event));
    if (take_waiting(*engine, id, event)) return;
    keep(*engine, id, engine->engine->next(id, timeout_seconds));
    (void)take_waiting(*engine, id, event);
  });
}

tgv_status tgv_cancel(tgv_engine* engine, int64_t id) {
  return guarded([&] {
    require(engine, "engine");
    engine->engine->cancel(id);
  });
}

void tgv_close(tgv_engine* engine) {
  if (engine) delete engine;
}
