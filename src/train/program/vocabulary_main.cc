// mneme-vocabulary KIND SIZE LINES OUT: trains a SentencePiece model on the lines of a file. A program of its
// own: Debian's libsentencepiece and libtorch carry protocol buffers of different versions and cannot share a
// process.
#include <sentencepiece_trainer.h>

#include <cstdio>
#include <fstream>
#include <string>
#include <unordered_map>

int main(int argc, char** argv) {
  if (argc != 5) {
    std::fprintf(stderr, "usage: mneme-vocabulary bpe|unigram SIZE LINES OUT\n");
    return 2;
  }
  const std::unordered_map<std::string, std::string> options = {
      {"model_type", argv[1]},
      {"vocab_size", argv[2]},
      {"input", argv[3]},
      {"byte_fallback", "true"},
      {"split_digits", "true"},
      {"normalization_rule_name", "identity"},
      {"remove_extra_whitespaces", "false"},
      {"character_coverage", "0.9995"},
      {"control_symbols", "<pause>,<backspace>"},
      {"max_sentence_length", "1000000"},
      {"hard_vocab_limit", "false"},
      {"num_threads", "1"},
      {"minloglevel", "2"},
  };
  std::string model;
  const auto status = sentencepiece::SentencePieceTrainer::Train(options, nullptr, &model);
  if (!status.ok()) {
    std::fprintf(stderr, "%s\n", status.ToString().c_str());
    return 1;
  }
  std::ofstream out(argv[4], std::ios::binary);
  out.write(model.data(), static_cast<std::streamsize>(model.size()));
  return out.flush() ? 0 : 1;
}
