#include "session/snapshot.h"

#include <fmt/core.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <memory>
#include <optional>
#include <set>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "base/files/file.h"
#include "base/hash.h"
#include "base/text/units.h"
#include "context/registry.h"
#include "kernels/simd/target.h"
#include "session/fields.h"
#include "session/session_impl.h"

namespace mneme {
namespace {

constexpr std::string_view kMagic = "MNEMEST\n";
constexpr size_t kFooterBytes = 2 * sizeof(uint64_t);

// Into an AtomicFileWriter, keeping the checksum of everything written.
class ChecksumWriter : public StateWriter {
 public:
  explicit ChecksumWriter(AtomicFileWriter& file) : file_(file) {}
  void Write(const void* data, size_t bytes) override {
    hash_.Write(data, bytes);
    file_.Write(data, bytes);
  }
  uint64_t checksum() const { return hash_.value(); }

 private:
  AtomicFileWriter& file_;
  Hasher hash_;
};

std::string_view BytesOf(const MappedFile& file) {
  return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
}

bool GetBool(StateReader& reader) {
  const auto value = reader.Get<uint8_t>();
  if (value > 1) Fail(ErrorKind::kFile, "a flag has the value {}", value);
  return value == 1;
}

// What is lost when a state goes on under other instructions.
std::string SimdNote(const StateInfo& saved) {
  if (saved.simd_target == SimdTargetName()) return "";
  return fmt::format(
      "the state was saved where the kernels ran on {}, and here they run on {}: it goes on to the same "
      "accuracy, not to the same bits",
      saved.simd_target.empty() ? "instructions that it does not name" : saved.simd_target, SimdTargetName());
}

// A value on a line of its own.
std::string Escaped(std::string_view text) {
  std::string line;
  for (const char c : text) {
    if (c == '\n') {
      line += "\\n";
    } else {
      if (c == '\\') line += c;
      line += c;
    }
  }
  return line;
}

std::string Unescaped(std::string_view line) {
  std::string text;
  for (size_t i = 0; i < line.size(); ++i) {
    if (line[i] == '\\' && i + 1 < line.size()) {
      ++i;
      text += line[i] == 'n' ? '\n' : line[i];
    } else {
      text += line[i];
    }
  }
  return text;
}

std::string PackName(PackMode pack) {
  ModelOptions model;
  model.pack = pack;
  for (const Setting& setting : ValuesOf(model)) {
    if (setting.name == "pack") return setting.value;
  }
  return "";
}

constexpr std::string_view kNoTokenizer = "none";
constexpr std::string_view kNotePrefix = "note.";

std::string HeaderText(const StateInfo& info) {
  std::string text;
  const auto add = [&text](std::string_view name, std::string_view value) {
    text += fmt::format("{}={}\n", name, Escaped(value));
  };
  add("model", fmt::format("{:016x}", info.model_fingerprint));
  add("model_name", info.model_name);
  add("tokenizer",
      info.has_tokenizer ? fmt::format("{:016x}", info.tokenizer_fingerprint) : std::string(kNoTokenizer));
  add("pack", PackName(info.pack));
  add("products", info.products);
  add("simd", info.simd_target);
  add("tokens", fmt::format("{}", info.num_tokens));
  for (const Setting& setting : StateValuesOf(info.options)) add(setting.name, setting.value);
  for (const auto& [name, value] : info.notes) add(std::string(kNotePrefix) + name, value);
  return text;
}

uint64_t ParseHex(const std::string& text, std::string_view what) {
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, 16);
  if (error != std::errc() || end != text.data() + text.size())
    Fail(ErrorKind::kFile, "{}: '{}' is no hash", what, text);
  return value;
}

// One line into the header. Options are in the range of the table, or Error(kInput).
void ReadLine(const std::string& name, const std::string& value, StateInfo* info) {
  if (name == "model") {
    info->model_fingerprint = ParseHex(value, name);
  } else if (name == "model_name") {
    info->model_name = value;
  } else if (name == "tokenizer") {
    info->has_tokenizer = value != kNoTokenizer;
    if (info->has_tokenizer) info->tokenizer_fingerprint = ParseHex(value, name);
  } else if (name == "pack") {
    ModelOptions model;
    ApplyOne({name, value}, name, &model);
    info->pack = model.pack;
  } else if (name == "products") {
    info->products = value;
  } else if (name == "simd") {
    info->simd_target = value;
  } else if (name == "tokens") {
    info->num_tokens = ParseWhole(value, name, Unit::kNone, 0, (int64_t{1} << 62) - 1);
  } else if (name.starts_with(kNotePrefix)) {
    info->notes[name.substr(kNotePrefix.size())] = value;
  } else if (!ApplyOne({name, value}, name, &info->options)) {
    Fail(ErrorKind::kFile, "'{}' is not known here: use the program that wrote it", name);
  }
}

StateInfo ReadInfo(StateReader& reader) {
  const std::string text = reader.GetString();
  StateInfo info;
  std::set<std::string> seen;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    const std::string line = text.substr(begin, end - begin);
    begin = end + 1;
    const size_t equals = line.find('=');
    if (equals == std::string::npos) Fail(ErrorKind::kFile, "'{}' is not NAME=VALUE", line);
    const std::string name = line.substr(0, equals);
    if (!seen.insert(name).second) Fail(ErrorKind::kFile, "'{}' is there twice", name);
    ReadLine(name, Unescaped(line.substr(equals + 1)), &info);
  }
  for (const char* name : {"model", "tokenizer", "products", "tokens", "context"}) {
    if (!seen.contains(name)) Fail(ErrorKind::kFile, "'{}' is missing", name);
  }
  if (info.options.context == "auto") Fail(ErrorKind::kFile, "its context is not resolved");
  return info;
}

}  // namespace

