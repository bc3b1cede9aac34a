// Options: plain data, and the same by name. What a user, a request or a state file can set has a row in one
// table, which makes the command line and its help, the report, the header of a state and the comparison on
// restore: names mean the same everywhere, and a new option needs no new interface. SettingTable() lists the
// names: they are the short ones of the command line ("threads", "memory", "chunk", "kv_k", "pin",
// "num_tokens", "stop"), not those of the fields.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "mneme/export.h"
#include "mneme/types.h"

namespace mneme {

// ---- structs

struct EngineOptions {
  size_t num_threads = 0;   // 0: all cores that the process may use
  size_t memory_bytes = 0;  // the cap for everything beside the weights; 0: half of what is free now
  int64_t max_rows = 512;   // most tokens in one pass through a model; fewer where their activations would
                            // take more than a quarter of the cap
};

enum class PackMode : uint8_t {
  // Repack where it pays (docs/performance.md says when), models up to 8 GiB. F16 and BF16 weights as blocks
  // of 14-bit integers where the processor is fast with them (a table by instruction set, which `mneme bench
  // --machine` verifies), others as stored.
  kAuto,
  kNever,     // use the file's bytes in place: no start-up cost, no memory beside the page cache
  kAlways,    // as kAuto without its limit on size
  kFloat32,   // as kAuto; products of float weights in float32
  kInt16,     // as kAlways; float weights, with the activations that they meet, as blocks of 14-bit integers
  kBFloat16,  // as kAlways; float weights, with the activations that they meet, as bfloat16 (8 significant
              // bits)
  kExact,     // all weights decoded to float32 at load, products in float32, no activation rounded: what the
              // file says, to compare with; takes 4 bytes a weight, and is slow
};

struct ModelOptions {
  PackMode pack = PackMode::kAuto;
  // kAuto and kAlways: how a saved state's float weights were multiplied (StateInfo::products), so that it
  // goes on with its own arithmetic where `auto` would choose another. Empty: what is fast on this processor.
  std::string products = {};
  // Where a packed copy is kept, so that the next load maps it in place of packing: "auto" (MODEL.packed
  // beside the model, in the user's cache folder where nobody may write there), a folder, or a file. Empty:
  // nowhere.
  std::string pack_cache = {};
  std::string tokenizer = {};  // path, where the model carries none or another is wanted
  bool load_tokenizer = true;  // false: token ids only
};

// The order is repetition penalty, temperature, top-k, top-p, min-p (that of Hugging Face's processors), then
// one draw, whose random number is a function of the seed and of the token's index in the stream.
struct SamplerOptions {
  float temperature = 0.0f;         // 0: greedy, the highest logit, the lowest id among equals
  int32_t top_k = 0;                // keep the k most likely; 0: all
  float top_p = 1.0f;               // keep the most likely until their sum reaches p; 1: all
  float min_p = 0.0f;               // drop what is less likely than min_p times the most likely; 0: none
  float repetition_penalty = 1.0f;  // divides positive, multiplies negative logits of recent tokens; 1: none
  int32_t repetition_window = 64;   // how many recent tokens, fed or generated, the penalty looks at
  uint64_t seed = 0;
  std::vector<TokenId> banned = {};  // never picked

