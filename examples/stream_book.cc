// Reads a text of any size through a model inside a memory cap, writes on, and says what became of every
// token.
//   stream_book MODEL FILE [NAME=VALUE]...      memory=64M context=sinks:window=200 temperature=0.8: any
//   option by name
#include <mneme/session.h>

#include <cstdio>
#include <exception>
#include <fstream>
#include <iostream>
#include <vector>

namespace {

void Run(const char* model_path, const char* text_path, const std::vector<mneme::Setting>& settings) {
  mneme::EngineOptions engine_options{.memory_bytes = size_t{64} << 20};
  mneme::SessionOptions options{.context = "sinks"};
  for (const mneme::Setting& setting : settings) {
    if (!mneme::ApplyOne(setting, setting.name, &engine_options)) mneme::Apply({&setting, 1}, &options);
  }
  const mneme::Model model = mneme::Model::Load(mneme::Engine(engine_options), model_path);
  mneme::Session session(model, options);  // what would not fit is refused here, before anything is read

  std::ifstream text(text_path, std::ios::binary);
  if (!text) throw std::runtime_error(std::string(text_path) + ": cannot be opened");
  std::vector<char> piece(1 << 16);  // the text is never in memory as a whole
  while (text.read(piece.data(), static_cast<std::streamsize>(piece.size())) || text.gcount() > 0)
    session.FeedText({piece.data(), static_cast<size_t>(text.gcount())});

  mneme::Generation answer = session.Generate({.max_tokens = 40});
  while (const auto next = answer.Next()) std::cout << next->text << std::flush;

  const mneme::MemoryReport memory = model.engine().memory();
  std::cout << "\n\ncontext: " << session.options().context << "\nread:    " << session.text_bytes()
            << " bytes, " << session.num_tokens()
            << " tokens with the answer\nledger:  " << mneme::LedgerText(session.Ledger())
            << "\nmemory:  peak " << (memory.peak_bytes >> 10) << " KiB of " << (memory.cap_bytes >> 10)
            << "\n";
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<mneme::Setting> settings;
  for (int i = 3; i < argc; ++i) {
    const std::string text = argv[i];
    const size_t equals = text.find('=');
    settings.push_back({text.substr(0, equals), equals == std::string::npos ? "" : text.substr(equals + 1)});
  }
  if (argc < 3) {
    std::fprintf(stderr, "usage: stream_book MODEL FILE [NAME=VALUE]...\n");
    return 2;
  }
  try {
    Run(argv[1], argv[2], settings);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "stream_book: %s\n", error.what());
    return 1;
  }
  return 0;
}