Snapshot ParseSnapshot(std::string_view bytes, const std::string& name) {
  const size_t least = kMagic.size() + sizeof(uint32_t) + kFooterBytes;
  if (bytes.size() < kMagic.size() || bytes.substr(0, kMagic.size()) != kMagic) {
    Fail(ErrorKind::kFile, "{}: is not a state file", name);
  }
  if (bytes.size() < least) Fail(ErrorKind::kFile, "{}: is cut off after {} bytes", name, bytes.size());
  uint32_t version = 0;
  std::memcpy(&version, bytes.data() + kMagic.size(), sizeof(version));
  if (version != kSnapshotVersion) {
    Fail(ErrorKind::kFile,
         "{}: is a state of version {}, and this program reads version {}: use the program that wrote it",
         name, version, kSnapshotVersion);
  }
  uint64_t length = 0, checksum = 0;
  const size_t covered = bytes.size() - sizeof(checksum);
  std::memcpy(&length, bytes.data() + bytes.size() - kFooterBytes, sizeof(length));
  std::memcpy(&checksum, bytes.data() + covered, sizeof(checksum));
  if (length != bytes.size() - kFooterBytes) {
    Fail(ErrorKind::kFile, "{}: is cut off or damaged at its end ({} bytes)", name, bytes.size());
  }
  if (HashBytes(bytes.substr(0, covered)) != checksum) {
    Fail(ErrorKind::kFile, "{}: is damaged: its checksum does not agree with its content", name);
  }
  const size_t header_begin = kMagic.size() + sizeof(version);
  BufferReader reader(bytes.substr(header_begin, length - header_begin));
  Snapshot snapshot;
  try {
    snapshot.info = ReadInfo(reader);
  } catch (const Error& error) {
    Fail(ErrorKind::kFile, "{}: has a damaged header: {}", name, error.what());
  }
  snapshot.body = bytes.substr(length - reader.remaining_bytes(), reader.remaining_bytes());
  return snapshot;
}

StateInfo ReadStateInfo(const std::string& path) {
  const MappedFile file(path);
  return ParseSnapshot(BytesOf(file), path).info;
}

StateInfo StateInfoOf(const LoadedModel& model) {
  StateInfo info;
  info.model_fingerprint = model.fingerprint();
  info.model_name = model.plan().name;
  info.has_tokenizer = model.has_tokenizer();
  info.tokenizer_fingerprint = info.has_tokenizer ? model.tokenizer().fingerprint() : 0;
  info.pack = model.pack();
  info.products = model.products();
  info.simd_target = SimdTargetName();
  return info;
}

StateInfo StateInfoOf(const Session::Impl& session) {
  StateInfo info = StateInfoOf(session.loaded());
  info.options = session.options;
  info.num_tokens = session.context->num_tokens();
  return info;
}

namespace {

// What of ModelInfo::products decides the bits. Integers have the same ones in place and packed: a state goes
// on in either form, and so do states from before an encoding had a packed one.
std::set<std::string_view> ArithmeticOf(std::string_view products) {
  std::set<std::string_view> kinds;
  while (!products.empty()) {
    std::string_view kind = products.substr(0, products.find(','));
    products.remove_prefix(std::min(products.size(), kind.size() + 1));
    const std::string_view name = kind.substr(0, kind.find(':'));
    const std::optional<Encoding> encoding = ParseEncoding(name);
    const bool is_float =
        encoding == Encoding::kF32 || encoding == Encoding::kF16 || encoding == Encoding::kBF16;
    kinds.insert(encoding && !is_float ? name : kind);
  }
  return kinds;
}

}  // namespace

