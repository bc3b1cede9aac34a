// Text to token ids and back: byte-level BPE, SentencePiece BPE and SentencePiece unigram, read from GGUF
// metadata, tokenizer.json, tokenizer.model, tiktoken rank files and llama2.c vocabularies.
//
// Encoding is a stream first: Encode(text) is a StreamEncoder fed once, so whole and piecewise encoding give
// the same ids by construction. What a file asks for and this code does not know (a pre-tokenizer, a regular
// expression, a normaliser) is refused by name; nothing is guessed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "mneme/export.h"
#include "mneme/types.h"

namespace mneme {

struct TokenizerModel;
class StreamEncoder;

// Whether control tokens spelled in a text are meant: in what a chat format writes they are, in what users
// wrote they stay letters.
enum class TextKind : uint8_t { kPlain, kFormat };

// What stands before a text in its stream.
enum class TextPlace : uint8_t {
  kStart,       // nothing: SentencePiece puts a space before it
  kAfterToken,  // a control token: as between the control tokens of one text
  kWithin,      // text: nothing is put before it
};

struct EncodeOptions {
  bool parse_special = false;  // text of control tokens ("<|im_end|>") and of what else the file's chat
                               // template writes becomes the token; otherwise it stays letters
  bool add_bos = false;        // puts bos_id() first; ignored where there is none
  bool add_eos = false;        // puts eos_id() last; ignored where there is none
  TextPlace place = TextPlace::kStart;
};

struct DecodeOptions {
  bool show_special = false;  // control tokens appear as their text; otherwise they give nothing
  bool at_text_start = true;  // the space that SentencePiece puts before a text is taken away again
};

// An immutable tokenizer. Copies share one model and cost a pointer. Every const member may be called from
// any number of threads at once.
class MNEME_API Tokenizer {
 public:
  explicit Tokenizer(std::shared_ptr<const TokenizerModel> model);
  // The same with more ends of generation, for what a chat format ends a turn with. Throws Error(kInput) for
  // an id outside the vocabulary.
  Tokenizer WithEnds(std::span<const TokenId> ids) const;
  // The same for a model with more rows than the file has pieces, as matrices are padded: ids behind the
  // pieces are unused tokens without text. Nothing changes where num_ids is not above vocab_size().
  Tokenizer PaddedTo(int32_t num_ids) const;

  // Ids of the text. Bytes that are not UTF-8: byte-level BPE encodes them as they are; SentencePiece
  // reads each as U+FFFD, as the reference does. NUL is a character like others. Without the two options,
  // empty text gives no ids. A word longer than kMaxWordBytes is cut there (see StreamEncoder).
  std::vector<TokenId> Encode(std::string_view text, EncodeOptions options = {}) const;
  // Text of the ids, always valid UTF-8: bytes that form none become U+FFFD (one per maximal invalid
  // part). Throws Error(kInput) for an id outside the vocabulary.
  std::string Decode(std::span<const TokenId> ids, DecodeOptions options = {}) const;

  // Number of ids, also those without a piece ([PAD...] rows). Ids are 0 .. vocab_size()-1.
  int32_t vocab_size() const { return num_ids_; }
  // Of these, how many the file has.
  int32_t num_pieces() const;
  // The piece as the file writes it ("Ġthe", "▁the", "<0x0A>"). Throws Error(kInput) if out of range.
  std::string_view Piece(TokenId id) const;
  // The bytes that the token stands for (" the", "\n"); empty for control tokens. Throws likewise.
  std::string_view Bytes(TokenId id) const;
  // Control, unknown and unused tokens: never produced by plain text, and not shown.
  bool is_special(TokenId id) const;
  // Id of a piece as the file writes it; the lowest if the file has it twice.
  std::optional<TokenId> FindToken(std::string_view piece) const;

  // -1 where the file names none.
  TokenId bos_id() const;
  TokenId eos_id() const;
  TokenId unk_id() const;
  TokenId pad_id() const;
  // Ends of generation: all that the files name (eos_token_id of generation_config.json and config.json, eos,
  // eot and eom of a GGUF) and the turn enders that the vocabulary holds (<|eot_id|>, <|im_end|>,
  // <end_of_turn>, <|end|>, ...), ascending. Model::Load adds what the chat template ends a reply with.
  std::span<const TokenId> eog_ids() const;
  bool is_eog(TokenId id) const;
  // Whether the model expects BOS first / EOS last on a prompt (the file's flag, else its family's habit).
  bool adds_bos() const;
  bool adds_eos() const;

  // Hash of vocabulary and settings: equal means the same ids for every text.
  uint64_t fingerprint() const;
  // For inspect: "byte-level bpe", "sentencepiece bpe", "sentencepiece unigram".
  std::string_view kind() const;
  // For inspect: "gpt2", "llama3", ...; "none" for SentencePiece.
  std::string_view pre_tokenizer() const;
  // The file's chat template (Jinja text), or with a name the one that it has for that purpose ("tool_use");
  // empty if it has none. ChatFormat in chat.h runs it.
  std::string_view chat_template(std::string_view name = {}) const;
  // The names of those that have one.
  std::vector<std::string> chat_template_names() const;

  // What whoever opens the file should know: that it does not say how text is split, say. One sentence each.
  std::span<const std::string> warnings() const;