  bool operator==(const SamplerOptions&) const = default;
};

// What becomes of a stream whose store has reached its limit.
enum class DiskFull : uint8_t {
  kStop,    // it goes no further, and can go on once there is room
  kForget,  // the oldest of what is stored goes
};

struct SessionOptions {
  // NAME[:key=value,...] of ContextTable(), or "auto". Session::options() has it resolved: with every key.
  std::string context = "auto";
  Encoding keys = Encoding::kF16;    // of cached keys: f32, f16, bf16, q8_0, q4_0
  Encoding values = Encoding::kF16;  // of cached values
  int64_t max_rewind = 64;           // tokens; going back by as many is exact, also across evictions
  int64_t num_pinned = 0;            // the first tokens that are never dropped (a system prompt)
  Position start_position = 0;       // position of the first token of the stream
  // Phi-3 and others rotate otherwise in streams beyond their original length (longrope, dynamic NTK): made
  // for queries that see so many tokens. 0: what the context shows one, of expected_tokens where it shows
  // all. No meaning for other models (ModelInfo::rope_length).
  int64_t rope_length = 0;
  int64_t expected_tokens = -1;  // length of the stream, for the choice of a context; -1: no end is known
  size_t memory_bytes =
      0;  // the most that this session, with its clones, may take of the engine's cap; 0: what is left
  // A folder that takes what leaves the window of a context that recalls; empty: it stays in memory. One
  // session at a time has it. A saved state names what it has there, and goes on with it.
  std::string store = "";
  size_t disk_bytes = 0;  // the most that the folder may take; 0: what the disk has
  DiskFull disk_full = DiskFull::kStop;
  bool add_bos = true;        // an empty stream of text begins with BOS, where the tokenizer says so
  bool show_special = false;  // generated control tokens appear in the text
  SamplerOptions sampler = {};
};

// Which tokens may come next, as a grammar or a schema says. Called from the thread that steps the answer; an
// Error that it throws ends the answer.
class MNEME_API TokenFilter {
 public:
  virtual ~TokenFilter() = default;
  // logits [vocab_size] of the next token: -infinity for what must not come. At least one must stay.
  virtual void Mask(std::span<float> logits) = 0;
  // The token that was chosen.
  virtual void Accept(TokenId token) = 0;
  // The last `count` accepted tokens were taken back (GenerateOptions::backspace).
  virtual void Undo(int64_t count) = 0;
};

struct GenerateOptions {
  int64_t max_tokens = 256;                    // -1: until something else ends it
  std::vector<std::string> stop_strings = {};  // ends before the first of these; empty ones are ignored
  bool stop_at_eog = true;                     // end at a token that ends the turn (eos, <|im_end|>, ...)
  // An eog token that ended the text is fed too, as the model would see it in training. False: left out.
  bool feed_eog = true;
  // Pause tokens fed before the answer; their outputs are not used, except the last one's (arXiv 2310.02226).
  int64_t num_pauses = 0;
  TokenId pause_token = -1;  // -1: the model's, else the vocabulary's "<pause>"; Error(kUnsupported) if none
  // The model may take its last token back by a token of its own (arXiv 2306.05426): Rewind(1), bit for bit.
  // What was taken back is not chosen again at its place while what stands before it stays, or greedy
  // decoding would never end. Only generated tokens are taken back, never what was fed. Text comes
  // backspace_depth tokens late, when it is certain. Needs max_rewind >= 1; where the context cannot go back,
  // the token stays. False: a model's backspace token is never chosen.
  bool backspace = false;
  TokenId backspace_token = -1;   // -1: the model's; Error(kUnsupported) if it has none
  int64_t backspace_depth = 16;   // most tokens taken back in a row, >= 1
  int64_t max_backspaces = 1024;  // then no more; at most 8 at one place in any case
  int64_t num_top = 0;  // so many of the likeliest tokens, with log-probabilities, in each Piece; <= 1024
  std::shared_ptr<TokenFilter> filter = {};  // null: every token may come. An end of the turn is a token too
};

// ---- options by name

// One option as a user, a request or a file gives it: {"context", "sinks:window=1020"}, {"temperature",
// "0.8"}.
struct Setting {
  std::string name;
  std::string value;
  bool operator==(const Setting&) const = default;
};

// What becomes of a field when a saved state is taken up.
enum class InState : uint8_t {
  kNo,     // no part of a state: it belongs to the run (threads, the cap, the length of an answer)
  kFree,   // saved, and what the user gives then is taken in its place
  kBound,  // saved, and the state is worth nothing under another value: a different one is refused by name
};

// A row of the table.
struct SettingInfo {
  std::string_view names;  // "temperature,temp": the first is the option's own, others are understood too
  std::string_view type;   // what stands for a value in a help text: "N"; empty for true or false
  std::string default_value;
  std::string_view help;
  InState in_state = InState::kNo;
  bool is_list = false;  // each setting adds one more

  std::string_view name() const { return names.substr(0, names.find(',')); }
};

// Every option: of the engine, the model, the session with its sampler, and an answer. Thread-safe, as all
// below.
MNEME_API std::span<const SettingInfo> SettingTable();
// Those of one struct; their defaults are the values that `options` has.
template <typename Options>
MNEME_API std::vector<SettingInfo> SettingsOf(const Options& options);

// Puts settings, in their order, into the fields that they name. Throws Error(kInput) naming the setting:
// unknown (the known ones are listed), or a value that the field does not take; the options are unchanged
// then. Options: EngineOptions, ModelOptions, SamplerOptions, SessionOptions, GenerateOptions.
template <typename Options>
MNEME_API void Apply(std::span<const Setting> settings, Options* options);
// One setting; `what` names it in messages ("--top-k"). False, and nothing else, if there is no such name.
template <typename Options>
MNEME_API bool ApplyOne(const Setting& setting, std::string_view what, Options* options);
// The value of every field as text, in the order of the table.
template <typename Options>
MNEME_API std::vector<Setting> ValuesOf(const Options& options);
// The option as the command line writes it, which is how messages name it: "--max-rewind", "-t".
MNEME_API std::string OptionName(std::string_view name);

// ---- contexts

// A key of a context: sinks:window=N.
struct ContextKey {
  std::string name;
  std::string default_value;
  std::string_view help;
};
struct ContextInfo {
  std::string_view name;
  std::string_view help;   // what of the past a token sees
  std::string_view paper;  // where it was published; may be empty
  std::vector<ContextKey> keys;
};
// What SessionOptions::context may name, in the order of help texts; "auto" among them.
MNEME_API std::span<const ContextInfo> ContextTable();

}  // namespace mneme