void CompareModels(const StateInfo& saved, const StateInfo& here, const std::string& name) {
  if (saved.model_fingerprint != here.model_fingerprint) {
    Fail(ErrorKind::kMismatch,
         "{}: state belongs to another model: saved with {} ({:016x}), this session has {} ({:016x})", name,
         saved.model_name.empty() ? "a model without a name" : saved.model_name, saved.model_fingerprint,
         here.model_name.empty() ? "a model without a name" : here.model_name, here.model_fingerprint);
  }
  if (saved.has_tokenizer != here.has_tokenizer) {
    Fail(ErrorKind::kMismatch, "{}: state was saved {} a tokenizer, this session has {}", name,
         saved.has_tokenizer ? "with" : "without", here.has_tokenizer ? "one" : "none");
  }
  if (saved.tokenizer_fingerprint != here.tokenizer_fingerprint) {
    Fail(ErrorKind::kMismatch,
         "{}: state belongs to another tokenizer: saved with {:016x}, this session has {:016x}", name,
         saved.tokenizer_fingerprint, here.tokenizer_fingerprint);
  }
  if (ArithmeticOf(saved.products) != ArithmeticOf(here.products)) {
    Fail(ErrorKind::kMismatch,
         "{}: the state is bound to the arithmetic of its products: saved with {}, and this model was loaded "
         "with {}; "
         "--pack chooses it, and without --pack a state's own is taken (it was saved under --pack {})",
         name, saved.products, here.products, PackName(saved.pack));
  }
}

// ---- the body

void Session::Impl::WriteOwn(StateWriter& writer) const {
  const auto entries = history.Last(history.capacity());
  writer.Put<uint64_t>(entries.size());
  writer.Write(entries.data(), entries.size_bytes());
  writer.Put<uint64_t>(has_logits ? vocab_size() : 0);
  if (has_logits) writer.Write(logits.get(), vocab_size() * sizeof(float));
  writer.Put(text_bytes);
  text_hash.Save(writer);
  writer.Put(static_cast<uint8_t>(text_open));
  writer.Put<uint64_t>(ids.size());
  writer.Write(ids.data(), ids.size() * sizeof(TokenId));
  writer.Put(static_cast<uint8_t>(encoder.has_value()));
  if (encoder.has_value()) writer.PutString(encoder->SaveState());
  writer.Put(static_cast<uint8_t>(decoder.has_value()));
  if (decoder.has_value()) writer.PutString(decoder->SaveState());
}

void Session::Impl::WriteBody(StateWriter& writer) const {
  WriteOwn(writer);
  context->Save(writer);
}

Session::Impl::Restored Session::Impl::ReadBody(StateReader& reader, int64_t num_tokens,
                                                bool show_special) const {
  Restored restored;
  restored.history = reader.GetVector<TokenId>();
  for (const TokenId entry : restored.history) {
    if (static_cast<size_t>(TokenHistory::IdOf(entry)) >= vocab_size()) {
      Fail(ErrorKind::kFile, "a recent token is {}, outside the vocabulary", TokenHistory::IdOf(entry));
    }
  }
  restored.logits = reader.GetVector<float>();
  if (!restored.logits.empty() && restored.logits.size() != vocab_size()) {
    Fail(ErrorKind::kFile, "it has {} logits for a vocabulary of {}", restored.logits.size(), vocab_size());
  }
  if (static_cast<int64_t>(restored.history.size()) > num_tokens ||
      (num_tokens > 0 && restored.history.empty()) || (num_tokens == 0 && !restored.logits.empty())) {
    Fail(ErrorKind::kFile, "its recent tokens do not agree with its length of {}", num_tokens);
  }
  restored.text_bytes = reader.Get<int64_t>();
  restored.text_hash.Restore(reader);
  restored.text_open = GetBool(reader);
  restored.ids = reader.GetVector<TokenId>();
  for (const TokenId id : restored.ids) {
    if (id < 0 || static_cast<size_t>(id) >= vocab_size()) {
      Fail(ErrorKind::kFile, "a token that waits is {}, outside the vocabulary", id);
    }
  }
  const bool has_encoder = GetBool(reader);
  if (restored.text_bytes < 0 || ((restored.text_open || !restored.ids.empty()) && !has_encoder) ||
      (!restored.ids.empty() && !restored.text_open) || (has_encoder && !model.has_tokenizer())) {
    Fail(ErrorKind::kFile, "its pending text is inconsistent");
  }
  if (has_encoder) {
    restored.encoder.emplace(model.tokenizer(), kSessionEncode);
    restored.encoder->RestoreState(reader.GetString());
  }
  if (GetBool(reader)) {
    if (!model.has_tokenizer()) Fail(ErrorKind::kFile, "it has text without a tokenizer");
    restored.decoder.emplace(model.tokenizer(), DecodeOptions{.show_special = show_special});
    restored.decoder->RestoreState(reader.GetString());
  }
  return restored;
}

