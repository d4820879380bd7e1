// A build without CUDA says so, in one sentence, wherever it is asked.
#include "kernels/cuda/api.h"
#include "tests/check.h"

using tgv::Unsupported;

TEST(the_stub_says_it_is_one) {
  if (tgv::cuda::built()) return;  // this build has the loader instead
  CHECK(!tgv::cuda::available());
  CHECK(std::strstr(tgv::cuda::why_not(), "built without CUDA"));
  CHECK_THROWS(Unsupported, tgv::cuda::device_count(), "built without CUDA");
  CHECK_THROWS(Unsupported, tgv::cuda::device_info(0), "built without CUDA");
  CHECK_THROWS(Unsupported, tgv::cuda::function("anything"), "built without CUDA");
}

TEST(without_a_device_every_question_gives_the_reason) {
  if (tgv::cuda::available()) return;
  CHECK(tgv::cuda::why_not() != nullptr);
  CHECK_THROWS(Unsupported, tgv::cuda::device_count(), tgv::cuda::why_not());
  CHECK_THROWS(Unsupported, tgv::cuda::function("anything"), tgv::cuda::why_not());
}

TEST_MAIN()
