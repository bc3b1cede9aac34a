// A hostile state file, given to a live session. An even first byte: the rest is the file. An odd one: the
// rest becomes a file with the right length and checksum, so that the parts behind those are reached.
// Whatever happens, the session must be usable afterwards, and a refused state must leave it as it was.
#include <xxhash.h>

#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "base/budget.h"
#include "base/thread_pool.h"
#include "context/registry.h"
#include "fuzz/guard.h"
#include "fuzz/load_from_bytes.h"
#include "fuzz/tiny_model.h"
#include "session/session.h"

namespace mneme::fuzz {
namespace {

// Footer: length of all before it, checksum of all before the checksum.
std::string Sealed(std::string bytes) {
  const uint64_t length = bytes.size();
  bytes.append(reinterpret_cast<const char*>(&length), sizeof(length));
  const uint64_t checksum = XXH3_64bits(bytes.data(), bytes.size());
  bytes.append(reinterpret_cast<const char*>(&checksum), sizeof(checksum));
  return bytes;
}

struct World {
  World() : pool(1) {
    const std::string file = GgufBytes(TinyGguf(Encoding::kQ8_0));
    model = LoadFromBytes(file.data(), file.size(), pool);
    options.context.spec = "sinks:sinks=1,window=4";
    options.context.max_chunk = 4;
    options.context.max_rewind = 2;
  }
  ThreadPool pool;
  Budget budget{size_t{64} << 20};
  std::shared_ptr<const Model> model;
  SessionOptions options;
};

}  // namespace
}  // namespace mneme::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace mneme;
  if (size < 1) return 0;
  static fuzz::World world;
  static const std::shared_ptr<Runner> runner = Session::MakeRunner(world.model, 4, world.pool, world.budget);
  const std::string rest(reinterpret_cast<const char*>(data + 1), size - 1);
  const std::string state = data[0] % 2 == 0 ? rest : fuzz::Sealed(rest);

  Session session(world.model, world.options, world.budget, world.pool, runner);
  const std::vector<TokenId> before = {1, 15, 7, 4, 9, 3};
  session.Feed(before);
  const std::vector<float> logits(session.logits().begin(), session.logits().end());
  const bool taken = fuzz::Accepts([&] { session.RestoreBytes(state); });
  if (!taken) {
    MNEME_CHECK(session.num_tokens() == static_cast<int64_t>(before.size()));
    MNEME_CHECK(std::memcmp(logits.data(), session.logits().data(), logits.size() * sizeof(float)) == 0);
  }
  fuzz::Accepts([&] {
    session.Feed(std::vector<TokenId>{4});
    session.Rewind(1);
    GenerateOptions generate;
    generate.max_tokens = 2;
    Generation generation = session.Generate(generate);
    while (generation.Next()) {
    }
  });
  return 0;
}
