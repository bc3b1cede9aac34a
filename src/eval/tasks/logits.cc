#include "eval/tasks/logits.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/files/file.h"

namespace mneme {

WrittenLogits WriteLogits(Session& session, const NextIds& next, const std::string& path, StopToken stop) {
  AtomicFileWriter writer(path);
  std::vector<TokenId> ids;
  WrittenLogits written;
  while (next(&ids)) {
    const int64_t taken = session.Feed(ids, stop, [&](int64_t index, std::span<const float> logits) {
      writer.Write(logits.data(), logits.size() * sizeof(float));
      if (std::none_of(logits.begin(), logits.end(), [](float logit) { return std::isnan(logit); })) return;
      if (written.num_broken++ == 0) written.first_broken = index;
    });
    written.num_ids += taken;
    if (taken < static_cast<int64_t>(ids.size())) {
      Fail(ErrorKind::kInterrupted, "interrupted after {} tokens; {} was not written", written.num_ids, path);
    }
  }
  writer.Commit();
  return written;
}

}  // namespace mneme