  const TokenizerModel& model() const { return *model_; }

 private:
  friend class StreamEncoder;
  friend class StreamDecoder;
  // Whether the file has a piece for it; throws Error(kInput) if out of range.
  bool HasPiece(TokenId id) const;
  std::shared_ptr<const TokenizerModel> model_;
  std::shared_ptr<const std::vector<TokenId>> ends_;  // of generation, where there are more than the model's
  int32_t num_ids_ = 0;
};

// The longest stretch that is encoded as one word, and with it the bound on what an encoder holds back. A
// word (a match of the pre-tokenizer, or for SentencePiece a stretch without a safe cut) that reaches this
// length is ended there, as if the text ended: a megabyte of spaces costs no more memory than this, nor more
// than linear time. References have no such limit; below it we agree with them.
inline constexpr size_t kMaxWordBytes = size_t{1} << 16;

// Encodes a stream piece by piece. For every split of the input into pieces the ids are those of
// Tokenizer::Encode on the whole. Holds back what later text can change, at most
// 2 * kMaxWordBytes + the longest special token; besides that a word cache of 1 MiB. One thread at a time.
class MNEME_API StreamEncoder {
 public:
  explicit StreamEncoder(Tokenizer tokenizer, EncodeOptions options = {});
  ~StreamEncoder();
  StreamEncoder(StreamEncoder&&) noexcept;
  StreamEncoder& operator=(StreamEncoder&&) noexcept;

  // Appends to *out the ids that no later text can change.
  void Feed(std::string_view bytes, std::vector<TokenId>* out);
  // The same text stream, but control tokens spelled in these bytes stay letters whatever parse_special says:
  // for what a user wrote, between pieces of a chat template.
  void FeedPlain(std::string_view bytes, std::vector<TokenId>* out);
  // Ends the text: appends the rest (and EOS if asked). The next Feed starts a new text.
  void Finish(std::vector<TokenId>* out);
  // Bytes of input held back now.
  size_t pending_bytes() const;

  // What is pending, to go on from in another process. RestoreState throws Error(kMismatch) for a state of
  // another tokenizer or other options and Error(kFile) for a damaged one; the encoder is then as it was.
  std::string SaveState() const;
  void RestoreState(std::string_view state);

 private:
  struct Impl;
  void FeedAs(bool plain, std::string_view bytes, std::vector<TokenId>* out);
  std::unique_ptr<Impl> impl_;
};

// Decodes a stream of ids. Never gives half a UTF-8 character: an incomplete one waits for its other bytes,
// and U+FFFD appears only once the bytes are certainly invalid. Holds at most 3 bytes. One thread at a time.
class MNEME_API StreamDecoder {
 public:
  explicit StreamDecoder(Tokenizer tokenizer, DecodeOptions options = {});

  // Appends to *out. Throws Error(kInput) for an id outside the vocabulary; nothing changes then.
  void Feed(TokenId id, std::string* out);
  // Ends the text: an incomplete character becomes U+FFFD. The next Feed starts a new text.
  void Finish(std::string* out);

  // What is pending; RestoreState throws Error(kFile) for a damaged state, changing nothing.
  std::string SaveState() const;
  void RestoreState(std::string_view state);

 private:
  Tokenizer tokenizer_;
  DecodeOptions options_;
  bool at_start_;
  std::string pending_;
};

// Loaders. All throw Error(kFile) for damaged data (every count and id is checked) and Error(kUnsupported),
// with the name, for kinds, pre-tokenizers and normalisers that are not known here.

// From a Hugging Face folder: tokenizer.json, else tokenizer.model, else vocab.json with merges.txt of
// GPT-2's kind; where present tokenizer_config.json, added_tokens.json and special_tokens_map.json for what
// it does not say, templates in files of their own, and what generation_config.json and config.json end a
// turn with.
MNEME_API Tokenizer LoadTokenizerFolder(const std::string& folder);
// By extension, GGUF also by content: .json, .model (also .model.v1, .model.v3), .gguf, .bin (llama2.c),
// .tiktoken (the name before it says which pattern: r50k_base, p50k_base, cl100k_base, o200k_base). A folder
// is passed on.
MNEME_API Tokenizer LoadTokenizerFile(const std::string& path);

// The same from memory; `name` appears in messages. config_json: content of tokenizer_config.json or empty.
MNEME_API Tokenizer ParseTokenizerJson(std::span<const uint8_t> json, std::string_view config_json = {},
                                       std::string_view name = "tokenizer.json");
MNEME_API Tokenizer ParseSentencePieceModel(std::span<const uint8_t> protobuf,
                                            std::string_view config_json = {},
                                            std::string_view name = "tokenizer.model");
// pattern: a pre-tokenizer name ("gpt2", "llama3", "gpt-4o", ...).
MNEME_API Tokenizer ParseTiktoken(std::span<const uint8_t> ranks, std::string_view pattern,
                                  std::string_view name = "ranks");
// SentencePiece BPE from pieces and scores, as llama2.c keeps them (0 <unk>, 1 BOS, 2 EOS, bytes at 3..258
// where named <0x00>..<0xFF>; spaces in pieces stand for U+2581).
MNEME_API Tokenizer TokenizerFromPieces(std::span<const std::string> pieces, std::span<const float> scores);

}  // namespace mneme
