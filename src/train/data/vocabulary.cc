#include "train/data/vocabulary.h"

#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>

#include "base/error.h"
#include "base/files/file.h"
#include "tokenizer/model.h"

extern char** environ;

namespace mneme::train {
namespace {

std::string FindProgram() {
  std::error_code error;
  const std::filesystem::path folder = std::filesystem::read_symlink("/proc/self/exe", error).parent_path();
  // Beside the program; beside the programs of the build, for tests.
  for (const auto& place : {folder / "mneme-vocabulary", folder / "../cli/mneme-vocabulary"}) {
    if (::access(place.c_str(), X_OK) == 0) return place.string();
  }
  Fail(ErrorKind::kFile, "the program mneme-vocabulary is not beside this one, in {}", folder.string());
}

// Removed when done, whatever happens.
struct TemporaryFile {
  explicit TemporaryFile(std::string given) : path(std::move(given)) {}
  ~TemporaryFile() { ::unlink(path.c_str()); }
  const std::string path;
};

}  // namespace

void TrainVocabulary(const VocabularySettings& settings, const std::vector<std::string>& lines,
                     const std::string& path) {
  const TemporaryFile text(path + ".lines"), result(path + ".new");
  {
    AtomicFileWriter writer(text.path);
    for (const std::string& line : lines) writer.Write(line + "\n");
    writer.Commit();
  }
  const std::string program = FindProgram(), size = std::to_string(settings.size);
  const char* const arguments[] = {program.c_str(),   settings.kind.c_str(), size.c_str(),
                                   text.path.c_str(), result.path.c_str(),   nullptr};
  pid_t process = 0;
  if (::posix_spawn(&process, program.c_str(), nullptr, nullptr, const_cast<char* const*>(arguments),
                    environ) != 0) {
    Fail(ErrorKind::kFile, "{}: cannot be started", program);
  }
  int status = 0;
  while (::waitpid(process, &status, 0) < 0 && errno == EINTR) {
  }
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
    Fail(ErrorKind::kInput,
         "a vocabulary of {} pieces could not be trained from {} lines of text; a smaller vocabulary.size or "
         "more text "
         "helps",
         settings.size, lines.size());
  }
  AtomicFileWriter writer(path);
  writer.Write(ReadWholeFile(result.path, kMaxTokenizerBytes));
  writer.Commit();
}

void WriteVocabulary(const Tokenizer& tokenizer, GgufWriter* writer) {
  const TokenizerModel& model = tokenizer.model();
  const Algorithm algorithm = model.spec.algorithm;
  if (algorithm != Algorithm::kScoredBpe && algorithm != Algorithm::kUnigram) {
    Fail(ErrorKind::kUnsupported, "export writes SentencePiece vocabularies; this one is {}",
         tokenizer.kind());
  }
  std::vector<std::string> pieces;
  std::vector<float> scores;
  std::vector<int32_t> types;
  for (TokenId id = 0; id < tokenizer.num_pieces(); ++id) {
    pieces.emplace_back(tokenizer.Piece(id));
    scores.push_back(model.scores.empty() ? 0.0f : model.scores[static_cast<size_t>(id)]);
    types.push_back(static_cast<int32_t>(model.types[static_cast<size_t>(id)]));
  }
  writer->Set("tokenizer.ggml.model", std::string(algorithm == Algorithm::kUnigram ? "t5" : "llama"));
  writer->SetArray("tokenizer.ggml.tokens", pieces);
  writer->SetArray("tokenizer.ggml.scores", scores);
  writer->SetArray("tokenizer.ggml.token_type", types);
  const auto id_key = [&](const char* key, TokenId id) {
    if (id >= 0) writer->Set(key, static_cast<uint32_t>(id));
  };
  id_key("tokenizer.ggml.bos_token_id", tokenizer.bos_id());
  id_key("tokenizer.ggml.eos_token_id", tokenizer.eos_id());
  id_key("tokenizer.ggml.unknown_token_id", tokenizer.unk_id());
  id_key("tokenizer.ggml.padding_token_id", tokenizer.pad_id());
  writer->Set("tokenizer.ggml.add_bos_token", tokenizer.adds_bos());
  writer->Set("tokenizer.ggml.add_eos_token", tokenizer.adds_eos());
  writer->Set("tokenizer.ggml.add_space_prefix", model.spec.dummy_prefix != DummyPrefix::kNever);
  writer->Set("tokenizer.ggml.remove_extra_whitespaces", model.spec.remove_extra_whitespaces);
}

}  // namespace mneme::train