std::unique_ptr<Context> Session::Impl::RestoredContext(BufferReader reader, int64_t num_tokens) const {
  std::unique_ptr<Context> restored = MakeContext(*shape, inner_settings, budget, device.num_threads());
  restored->Restore(reader);
  if (reader.remaining_bytes() != 0 || restored->num_tokens() != num_tokens ||
      restored->start_position() != inner_settings.start_position) {
    Fail(ErrorKind::kFile, "its context does not agree with its header");
  }
  return restored;
}

void Session::Impl::CheckPaid() const {
  if (owed_turn.empty()) return;
  Fail(ErrorKind::kInput,
       "the end of the stream could not be read again with what came back: feed something, or "
       "ask for logits, so that it is");
}

void Session::Impl::Clear() {
  owed_turn.clear();
  DropText();
  decoder.reset();
  history.Clear();
  has_logits = false;
  text_bytes = 0;
  text_hash = {};
}

void Session::Impl::Empty() {
  Clear();
  context.reset();  // first, or there must be room for two
  context = MakeContext(*shape, inner_settings, budget, device.num_threads());
}

void Session::Impl::Restore(const Snapshot& snapshot, const std::string& name) {
  const auto fail = [&name](const Error& error, std::string_view rest) {
    Fail(error.kind(), "{}: the state cannot be taken: {}{}", name, error.what(), rest);
  };
  const int64_t num_tokens = snapshot.info.num_tokens;
  BufferReader reader(snapshot.body);
  Restored restored;
  std::unique_ptr<Context> fresh;
  // An empty session has nothing to lose, so it never takes the memory of two contexts; and two cannot have
  // one folder.
  const bool was_empty = context->num_tokens() == 0;
  bool is_tight = was_empty || !options.store.empty();
  try {
    CheckSampler(snapshot.info.options.sampler, vocab_size());
    restored = ReadBody(reader, num_tokens, snapshot.info.options.show_special);
    if (!is_tight) fresh = RestoredContext(reader, num_tokens);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kBudget) fail(error, "");
    is_tight = true;
  }
  // A longer penalty window needs a longer history: the last thing that may be refused.
  const SamplerOptions old_sampler = sampler.settings();
  SetSampler(snapshot.info.options.sampler);
  if (is_tight) {
    // No room for two contexts. The old one has to go first.
    context.reset();
    try {
      fresh = RestoredContext(reader, num_tokens);
    } catch (const Error& error) {
      SetSampler(old_sampler);
      Empty();
      fail(error, was_empty ? "" : "; the session had to make room for it and is empty now");
    }
  }
  Take(std::move(restored));
  context = std::move(fresh);
  options.show_special = snapshot.info.options.show_special;
  options.add_bos = snapshot.info.options.add_bos;
  notes = snapshot.info.notes;
  restore_note = SimdNote(snapshot.info);
  stats = SessionStats();
}

// What a state leaves free, as it is wanted now.
void Session::Impl::TakeFree(const SessionOptions& wanted) {
  SetSampler(wanted.sampler);
  options.show_special = wanted.show_special;
  options.add_bos = wanted.add_bos;
}

void Session::Impl::Take(Restored restored) {
  Clear();
  for (const TokenId entry : restored.history) history.Push(entry);
  has_logits = !restored.logits.empty();
  std::copy(restored.logits.begin(), restored.logits.end(), logits.get());
  encoder = std::move(restored.encoder);
  text_open = restored.text_open;
  ids = std::move(restored.ids);
  text_bytes = restored.text_bytes;
  text_hash = restored.text_hash;
  decoder = std::move(restored.decoder);
}

// ---- Session

void Session::Save(const std::string& path) const {
  impl_->CheckWhole();
  impl_->CheckPaid();
  AtomicFileWriter file(path);
  ChecksumWriter writer(file);
  writer.Write(kMagic.data(), kMagic.size());
  writer.Put(kSnapshotVersion);
  StateInfo info = StateInfoOf(*impl_);
  info.notes = impl_->notes;
  writer.PutString(HeaderText(info));
  impl_->WriteBody(writer);
  writer.Put(static_cast<uint64_t>(file.position_bytes()));
  const uint64_t checksum = writer.checksum();
  file.Write(&checksum, sizeof(checksum));
  file.Commit();
}

