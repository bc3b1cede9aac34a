#include "train/data/data.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "base/random.h"
#include "train/data/tasks.h"
#include "train/data/text_files.h"

namespace mneme::train {
namespace {

// Reads documents of a text source as ids, in pieces; remembers where it is.
class TextReader {
 public:
  TextReader(const SourceSettings& settings, const TextFiles& files, const Tokenizer& tokenizer)
      : settings_(settings), files_(files), tokenizer_(tokenizer), encoder_(tokenizer) {}

  // Up to `count` ids of one document. *ends: the document is over.
  std::vector<TokenId> Read(size_t count, Random& random, bool* ends) {
    const bool is_random = settings_.order == "random";
    if (is_random) {
      StreamEncoder fresh(tokenizer_);
      encoder_ = std::move(fresh);
      pending_.clear();
      const TextFiles::Place place = files_.RandomLine(random);
      file_ = place.file;
      offset_ = place.offset;
    }
    *ends = false;
    while (pending_.size() < count && !*ends) *ends = FeedSome();
    const size_t taken = std::min(count, pending_.size());
    std::vector<TokenId> ids(pending_.begin(), pending_.begin() + static_cast<ptrdiff_t>(taken));
    pending_.erase(pending_.begin(), pending_.begin() + static_cast<ptrdiff_t>(taken));
    // The rest of a document that is over comes with the next call.
    if (!pending_.empty()) *ends = false;
    if (is_random) *ends = true;
    return ids;
  }

  void Save(StateWriter& writer) const {
    writer.Put<uint64_t>(file_);
    writer.Put<uint64_t>(offset_);
    writer.PutString(encoder_.SaveState());
    writer.PutVector(pending_);
  }
  void Restore(StateReader& reader) {
    file_ = reader.Get<uint64_t>();
    offset_ = reader.Get<uint64_t>();
    encoder_.RestoreState(reader.GetString());
    pending_ = reader.GetVector<TokenId>();
    if (file_ >= files_.num_files() || offset_ > files_.text(file_).size()) {
      Fail(ErrorKind::kMismatch, "the checkpoint's place in the text lies outside the files");
    }
  }

 private:
  // Encodes the next few kilobytes; true at a document's end.
  bool FeedSome() {
    constexpr size_t kBytes = 4096;
    const std::string_view text = files_.text(file_);
    size_t end = std::min(offset_ + kBytes, text.size());
    bool is_end = end == text.size();
    size_t skip = 0;
    if (!settings_.separator.empty()) {
      const size_t found = text.substr(0, std::min(end + settings_.separator.size(), text.size()))
                               .find(settings_.separator, offset_);
      if (found != std::string_view::npos) {
        end = found;
        is_end = true;
        skip = settings_.separator.size();
      }
    }
    encoder_.Feed(text.substr(offset_, end - offset_), &pending_);
    files_.CheckUnchanged(file_);
    offset_ = end + skip;
    if (is_end) encoder_.Finish(&pending_);
    if (offset_ >= text.size()) {
      offset_ = 0;
      file_ = (file_ + 1) % files_.num_files();
    }
    return is_end;
  }

