// Writes the seeds of every fuzz target: mneme_fuzz_seeds FOLDER makes FOLDER/TARGET/*. Made here, from our
// own writers, so that the repository keeps no binary files and the seeds follow the formats.
#include <sys/stat.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

#include "base/files/file.h"
#include "fuzz/load_from_bytes.h"
#include "fuzz/tiny_model.h"
#include "kernels/cpu_device.h"
#include "session/session_impl.h"

namespace mneme::fuzz {
namespace {

void Put(const std::filesystem::path& folder, const std::string& target, const std::string& name,
         std::string_view bytes) {
  std::filesystem::create_directories(folder / target);
  std::ofstream file(folder / target / name, std::ios::binary);
  file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  if (!file) Fail(ErrorKind::kFile, "{}: cannot be written", (folder / target / name).string());
}

// Metadata of every type and no tensors: small, so that mutations hit.
std::string SmallGguf() {
  GgufWriter writer;
  writer.Set("general.architecture", std::string("qwen2"));
  writer.Set("a", uint8_t{1});
  writer.Set("b", int64_t{-1});
  writer.Set("c", 1.5);
  writer.Set("d", true);
  writer.SetArray("e", std::vector<uint16_t>{1, 2, 3});
  writer.SetArray("tokenizer.ggml.tokens", std::vector<std::string>{"a", "b", "ab"});
  writer.SetArray("tokenizer.ggml.merges", std::vector<std::string>{"a b"});
  writer.Set("tokenizer.ggml.model", std::string("gpt2"));
  writer.Set("tokenizer.ggml.pre", std::string("llama-bpe"));
  const float value = 1;
  writer.AddTensor("t", Encoding::kF32, {1}, &value);
  return GgufBytes(writer);
}

std::string State(const std::string& model_bytes, int64_t num_tokens) {
  CpuDevice device(1);
  Budget budget;
  SessionOptions options;
  options.context = "sinks:sinks=1,window=4";
  options.max_rewind = 2;
  Session session =
      MakeSession(LoadFromBytes(model_bytes.data(), model_bytes.size(), device), options, 4, budget, device);
  for (int64_t i = 0; i < num_tokens; ++i)
    session.Feed(std::vector<TokenId>{static_cast<TokenId>(i % kTinyVocab)});
  char name[] = "/tmp/mneme-fuzz-XXXXXX";
  const int fd = mkstemp(name);
  if (fd >= 0) close(fd);
  session.Save(name);
  std::string bytes = ReadWholeFile(name);
  unlink(name);
  return bytes;
}

void MakeSeeds(const std::filesystem::path& folder) {
  const std::string f32 = GgufBytes(TinyGguf(Encoding::kF32));
  const std::string q8_0 = GgufBytes(TinyGguf(Encoding::kQ8_0));
  Put(folder, "gguf", "small", SmallGguf());
  Put(folder, "gguf", "f32", f32);
  Put(folder, "gguf", "q8_0", q8_0);
  Put(folder, "gguf", "q4_0", GgufBytes(TinyGguf(Encoding::kQ4_0)));

  const std::string tensors = TinySafetensors();
  Put(folder, "safetensors", "file", tensors);
  Put(folder, "safetensors", "folder", TinyConfigJson() + std::string(1, '\0') + tensors);
  const std::string header =
      R"({"__metadata__":{"a":"b"},"x":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}})";
  std::string small(8, '\0');
  small[0] = static_cast<char>(header.size());
  Put(folder, "safetensors", "small", small + header + "ab");

  Put(folder, "tokenizer_json", "byte_level", TinyTokenizerJson());
  Put(folder, "tokenizer_json", "metaspace",
      R"({"added_tokens":[{"id":0,"content":"<unk>","special":true}],"normalizer":{"type":"Sequence","normalizers":[)"
      R"({"type":"Prepend","prepend":"▁"},{"type":"Replace","pattern":{"String":" "},"content":"▁"}]},)"
      R"("pre_tokenizer":null,"decoder":null,"model":{"type":"BPE","unk_token":"<unk>","byte_fallback":true,)"
      R"("vocab":{"<unk>":0,"▁":1,"a":2,"b":3,"ab":4,"▁ab":5},"merges":["a b",["▁","ab"]]}})");
  Put(folder, "tokenizer_json", "unigram",
      R"({"added_tokens":[],"normalizer":null,"pre_tokenizer":{"type":"Metaspace","replacement":"▁",)"
      R"("prepend_scheme":"always"},"model":{"type":"Unigram","unk_id":0,"vocab":[["<unk>",0],["▁",-1],["a",-2],)"
      R"(["ab",-2.5]]}})");
  Put(folder, "tokenizer_model", "bpe", TinySentencePiece(2));
  Put(folder, "tokenizer_model", "unigram", TinySentencePiece(1));

  // A template, a NUL, and the user's message.
  int number_of_template = 0;
  for (const char* jinja :
       {"{% for m in messages %}{{ '<|' + m['role'] + '|>' + m.content | trim }}<|end|>\n{% endfor %}",
        "{%- if messages[0].role == 'system' %}{% set s = messages[0].content.strip() %}{% endif -%}\n{{ s | "
        "default('x') }}",
        "{% macro f(a, b=2) %}{{ a }}{{ caller() if caller }}{% endmacro %}{% call f(1) %}{{ messages | "
        "tojson(indent=2) }}{% endcall %}",
        "{% set ns = namespace(i=0) %}{% for c in messages[0].content if c != ' ' %}{% set ns.i = ns.i + "
        "loop.index %}{% if loop.last %}"
        "{% break %}{% endif %}{% endfor %}{{ ns.i // 2 ** 3 % 5 }}",
        "{{ messages[0].content.split('t')[::-1] | map('upper') | join('-') }}{{ raise_exception('%s %5.2f' "
        "% ('a', 1)) }}",
        "{% filter upper %}{# c #}{% raw %}{{ x }}{% endraw %}{% endfilter %}{{ dict(a=1).items() | list "
        "}}{{ strftime_now('%d %b') }}",
        "{% generation %}{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | "
        "list }}{% endgeneration %}",
        "{{ [1, 2.5, none, true] | sort(reverse=true) }}{{ 'a' ~ (1 if x is defined else 2) ~ range(3)[-1] "
        "}}"}) {
    Put(folder, "jinja", "template" + std::to_string(number_of_template++),
        std::string(jinja) + '\0' + "The cat's <|end|> \xC3\xA9\xF0\x9F\x98\x80 hat");
  }

  for (int kind = 0; kind < 14; ++kind) {
    std::string text(10, '\0');
    text[0] = static_cast<char>(kind);
    text[1] = static_cast<char>(kind % 8);
    text[2] = static_cast<char>(kind);
    Put(folder, "tokenizers", "text" + std::to_string(kind),
        text + "The cat's hat ABCdef 1234,5  \t\r\n\n(x)?! é中文 <|end|></s> the end\xFF");
  }
  std::string spaces("\0\xFF\1\2\3\4\5\6\7\x8", 10);
  Put(folder, "tokenizers", "long", spaces + "    ");

  int number_of_spec = 0;
  for (const char* spec :
       {"dense", "window:window=4", "sinks:sinks=1,window=4",
        "lambda:starts=2,window=4,distance=4,top_k=2,from_layer=0", "xl:segment=4,previous=1",
        "infini:segment=4", "auto", "xl:segment=4294967296,previous=4294967294"}) {
    Put(folder, "context", "spec" + std::to_string(number_of_spec++),
        std::string("\4\2\0\0\1\3\0\0", 8) + spec);
  }
  for (const int64_t num_tokens : {0, 3, 30}) {
    const std::string state = State(q8_0, num_tokens);
    const std::string number = std::to_string(num_tokens);
    Put(folder, "state", "whole" + number, std::string(1, '\0') + state);
    Put(folder, "state", "body" + number, "\1" + state.substr(0, state.size() - 16));
    uint64_t length = 0;
    std::memcpy(&length, state.data() + 12, sizeof(length));
    Put(folder, "state", "framed" + number,
        "\2" + state.substr(20, length) + std::string(1, '\0') +
            state.substr(20 + length, state.size() - 20 - length - 16));
  }
}

}  // namespace
}  // namespace mneme::fuzz

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: mneme_fuzz_seeds FOLDER\n");
    return 2;
  }
  try {
    mneme::fuzz::MakeSeeds(argv[1]);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "mneme_fuzz_seeds: %s\n", error.what());
    return 1;
  }
  return 0;
}