void Session::Reload(const std::string& path) {
  const MappedFile file(path);
  ReloadBytes(BytesOf(file), path);
  try {
    file.CheckUnchanged();  // after the last look at it
  } catch (const Error& error) {
    impl_->Empty();
    Fail(error.kind(), "{}; the session is empty now", error.what());
  }
}

void Session::ReloadBytes(std::string_view bytes, const std::string& name) {
  impl_->CheckFree();
  const Snapshot snapshot = ParseSnapshot(bytes, name);
  const StateInfo here = StateInfoOf(*impl_);
  CompareModels(snapshot.info, here, name);
  CompareOptions(snapshot.info.options, here.options, name);
  impl_->Restore(snapshot, name);
}

namespace {

// The options to go on with.
SessionOptions OptionsFor(const Snapshot& snapshot, const LoadedModel& model,
                          std::span<const Setting> changes, const std::string& name) {
  CompareModels(snapshot.info, StateInfoOf(model), name);
  return ChangedOptions(snapshot.info.options, changes, name);
}

// A refusal for lack of memory says which state it is about.
Session NewSession(const Model& model, const SessionOptions& options, const std::string& name) {
  try {
    return Session(model, options);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kBudget) throw;
    Fail(error.kind(), "{}: the saved {}", name, error.what());
  }
}

}  // namespace

Session Session::Restore(const Model& model, const std::string& path, std::span<const Setting> changes) {
  const MappedFile file(path);
  Session session = RestoreBytes(model, BytesOf(file), path, changes);
  file.CheckUnchanged();  // after the last look at it
  return session;
}

Session Session::RestoreBytes(const Model& model, std::string_view bytes, const std::string& name,
                              std::span<const Setting> changes) {
  const LoadedModel& loaded = *model.impl()->loaded;
  const Snapshot snapshot = ParseSnapshot(bytes, name);
  SessionOptions options = OptionsFor(snapshot, loaded, changes, name);
  // The context is taken as it is: it fits, or the cap that would do is named.
  const ContextSettings settings = InnerContext(options, 1);
  const bool is_bounded = PeakContextBytes(loaded.context_shape(), settings, -1, 1).is_bounded;
  if (!is_bounded) options.expected_tokens = std::max(options.expected_tokens, snapshot.info.num_tokens);
  Session session = NewSession(model, options, name);
  session.impl_->Restore(snapshot, name);
  session.impl_->TakeFree(options);
  return session;
}

Session RestoreSession(std::shared_ptr<const LoadedModel> model, std::string_view bytes,
                       const std::string& name, std::span<const Setting> changes, int64_t max_rows,
                       const Budget& budget, Device& device) {
  const Snapshot snapshot = ParseSnapshot(bytes, name);
  const SessionOptions options = OptionsFor(snapshot, *model, changes, name);
  Session session = MakeSession(std::move(model), options, max_rows, budget, device);
  session.impl().Restore(snapshot, name);
  session.impl().TakeFree(options);
  return session;
}

const std::string& Session::restore_note() const { return impl_->restore_note; }

void Session::SetNote(const std::string& name, const std::string& value) {
  constexpr size_t kMostNoteBytes = size_t{64} << 10;
  const bool is_word = !name.empty() && std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_';
  });
  size_t bytes = name.size() + value.size();
  for (const auto& [other, text] : impl_->notes) bytes += other == name ? 0 : other.size() + text.size();
  if (!is_word || bytes > kMostNoteBytes) {
    Fail(ErrorKind::kInput,
         "a note '{}' of {} bytes: names are words of a-z, 0-9 and _, and all notes together have {}", name,
         value.size(), FormatBytes(kMostNoteBytes));
  }
  impl_->notes[name] = value;
}

std::string Session::note(const std::string& name) const {
  const auto found = impl_->notes.find(name);
  return found == impl_->notes.end() ? "" : found->second;
}

Session Session::Clone() const {
  impl_->CheckWhole();
  impl_->CheckPaid();
  // Its keys and values are those of this session until one of the two writes; the rest is small.
  auto copy = std::make_shared<Impl>(SessionHome{impl_->model, impl_->budget, &impl_->device, impl_->runner},
                                     impl_->options, impl_->inner_settings, impl_->context->Fork());
  BufferWriter writer;
  impl_->WriteOwn(writer);
  BufferReader reader(writer.buffer());
  copy->Take(copy->ReadBody(reader, num_tokens(), impl_->options.show_special));
  copy->notes = impl_->notes;
  copy->context_reason = impl_->context_reason;
  return Session(std::move(copy));
}

}  // namespace mneme