  const SourceSettings& settings_;
  const TextFiles& files_;
  Tokenizer tokenizer_;
  StreamEncoder encoder_;
  size_t file_ = 0;
  size_t offset_ = 0;
  std::vector<TokenId> pending_;
};

struct Source {
  Source(const SourceSettings& given, const Tokenizer& tokenizer) : settings(given) {
    if (!settings.files.empty()) files = std::make_unique<TextFiles>(settings.files);
    if (settings.kind == "text") reader = std::make_unique<TextReader>(settings, *files, tokenizer);
  }
  FillerSource Filler() const {
    if (files == nullptr) return GrassFiller;
    return [this](size_t num_bytes, Random& random) { return files->RandomText(num_bytes, random); };
  }
  const SourceSettings settings;
  std::unique_ptr<TextFiles> files;
  std::unique_ptr<TextReader> reader;
};

// A wrong token; in a branch of several each follows the one before.
struct Branch {
  TokenId token = 0;
  int64_t parent = 0;
  int64_t depth = 1;
  float weight = 0;
};

// A row of a batch being filled: documents at segment borders.
struct Row {
  std::vector<int64_t> ids;  // inputs, padded to whole segments at document ends
  std::vector<int64_t> targets;
  std::vector<float> weights;
  std::vector<float> resets;                  // by segment
  std::vector<std::vector<Branch>> branches;  // by segment
};

// Appends a document of at least two ids, from a segment border on. `weights` belong to the ids as targets.
void AppendDocument(const std::vector<TokenId>& ids, const std::vector<float>& weights, int64_t segment,
                    int64_t padding, Row* row) {
  if (ids.size() < 2) return;
  const size_t first_segment = row->ids.size() / static_cast<size_t>(segment);
  for (size_t i = 0; i + 1 < ids.size(); ++i) {
    row->ids.push_back(ids[i]);
    row->targets.push_back(ids[i + 1]);
    row->weights.push_back(weights[i + 1]);
  }
  while (row->ids.size() % static_cast<size_t>(segment) != 0) {
    row->ids.push_back(padding);
    row->targets.push_back(padding);
    row->weights.push_back(0);
  }
  row->resets.resize(row->ids.size() / static_cast<size_t>(segment), 0.0f);
  row->resets[first_segment] = 1;
}

}  // namespace

struct DataStream::Impl {
  Impl(const std::vector<SourceSettings>& settings, const Tokenizer& given, uint64_t seed,
       const DataTokens& names)
      : tokenizer(given), random(seed) {
    for (const SourceSettings& one : settings) {
      sources.push_back(std::make_unique<Source>(one, tokenizer));
      source_weights.push_back(one.weight);
    }
    padding = std::max<TokenId>(tokenizer.eos_id(), 0);
    for (const auto& source : sources) {
      const SourceSettings& s = source->settings;
      if (s.pause_rate > 0 || s.answer_pauses > 0) pause = Find(names.pause, "pauses");
      if (s.backspace_rate > 0) backspace = Find(names.backspace, "backspace_rate");
      if (s.kind == "passkey" && passkey_pauses < 0) passkey_pauses = s.answer_pauses;
    }
    if (!names.sink.empty()) sink = Find(names.sink, "model.sink");
    for (TokenId id = 0; id < tokenizer.vocab_size(); ++id) {
      if (!tokenizer.is_special(id) && !tokenizer.Bytes(id).empty()) ordinary.push_back(id);
    }
    bytes_per_token = 3;
  }

  TokenId Find(const std::string& piece, std::string_view what) const {
    const auto found = tokenizer.FindToken(piece);
    if (found) return *found;
    Fail(ErrorKind::kInput, "{} is set, but the vocabulary has no piece '{}'; [vocabulary] can name another",
         what, piece);
  }

  void SetWeights(const std::vector<int64_t>& weights) {
    for (size_t i = 0; i < sources.size(); ++i) {
      source_weights[i] = weights.empty() ? sources[i]->settings.weight : static_cast<double>(weights[i]);
    }
  }

  const Source& Draw() {
    const double total = std::accumulate(source_weights.begin(), source_weights.end(), 0.0);
    double at = random.Uniform() * total;
    size_t last = 0;
    for (size_t i = 0; i < sources.size(); ++i) {
      if (source_weights[i] <= 0) continue;
      at -= source_weights[i];
      last = i;
      if (at < 0) break;
    }
    return *sources[last];
  }

