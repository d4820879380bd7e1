#include "engine/pages_job.h"

namespace tgv::engine {

PagesJob::PagesJob(std::shared_ptr<Request> request, Submission&& submission, Pages&& /*task*/,
                   const Room& room, const Context& context, std::vector<int64_t> keys)
    : Job(std::move(request), std::move(submission), room, context, std::move(keys)) {}

// Whatever the cache could not hold has become NaN in the logits.
void PagesJob::compute(size_t /*lane*/, int64_t /*token*/, const float* logits, Scratch&) {
  check_logits(logits, context().vocab);
}

void PagesJob::on_prompt() {
  PagesEvent event;
  event.shape = cache().shape();
  event.shape.pages = prompt_length() / kv::kPageTokens;
  const int64_t bytes = event.shape.carried_bytes(), scales = event.shape.carried_scales();
  event.numbers.resize(static_cast<size_t>(event.shape.pages * bytes));
  event.scales.resize(static_cast<size_t>(event.shape.pages * scales));
  for (int64_t page = 0; page < event.shape.pages; ++page) {
    cache().read_page(event.numbers.data() + page * bytes, event.scales.data() + page * scales,
                      lane(0).sequence, page);
  }
  say(std::move(event));
  set_finished(Reason::kStop);
}

}  // namespace tgv::engine
