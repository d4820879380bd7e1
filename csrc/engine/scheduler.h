// Which requests run: admission in the order of arrival, the end of those that are over, and step
// after step of what is left. Belongs to one thread.
#pragma once

#include <memory>
#include <string>

#include "engine/job.h"
#include "engine/metrics.h"
#include "engine/step.h"

namespace tgv::engine {

class Scheduler {
 public:
  Scheduler(kv::KVCache& cache, Step& step, int64_t max_sequences);

  // Takes the job, or throws std::bad_alloc and leaves it.
  void add(std::unique_ptr<Job>& job);

  // Ends what is over, admits what can be, runs a step. False: there was nothing to run, and there
  // is not until something is added, cancelled or read, or until wake_at().
  bool iterate();

  // Tells the readers of requests that have ended. After the metrics were taken, so that who has
  // read the end of a request finds it counted.
  void deliver_ends() noexcept;
  Time wake_at() const;  // the next deadline

  void end_all(Reason reason, const std::string& message) noexcept;

  // The kv counts in it are of this moment.
  Metrics metrics() const;
  int64_t waiting() const { return static_cast<int64_t>(waiting_.size()); }

 private:
  void end_those_over();
  void admit();
  bool can_admit(const Job& job) const;
  bool is_being_read(const Job& job) const;
  bool sweep();  // sorts out those that ended; true if there was one
  void count_end(const Job& job);

  kv::KVCache& cache_;
  Step& step_;
  const int64_t max_sequences_;
  int64_t sequences_ = 0;  // of those that run
  Jobs waiting_, running_, ended_;
  Metrics metrics_;
};

}  // namespace tgv::engine