  // A task text of nearly `count` ids, never more. Shrinks until it fits.
  WeightedIds FitTask(size_t count, float other, int64_t answer_pauses, double pause_rate,
                      const std::function<TaskText(size_t num_bytes)>& make) const {
    double num_bytes = static_cast<double>(count) * bytes_per_token;
    WeightedIds encoded;
    for (int attempt = 0; attempt < 40; ++attempt) {
      encoded = EncodeTask(tokenizer, make(static_cast<size_t>(num_bytes)), other);
      if (answer_pauses > 0) PauseBeforeAnswers(answer_pauses, &encoded);
      if (pause_rate > 0) InsertPauses(pause_rate, &encoded);
      const double ratio = static_cast<double>(count) / static_cast<double>(encoded.ids.size());
      if (ratio >= 1 && (ratio < 1.02 || attempt > 4)) break;
      num_bytes =
          std::max(0.0, num_bytes * (ratio > 1 ? ratio * 0.995 : ratio * 0.98) - (ratio < 1 ? 8.0 : 0.0));
    }
    if (encoded.ids.size() > count) {  // statements alone are longer: keep the end, where the answers are
      const auto extra = static_cast<ptrdiff_t>(encoded.ids.size() - count);
      encoded.ids.erase(encoded.ids.begin(), encoded.ids.begin() + extra);
      encoded.weights.erase(encoded.weights.begin(), encoded.weights.begin() + extra);
    }
    return encoded;
  }

  void PauseBeforeAnswers(int64_t count, WeightedIds* text) const {
    WeightedIds result;
    auto answer = text->answers.begin();
    for (size_t i = 0; i < text->ids.size(); ++i) {
      if (answer != text->answers.end() && *answer == i) {
        result.ids.insert(result.ids.end(), static_cast<size_t>(count), pause);
        result.weights.insert(result.weights.end(), static_cast<size_t>(count), 0.0f);
        ++answer;
      }
      result.ids.push_back(text->ids[i]);
      result.weights.push_back(text->weights[i]);
    }
    *text = std::move(result);
  }

  void InsertPauses(double rate, WeightedIds* text) const {
    WeightedIds result;
    for (size_t i = 0; i < text->ids.size(); ++i) {
      while (random.Uniform() < rate) {
        result.ids.push_back(pause);
        result.weights.push_back(0);
      }
      result.ids.push_back(text->ids[i]);
      result.weights.push_back(text->weights[i]);
    }
    *text = std::move(result);
  }

  // A document as it is trained on: behind the sink token, if there is one.
  void Append(const WeightedIds& text, int64_t segment, Row* row) const {
    if (sink < 0) return AppendDocument(text.ids, text.weights, segment, padding, row);
    WeightedIds whole = text;
    whole.ids.insert(whole.ids.begin(), sink);
    whole.weights.insert(whole.weights.begin(), 0.0f);
    AppendDocument(whole.ids, whole.weights, segment, padding, row);
  }

  // Wrong tokens at random places that carry loss.
  void AddBranches(const SourceSettings& settings, int64_t num_segments, int64_t segment, Row* row) const {
    row->branches.resize(static_cast<size_t>(num_segments));
    if (settings.backspace_rate == 0) return;
    for (size_t i = 0; i < row->ids.size(); ++i) {
      if (row->weights[i] == 0 || random.Uniform() >= settings.backspace_rate) continue;
      const auto parent = static_cast<int64_t>(i) % segment;
      auto& slots = row->branches[i / static_cast<size_t>(segment)];
      const auto length = 1 + random.Below(static_cast<uint64_t>(settings.backspace_length));
      for (uint64_t depth = 1; depth <= length; ++depth) {
        // Beyond the border it would be of the next segment.
        if (parent + static_cast<int64_t>(depth) >= segment) break;
        TokenId wrong = ordinary[random.Below(ordinary.size())];
        if (random.Uniform() < settings.backspace_near) {
          const auto near = static_cast<TokenId>(row->ids[random.Below(row->ids.size())]);
          if (!tokenizer.is_special(near)) wrong = near;
        }
        if (depth == 1 && wrong == row->targets[i]) break;
        slots.push_back({wrong, parent, static_cast<int64_t>(depth), row->weights[i]});
      }
    }
  }

