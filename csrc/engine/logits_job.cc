#include "engine/logits_job.h"

#include <algorithm>

namespace tgv::engine {

LogitsJob::LogitsJob(std::shared_ptr<Request> request, Submission&& submission, Logits&& task,
                     const Room& room, const Context& context, std::vector<int64_t> keys)
    : Job(std::move(request), std::move(submission), room, context, std::move(keys)),
      first_(task.first),
      rows_(static_cast<size_t>(prompt_length() - first_)) {
  set_first_logit(first_);
}

void LogitsJob::compute(size_t /*lane*/, int64_t token, const float* logits, Scratch&) {
  check_logits(logits, context().vocab);
  rows_[static_cast<size_t>(token - first_)].assign(logits, logits + context().vocab);
}

void LogitsJob::on_part(int64_t first, int64_t count) {
  const int64_t begin = std::max(first, first_) - first_, end = first + count - first_;
  if (end <= begin) return;
  LogitsEvent event{end - begin, {}};
  event.values.reserve(static_cast<size_t>(event.rows * context().vocab));
  for (int64_t i = begin; i < end; ++i) {
    std::vector<float>& row = rows_[static_cast<size_t>(i)];
    event.values.insert(event.values.end(), row.begin(), row.end());
    row = {};
  }
  say(std::move(event));
}

}  // namespace tgv::engine
