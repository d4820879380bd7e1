// One row of a request under a grammar: the masks of its next ids, with end ids and stop strings
// where the grammar rules them.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engine/grammar.h"
#include "engine/stop_strings.h"

namespace tgv::engine {

// What rows of one request share.
struct ConstraintRules {
  ConstraintRules(const std::vector<int32_t>& eos_ids, const std::vector<std::string>& stops,
                  const std::vector<std::string>& token_bytes);

  const std::vector<std::string>& token_bytes;
  std::vector<int32_t> ends;      // eos ids, and ids that are a stop string
  std::vector<int32_t> may_stop;  // ids that could complete a stop string
};

class Constraint {
 public:
  // ahead: masks that are kept, one for the next id and one after each guess. `rules` outlives it.
  Constraint(std::unique_ptr<Grammar> grammar, const ConstraintRules& rules, int64_t ahead);

  // The masks of the next id and of those after the guesses seen[first..], when `left` ids may
  // still come. Cuts the guesses off before the first that is not allowed. `stop` has what was
  // written.
  void look_ahead(std::vector<int32_t>& seen, size_t first, const StopStrings& stop, int64_t left);

  // [mask_words(V)] of the id after `ahead` guesses.
  std::span<const uint32_t> mask(int64_t ahead) const;

  // The next id was chosen; end ids need not be told.
  void accept(int32_t id) { grammar_->accept(id); }
  bool is_over() const { return grammar_->is_over(); }

 private:
  std::span<uint32_t> bits(int64_t ahead);
  void fill(int64_t ahead, const StopStrings& stop, int64_t left);

  std::unique_ptr<Grammar> grammar_;
  const ConstraintRules& rules_;
  const size_t words_;
  std::vector<uint32_t> masks_;  // [ahead][words]
  std::string guessed_;          // text of the guesses so far
};

}  // namespace tgv::engine