  void FillFromText(const Source& source, int64_t num_tokens, int64_t segment, Row* row) {
    while (static_cast<int64_t>(row->ids.size()) < num_tokens) {
      const auto left = static_cast<size_t>(num_tokens) - row->ids.size() - (sink >= 0 ? 1 : 0);
      bool ends = false;
      WeightedIds text;
      const double pause_rate = source.settings.pause_rate;
      text.ids = source.reader->Read(left + 1, random, &ends);
      text.weights.assign(text.ids.size(), 1.0f);
      if (pause_rate > 0) InsertPauses(pause_rate, &text);
      if (text.ids.size() > left + 1) {
        text.ids.resize(left + 1);
        text.weights.resize(left + 1);
      }
      Append(text, segment, row);
    }
  }

  Row MakeRow(int64_t num_segments, int64_t segment) {
    const int64_t num_tokens = num_segments * segment;
    const Source& source = Draw();
    Row row;
    if (source.settings.kind == "text") {
      FillFromText(source, num_tokens, segment, &row);
    } else {
      // The question falls anywhere in the last segment.
      const auto count = static_cast<size_t>(num_tokens + 1) - (sink >= 0 ? 1 : 0) -
                         random.Below(static_cast<uint64_t>(segment));
      const auto filler = source.Filler();
      const WeightedIds task =
          FitTask(count, static_cast<float>(source.settings.filler_loss), source.settings.answer_pauses,
                  source.settings.pause_rate,
                  [&](size_t num_bytes) { return MakeTask(source.settings, num_bytes, filler, random); });
      Append(task, segment, &row);
    }
    // A short document leaves room.
    const auto size = static_cast<size_t>(num_tokens);
    if (row.ids.size() < size) {
      row.ids.resize(size, padding);
      row.targets.resize(size, padding);
      row.weights.resize(size, 0);
      row.resets.resize(static_cast<size_t>(num_segments), 1);
    }
    AddBranches(source.settings, num_segments, segment, &row);
    return row;
  }

