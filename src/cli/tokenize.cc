// mneme tokenize: text to ids and back, as a stream of any size.
#include <fmt/core.h>

#include <cctype>
#include <charconv>
#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/files/file.h"
#include "base/message.h"
#include "base/text/units.h"
#include "base/text/utf8.h"
#include "cli/console/console.h"
#include "cli/console/signals.h"
#include "cli/ids.h"
#include "cli/options.h"
#include "cli/verbs.h"
#include "mneme/tokenizer.h"

namespace mneme::cli {
namespace {

struct TokenizeArguments {
  std::string model;
  std::string tokenizer;
  std::vector<std::string> files;
  std::string prompt;
  std::string ids_out;
  bool count = false;
  bool decode = false;
  bool bos = false;
  bool eos = false;
  bool special = false;
  bool pieces = false;
};

constexpr size_t kReadBytes = size_t{1} << 16;

// Where ids go: a binary file, or text on standard output.
class IdOutput {
 public:
  IdOutput(const Tokenizer& tokenizer, const TokenizeArguments& arguments)
      : tokenizer_(tokenizer), arguments_(arguments) {
    if (!arguments.ids_out.empty()) file_ = std::make_unique<AtomicFileWriter>(arguments.ids_out);
  }
  void Write(const std::vector<TokenId>& ids) {
    num_ids_ += static_cast<int64_t>(ids.size());
    if (file_) file_->Write(ids.data(), ids.size() * sizeof(TokenId));
    if (file_ || arguments_.count) return;
    std::string text;
    for (const TokenId id : ids) {
      if (arguments_.pieces) {
        text += fmt::format("{}\t{}\n", id, Printable(tokenizer_.Piece(id)));
      } else {
        text += fmt::format("{}{}", is_first_ ? "" : " ", id);
      }
      is_first_ = false;
    }
    WriteOut(text);
  }
  void Finish() {
    if (file_) {
      file_->Commit();
      PrintMessage("{} ids written to {}\n", FormatCount(num_ids_), arguments_.ids_out);
    } else if (!arguments_.count && !arguments_.pieces) {
      WriteOut("\n");
    }
    if (arguments_.count) WriteOut(fmt::format("{}\n", num_ids_));
  }

 private:
  const Tokenizer& tokenizer_;
  const TokenizeArguments& arguments_;
  std::unique_ptr<AtomicFileWriter> file_;
  int64_t num_ids_ = 0;
  bool is_first_ = true;
};

void Interrupted() {
  Fail(ErrorKind::kInterrupted,
       "interrupted; no ids file was written, what is on standard output is incomplete");
}

int Encode(const Tokenizer& tokenizer, const TokenizeArguments& arguments) {
  EncodeOptions options;
  options.add_bos = arguments.bos;
  options.add_eos = arguments.eos;
  options.parse_special = arguments.special;
  StreamEncoder encoder(tokenizer, options);
  IdOutput out(tokenizer, arguments);
  std::vector<TokenId> ids;
  const auto feed = [&](std::string_view text) {
    encoder.Feed(text, &ids);
    out.Write(ids);
    ids.clear();
  };
  std::vector<char> buffer(kReadBytes);
  for (const std::string& path : arguments.files) {
    ByteSource source(path, UserStop());
    while (const size_t size = source.Read(buffer)) {
      feed({buffer.data(), size});
      if (StopRequested()) break;
    }
    if (StopRequested()) Interrupted();
  }
  feed(arguments.prompt);
  encoder.Finish(&ids);
  out.Write(ids);
  out.Finish();
  return 0;
}

int Decode(const Tokenizer& tokenizer, const TokenizeArguments& arguments) {
  DecodeOptions options;
  options.show_special = arguments.special;
  StreamDecoder decoder(tokenizer, options);
  std::string text;
  const auto take = [&](std::span<const TokenId> ids) {
    for (const TokenId id : ids) decoder.Feed(id, &text);
    WriteOut(text);
    text.clear();
  };
  for (const std::string& path : arguments.files) {
    IdReader reader(path, tokenizer.vocab_size(), UserStop());
    std::vector<TokenId> ids;
    while (reader.Read(&ids)) take(ids);
    if (StopRequested()) Interrupted();
  }
  if (!arguments.prompt.empty()) take(ParseIds(arguments.prompt, "-p", tokenizer.vocab_size()));
  decoder.Finish(&text);
  WriteOut(text);
  return 0;
}

int Tokenize(TokenizeArguments arguments) {
  CheckInputs(arguments.files);
  std::vector<std::string> inputs = arguments.files;
  inputs.push_back(arguments.tokenizer.empty() ? ModelPath(arguments.model) : arguments.tokenizer);
  CheckOutputs({arguments.ids_out}, inputs);
  const Tokenizer tokenizer = OpenTokenizer(arguments.model, arguments.tokenizer);
  if (arguments.files.empty() && arguments.prompt.empty()) arguments.files.push_back("-");
  return arguments.decode ? Decode(tokenizer, arguments) : Encode(tokenizer, arguments);
}

}  // namespace

void AddTokenize(Command& program) {
  auto arguments = std::make_shared<TokenizeArguments>();
  Command& verb = program.AddVerb("tokenize", "Turn text into token ids, or ids into text");
  verb.Text("MODEL", &arguments->model, "",
            "Model or tokenizer file (default: the model that ships with mneme)");
  verb.Text("--tokenizer", &arguments->tokenizer, "PATH", "Tokenizer file, in place of the model's");
  verb.List("-f,--file", &arguments->files, "FILE",
            "Input, - is standard input (default); several are one text");
  verb.Text("-p,--prompt", &arguments->prompt, "TEXT", "Text, after the files");
  verb.Text("--ids-out", &arguments->ids_out, "FILE", "Write ids as 32-bit little-endian integers");
  verb.Flag("--count", &arguments->count, "Print only how many");
  verb.Flag("--pieces", &arguments->pieces, "Print each id with its piece, a line each");
  verb.Flag("--decode", &arguments->decode,
            "Input is ids (text, separated by white space); print their text");
  verb.Flag("--bos", &arguments->bos, "Put the beginning-of-text token first");
  verb.Flag("--eos", &arguments->eos, "Put the end-of-text token last");
  verb.Flag("--special", &arguments->special, "Read and print control tokens such as <|im_end|> as such");
  verb.SetAction([=] { return Tokenize(*arguments); });
}

}  // namespace mneme::cli
