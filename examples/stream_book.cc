// Reads a text of any size through a model inside a memory cap, writes on, and says what became of every
// token.
//   stream_book MODEL FILE [CAP] [CONTEXT]     CAP as in 64M (default), CONTEXT as in
//   sinks:sinks=4,window=200
#include <cstdio>
#include <exception>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/budget.h"
#include "base/file.h"
#include "base/units.h"
#include "kernels/cpu_device.h"
#include "model/model.h"
#include "session/ledger.h"
#include "session/plan.h"
#include "session/session.h"

namespace {

void Run(const std::string& model_path, const std::string& text_path, const std::string& cap,
         const std::string& context) {
  mneme::CpuDevice device;
  const auto model = mneme::Model::Load(model_path, {}, device);
  mneme::Budget budget(mneme::ParseBytes(cap, "CAP"));

  // What would not fit is refused here, before anything is read. -1: nobody knows how long the text is.
  mneme::SessionOptions options;
  options.context.spec = context;
  options.encode.add_bos = model->tokenizer().adds_bos();
  const auto resolved =
      mneme::ResolveSessionContext(*model, options, budget.cap_bytes(), -1, device.num_threads());
  options.context = resolved.settings;
  mneme::Session session(model, options, budget, device);

  // The text is never in memory as a whole.
  mneme::ByteSource text(text_path);
  std::vector<char> piece(1 << 16);
  while (const size_t bytes = text.Read(piece)) session.FeedText({piece.data(), bytes});
  session.FinishText();

  mneme::GenerateOptions generate;
  generate.max_tokens = 40;
  mneme::Generation answer = session.Generate(generate);
  while (const auto piece = answer.Next()) std::fwrite(piece->text.data(), 1, piece->text.size(), stdout);

  const std::vector<mneme::LedgerRange> ledger = session.context().Ledger();
  std::printf("\n\ncontext: %s\n", session.context().Describe().c_str());
  std::printf("read:    %s bytes, %s tokens\n", mneme::FormatCount(text.position_bytes()).c_str(),
              mneme::FormatCount(session.num_tokens()).c_str());
  std::printf("ledger:  %s\n", mneme::LedgerText(ledger).c_str());
  for (const mneme::LedgerTotal& total : mneme::LedgerTotals(ledger)) {
    std::printf("         %-8s %s tokens\n", std::string(mneme::TokenFateName(total.fate)).c_str(),
                mneme::FormatCount(total.num_tokens).c_str());
  }
  std::printf("memory:  peak %s of %s\n", mneme::FormatBytes(budget.peak_bytes()).c_str(),
              mneme::FormatBytes(budget.cap_bytes()).c_str());
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3 || argc > 5) {
    std::fprintf(stderr, "usage: stream_book MODEL FILE [CAP] [CONTEXT]\n");
    return 2;
  }
  try {
    Run(argv[1], argv[2], argc > 3 ? argv[3] : "64M", argc > 4 ? argv[4] : "sinks");
  } catch (const std::exception& error) {
    std::fprintf(stderr, "stream_book: %s\n", error.what());
    return 1;
  }
  return 0;
}