  Tokenizer tokenizer;
  mutable Random random;
  std::vector<std::unique_ptr<Source>> sources;
  std::vector<double> source_weights;
  TokenId padding = 0;
  TokenId pause = -1;
  TokenId backspace = -1;
  TokenId sink = -1;
  int64_t passkey_pauses = -1;
  std::vector<TokenId> ordinary;
  double bytes_per_token = 3;
};

namespace {

void AppendRow(const Row& row, Batch* batch) {
  batch->tokens.insert(batch->tokens.end(), row.ids.begin(), row.ids.end());
  batch->targets.insert(batch->targets.end(), row.targets.begin(), row.targets.end());
  batch->weights.insert(batch->weights.end(), row.weights.begin(), row.weights.end());
  batch->resets.insert(batch->resets.end(), row.resets.begin(), row.resets.end());
  ++batch->batch;
}

// To the same number of slots in every segment.
void PutBranches(const std::vector<Row>& rows, Batch* batch) {
  size_t most = 0;
  for (const Row& row : rows) {
    for (const auto& slots : row.branches) most = std::max(most, slots.size());
  }
  batch->num_branches = static_cast<int64_t>(most);
  for (const Row& row : rows) {
    for (std::vector<Branch> slots : row.branches) {
      slots.resize(most);
      for (const Branch& slot : slots) {
        batch->branch_tokens.push_back(slot.token);
        batch->branch_parents.push_back(slot.parent);
        batch->branch_depths.push_back(slot.depth);
        batch->branch_weights.push_back(slot.weight);
      }
    }
  }
}

}  // namespace

DataStream::DataStream(const std::vector<SourceSettings>& sources, const Tokenizer& tokenizer, uint64_t seed,
                       const DataTokens& tokens)
    : impl_(std::make_unique<Impl>(sources, tokenizer, seed, tokens)) {}
DataStream::~DataStream() = default;

TokenId DataStream::pause() const { return impl_->pause; }
TokenId DataStream::backspace() const { return impl_->backspace; }
TokenId DataStream::sink() const { return impl_->sink; }

void DataStream::SetWeights(const std::vector<int64_t>& weights) { impl_->SetWeights(weights); }

Batch DataStream::Next(int64_t batch, int64_t num_segments, int64_t segment) {
  Batch result;
  result.num_segments = num_segments;
  result.segment = segment;
  result.backspace = impl_->backspace;
  std::vector<Row> rows;
  for (int64_t i = 0; i < batch; ++i) rows.push_back(impl_->MakeRow(num_segments, segment));
  for (const Row& row : rows) AppendRow(row, &result);
  PutBranches(rows, &result);
  return result;
}

Batch DataStream::Passkeys(int64_t batch, int64_t num_segments, int64_t segment, double depth,
                           uint64_t seed) const {
  Batch result;
  result.num_segments = num_segments;
  result.segment = segment;
  Random random(seed);
  for (int64_t i = 0; i < batch; ++i) {
    const auto count = static_cast<size_t>(num_segments * segment + 1);
    const WeightedIds task =
        impl_->FitTask(count - (impl_->sink >= 0 ? 1 : 0), 0, std::max<int64_t>(impl_->passkey_pauses, 0), 0,
                       [&](size_t num_bytes) { return PasskeyText(num_bytes, depth, GrassFiller, random); });
    Row row;
    impl_->Append(task, segment, &row);
    row.ids.resize(count - 1, impl_->padding);
    row.targets.resize(count - 1, impl_->padding);
    row.weights.resize(count - 1, 0);
    row.resets.resize(static_cast<size_t>(num_segments), 0);
    AppendRow(row, &result);
  }
  return result;
}

void DataStream::Save(StateWriter& writer) const {
  for (const uint64_t word : impl_->random.state()) writer.Put<uint64_t>(word);
  writer.Put<uint64_t>(impl_->sources.size());
  for (const auto& source : impl_->sources) {
    writer.PutString(source->settings.kind);
    writer.Put<uint64_t>(source->files == nullptr ? 0 : source->files->Fingerprint());
    if (source->reader != nullptr) source->reader->Save(writer);
  }
}

void DataStream::Restore(StateReader& reader) {
  std::array<uint64_t, 4> state;
  for (uint64_t& word : state) word = reader.Get<uint64_t>();
  impl_->random.set_state(state);
  bool same = reader.Get<uint64_t>() == impl_->sources.size();
  for (size_t i = 0; same && i < impl_->sources.size(); ++i) {
    Source& source = *impl_->sources[i];
    same = reader.GetString() == source.settings.kind;
    same = reader.Get<uint64_t>() == (source.files == nullptr ? 0 : source.files->Fingerprint()) && same;
    if (same && source.reader != nullptr) source.reader->Restore(reader);
  }
  if (!same) {
    Fail(ErrorKind::kMismatch,
         "the checkpoint was made with other [[source]] sections or other files; restore them, or start a "
         "new run");
  }
}

std::vector<std::string> DataStream::SampleLines(const std::vector<SourceSettings>& sources,
                                                 int64_t num_bytes, uint64_t seed) {
  Random random(seed);
  std::vector<std::string> paths;
  bool has_tasks = false;
  for (const SourceSettings& source : sources) {
    has_tasks |= source.kind != "text";
    for (const std::string& file : source.files) {
      if (std::find(paths.begin(), paths.end(), file) == paths.end()) paths.push_back(file);
    }
  }
  std::vector<std::string> lines;
  int64_t bytes = 0;
  if (!paths.empty()) {
    const TextFiles files(paths);
    const int64_t wanted = std::min<int64_t>(num_bytes, static_cast<int64_t>(files.total_bytes()));
    while (bytes < wanted) {
      lines.push_back(files.RandomText(400, random));
      bytes += static_cast<int64_t>(lines.back().size()) + 1;
    }
  }
  if (has_tasks) {
    // About half of the whole, so that the words of the tasks become pieces.
    const size_t count = std::max<size_t>(400, static_cast<size_t>(bytes) / 400);
    for (std::string& line : TaskVocabularyLines(random, count)) lines.push_back(std::move(line));
  }
  return lines;
}

}  // namespace mneme::train
