#include "session/snapshot.h"

#include <fmt/core.h>
#include <xxhash.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <utility>

#include "base/error.h"
#include "base/file.h"
#include "base/units.h"
#include "context/registry.h"
#include "session/session_impl.h"

namespace mneme {
namespace {

constexpr std::string_view kMagic = "MNEMEST\n";
constexpr size_t kFooterBytes = 2 * sizeof(uint64_t);

// Into an AtomicFileWriter, keeping the checksum of everything written.
class ChecksumWriter : public StateWriter {
 public:
  explicit ChecksumWriter(AtomicFileWriter& file) : file_(file), state_(XXH3_createState()) {
    if (state_ == nullptr) throw std::bad_alloc();
    XXH3_64bits_reset(state_.get());
  }
  void Write(const void* data, size_t bytes) override {
    XXH3_64bits_update(state_.get(), data, bytes);
    file_.Write(data, bytes);
  }
  uint64_t checksum() const { return XXH3_64bits_digest(state_.get()); }

 private:
  struct Free {
    void operator()(XXH3_state_t* state) const { XXH3_freeState(state); }
  };
  AtomicFileWriter& file_;
  std::unique_ptr<XXH3_state_t, Free> state_;
};

Encoding GetEncoding(StateReader& reader) {
  const auto value = reader.Get<uint8_t>();
  if (value > static_cast<uint8_t>(Encoding::kQ6_K)) {
    Fail(ErrorKind::kFile, "encoding {} does not exist", value);
  }
  return static_cast<Encoding>(value);
}

bool GetBool(StateReader& reader) {
  const auto value = reader.Get<uint8_t>();
  if (value > 1) Fail(ErrorKind::kFile, "a flag has the value {}", value);
  return value == 1;
}

void WriteInfo(const SnapshotInfo& info, StateWriter& writer) {
  writer.Put(info.model_fingerprint);
  writer.PutString(info.model_name);
  writer.Put(static_cast<uint8_t>(info.has_tokenizer));
  writer.Put(info.tokenizer_fingerprint);
  writer.PutString(info.context.spec);
  writer.Put(static_cast<uint8_t>(info.context.key_encoding));
  writer.Put(static_cast<uint8_t>(info.context.value_encoding));
  writer.Put(info.context.num_pinned);
  writer.Put(info.context.max_chunk);
  writer.Put(info.context.max_rewind);
  writer.Put(info.context.start_position);
  writer.Put(info.num_tokens);
}

SnapshotInfo ReadInfo(StateReader& reader) {
  SnapshotInfo info;
  info.model_fingerprint = reader.Get<uint64_t>();
  info.model_name = reader.GetString();
  info.has_tokenizer = GetBool(reader);
  info.tokenizer_fingerprint = reader.Get<uint64_t>();
  info.context.spec = reader.GetString();
  info.context.key_encoding = GetEncoding(reader);
  info.context.value_encoding = GetEncoding(reader);
  info.context.num_pinned = reader.Get<int64_t>();
  info.context.max_chunk = reader.Get<int64_t>();
  info.context.max_rewind = reader.Get<int64_t>();
  info.context.start_position = reader.Get<int64_t>();
  info.num_tokens = reader.Get<int64_t>();
  if (info.num_tokens < 0) Fail(ErrorKind::kFile, "it claims {} tokens", info.num_tokens);
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
  if (XXH3_64bits(bytes.data(), covered) != checksum) {
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

SnapshotInfo ReadSnapshotInfo(const std::string& path) {
  const MappedFile file(path);
  return ParseSnapshot({reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()}, path).info;
}

SnapshotInfo SnapshotInfoOf(const Session& session) {
  const Model& model = session.model();
  SnapshotInfo info;
  info.model_fingerprint = model.fingerprint();
  info.model_name = model.config().name;
  info.has_tokenizer = model.has_tokenizer();
  info.tokenizer_fingerprint = info.has_tokenizer ? model.tokenizer().fingerprint() : 0;
  info.context = session.options().context;
  info.context.spec = session.context().Describe();
  info.num_tokens = session.num_tokens();
  return info;
}

void CompareSnapshots(const SnapshotInfo& saved, const SnapshotInfo& here, const std::string& name) {
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
  const auto compare = [&name](const char* field, const auto& a, const auto& b) {
    if (a == b) return;
    Fail(ErrorKind::kMismatch,
         "{}: state has another {}: saved with {}, this session has {}; use the same setting to go on", name,
         field, a, b);
  };
  compare("context", saved.context.spec, here.context.spec);
  compare("encoding of keys", EncodingName(saved.context.key_encoding),
          EncodingName(here.context.key_encoding));
  compare("encoding of values", EncodingName(saved.context.value_encoding),
          EncodingName(here.context.value_encoding));
  compare("number of pinned tokens", saved.context.num_pinned, here.context.num_pinned);
  compare("chunk size", saved.context.max_chunk, here.context.max_chunk);
  compare("longest rewind", saved.context.max_rewind, here.context.max_rewind);
  compare("start position", saved.context.start_position, here.context.start_position);
}

// ---- the body

void Session::Impl::WriteOwn(StateWriter& writer) const {
  SaveSamplerSettings(sampler.settings(), writer);
  const auto entries = history.Last(history.capacity());
  writer.Put<uint64_t>(entries.size());
  writer.Write(entries.data(), entries.size_bytes());
  writer.Put<uint64_t>(has_logits ? vocab_size() : 0);
  if (has_logits) writer.Write(logits.get(), vocab_size() * sizeof(float));
  writer.Put(text_bytes);
  writer.Put(static_cast<uint8_t>(text_open));
  writer.Put(static_cast<uint8_t>(encoder.has_value()));
  if (encoder.has_value()) writer.PutString(encoder->SaveState());
  writer.Put(static_cast<uint8_t>(decoder.has_value()));
  if (decoder.has_value()) writer.PutString(decoder->SaveState());
}

void Session::Impl::WriteBody(StateWriter& writer) const {
  WriteOwn(writer);
  context->Save(writer);
}

Session::Impl::Restored Session::Impl::ReadBody(StateReader& reader, int64_t num_tokens) const {
  Restored restored;
  restored.sampler = RestoreSamplerSettings(reader);
  CheckSamplerSettings(restored.sampler, vocab_size());
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
  restored.text_open = GetBool(reader);
  const bool has_encoder = GetBool(reader);
  if (restored.text_bytes < 0 || (restored.text_open && !has_encoder) ||
      (has_encoder && !model->has_tokenizer())) {
    Fail(ErrorKind::kFile, "its pending text is inconsistent");
  }
  if (has_encoder) {
    restored.encoder.emplace(model->tokenizer(), InnerEncode(options));
    restored.encoder->RestoreState(reader.GetString());
  }
  if (GetBool(reader)) {
    if (!model->has_tokenizer()) Fail(ErrorKind::kFile, "it has text without a tokenizer");
    restored.decoder.emplace(model->tokenizer(), DecodeOptions{.show_special = options.show_special});
    restored.decoder->RestoreState(reader.GetString());
  }
  return restored;
}

std::unique_ptr<Context> Session::Impl::RestoredContext(BufferReader reader, int64_t num_tokens) const {
  std::unique_ptr<Context> restored =
      MakeContext(model->context_shape(), inner_settings, budget, pool.num_threads());
  restored->Restore(reader);
  if (reader.remaining_bytes() != 0 || restored->num_tokens() != num_tokens ||
      restored->start_position() != inner_settings.start_position) {
    Fail(ErrorKind::kFile, "its context does not agree with its header");
  }
  return restored;
}

void Session::Impl::Clear() {
  DropText();
  decoder.reset();
  history.Clear();
  has_logits = false;
  text_bytes = 0;
}

void Session::Impl::Restore(std::string_view body, int64_t num_tokens, const std::string& name) {
  const auto fail = [&name](const Error& error, std::string_view rest) {
    Fail(error.kind(), "{}: the state cannot be taken: {}{}", name, error.what(), rest);
  };
  BufferReader reader(body);
  Restored restored;
  std::unique_ptr<Context> fresh;
  // An empty session has nothing to lose, so it never takes the memory of two contexts.
  const bool was_empty = context->num_tokens() == 0;
  bool is_tight = was_empty;
  try {
    restored = ReadBody(reader, num_tokens);
    if (!is_tight) fresh = RestoredContext(reader, num_tokens);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kBudget) fail(error, "");
    is_tight = true;
  }
  // A longer penalty window needs a longer history: the last thing that may be refused.
  const SamplerSettings old_sampler = sampler.settings();
  SetSampler(restored.sampler);
  if (is_tight) {
    // No room for two contexts. The old one has to go first.
    context.reset();
    try {
      fresh = RestoredContext(reader, num_tokens);
    } catch (const Error& error) {
      Clear();
      SetSampler(old_sampler);
      context = MakeContext(model->context_shape(), inner_settings, budget, pool.num_threads());
      fail(error, was_empty ? "" : "; the session had to make room for it and is empty now");
    }
  }
  Take(std::move(restored));
  context = std::move(fresh);
  stats = SessionStats();
}

void Session::Impl::Take(Restored restored) {
  Clear();
  for (const TokenId entry : restored.history) history.Push(entry);
  has_logits = !restored.logits.empty();
  std::copy(restored.logits.begin(), restored.logits.end(), logits.get());
  encoder = std::move(restored.encoder);
  text_open = restored.text_open;
  text_bytes = restored.text_bytes;
  decoder = std::move(restored.decoder);
}

// ---- Session

void Session::Save(const std::string& path) const {
  AtomicFileWriter file(path);
  ChecksumWriter writer(file);
  writer.Write(kMagic.data(), kMagic.size());
  writer.Put(kSnapshotVersion);
  WriteInfo(SnapshotInfoOf(*this), writer);
  impl_->WriteBody(writer);
  writer.Put(static_cast<uint64_t>(file.position_bytes()));
  const uint64_t checksum = writer.checksum();
  file.Write(&checksum, sizeof(checksum));
  file.Commit();
}

void Session::Restore(const std::string& path) {
  const MappedFile file(path);
  RestoreBytes({reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()}, path);
}

void Session::RestoreBytes(std::string_view bytes, const std::string& name) {
  impl_->CheckFree();
  const Snapshot snapshot = ParseSnapshot(bytes, name);
  CompareSnapshots(snapshot.info, SnapshotInfoOf(*this), name);
  impl_->Restore(snapshot.body, snapshot.info.num_tokens, name);
}

std::unique_ptr<Session> Session::Clone() const {
  // Its keys and values are those of this session until one of the two writes; the rest is small.
  auto copy = std::make_unique<Impl>(impl_->model, impl_->options, impl_->budget, impl_->pool, impl_->runner,
                                     impl_->context->Fork());
  BufferWriter writer;
  impl_->WriteOwn(writer);
  BufferReader reader(writer.buffer());
  Impl::Restored own = copy->ReadBody(reader, num_tokens());
  copy->SetSampler(own.sampler);
  copy->Take(std::move(own));
  return std::unique_ptr<Session>(new Session(std::move(copy)));
}

}  // namespace mneme
