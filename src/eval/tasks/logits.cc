#include "eval/tasks/logits.h"

#include "base/error.h"
#include "base/files/file.h"

namespace mneme {

int64_t WriteLogits(Session& session, const NextIds& next, const std::string& path, StopToken stop) {
  AtomicFileWriter writer(path);
  std::vector<TokenId> ids;
  int64_t num_ids = 0;
  while (next(&ids)) {
    const int64_t taken = session.Feed(ids, stop, [&](int64_t, std::span<const float> logits) {
      writer.Write(logits.data(), logits.size() * sizeof(float));
    });
    num_ids += taken;
    if (taken < static_cast<int64_t>(ids.size())) {
      Fail(ErrorKind::kInterrupted, "interrupted after {} tokens; {} was not written", num_ids, path);
    }
  }
  writer.Commit();
  return num_ids;
}

}  // namespace mneme
