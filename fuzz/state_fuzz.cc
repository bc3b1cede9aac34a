// A hostile state file. The first byte says how the rest becomes one: 0 as it is; 1 with the right length and
// checksum behind it; 2 the rest is the text of a header, a zero, and a body, and gets everything that
// surrounds them, so that a longer or shorter line does not shift what follows it. A state is given to a live
// session, which must be usable afterwards, and unchanged if it was refused; and a session is made from it,
// with the options in its header.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "base/budget.h"
#include "base/hash.h"
#include "context/registry.h"
#include "fuzz/guard.h"
#include "fuzz/load_from_bytes.h"
#include "fuzz/tiny_model.h"
#include "kernels/cpu_device.h"
#include "session/session_impl.h"
#include "session/snapshot.h"

namespace mneme::fuzz {
namespace {

// Footer: length of all before it, checksum of all before the checksum.
std::string Sealed(std::string bytes) {
  const uint64_t length = bytes.size();
  bytes.append(reinterpret_cast<const char*>(&length), sizeof(length));
  const uint64_t checksum = HashBytes(bytes);
  bytes.append(reinterpret_cast<const char*>(&checksum), sizeof(checksum));
  return bytes;
}

// Magic, version, and the header with its length.
std::string Framed(const std::string& input) {
  const size_t zero = std::min(input.find('\0'), input.size());
  std::string bytes = "MNEMEST\n";
  const uint32_t version = kSnapshotVersion;
  bytes.append(reinterpret_cast<const char*>(&version), sizeof(version));
  const uint64_t length = zero;
  bytes.append(reinterpret_cast<const char*>(&length), sizeof(length));
  bytes += input.substr(0, zero);
  if (zero < input.size()) bytes += input.substr(zero + 1);
  return bytes;
}

void Use(Session& session) {
  session.Feed(std::vector<TokenId>{4});
  session.Rewind(1);
  GenerateOptions generate;
  generate.max_tokens = 2;
  Generation generation = session.Generate(generate);
  while (generation.Next()) {
  }
  session.Clone();  // writes a state and reads it
}

struct World {
  World() : device(1) {
    const std::string file = GgufBytes(TinyGguf(Encoding::kQ8_0));
    model = LoadFromBytes(file.data(), file.size(), device);
    options.context = "sinks:sinks=1,window=4";
    options.max_rewind = 2;
  }
  CpuDevice device;
  Budget budget{size_t{64} << 20};
  std::shared_ptr<const LoadedModel> model;
  SessionOptions options;
};

}  // namespace
}  // namespace mneme::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace mneme;
  if (size < 1) return 0;
  static fuzz::World world;
  static const std::shared_ptr<Runner> runner = MakeRunner(world.model, 4, world.device, world.budget);
  const std::string rest(reinterpret_cast<const char*>(data + 1), size - 1);
  const int kind = data[0] % 3;
  const std::string state = kind == 0 ? rest : fuzz::Sealed(kind == 1 ? rest : fuzz::Framed(rest));

  Session session = MakeSession(world.model, world.options, world.budget, world.device, runner);
  const std::vector<TokenId> before = {1, 15, 7, 4, 9, 3};
  session.Feed(before);
  const std::vector<float> logits(session.Logits().begin(), session.Logits().end());
  const bool taken = fuzz::Accepts([&] { session.ReloadBytes(state); });
  if (!taken) {
    MNEME_CHECK(session.num_tokens() == static_cast<int64_t>(before.size()));
    MNEME_CHECK(std::memcmp(logits.data(), session.Logits().data(), logits.size() * sizeof(float)) == 0);
  }
  fuzz::Accepts([&] { fuzz::Use(session); });
  // The options are the file's own; the budget is what stands between them and the machine.
  fuzz::Accepts([&] {
    Budget budget(size_t{16} << 20);
    Session restored = RestoreSession(world.model, state, "state", {}, 4, budget, world.device);
    fuzz::Use(restored);
  });
  return 0;
}
