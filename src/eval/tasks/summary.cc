#include "eval/tasks/summary.h"

#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <nlohmann/json.hpp>
#include <span>
#include <utility>

#include "base/error.h"
#include "base/files/file.h"
#include "base/hash.h"
#include "base/text/json.h"
#include "base/text/units.h"
#include "eval/scores/text.h"
#include "mneme/session.h"

namespace mneme {
namespace {

using Json = nlohmann::ordered_json;
using Clock = std::chrono::steady_clock;

constexpr int64_t kDefaultPartTokens = 2048;

// Summaries of parts as lines of a file, behind a line that says which run they belong to.
class PartsFile {
 public:
  PartsFile(const std::string& path, const std::string& run) : path_(path) {
    if (path.empty()) return;
    const bool is_there = FileExists(path);
    if (is_there) Read(run);
    out_.open(path, std::ios::app | std::ios::binary);
    if (!is_there || texts_.empty()) WriteLine(run, !is_there);
  }

  // The summary of the next part if an earlier run made it.
  bool Take(std::span<const TokenId> ids, std::string* text) {
    if (next_ >= texts_.size()) return false;
    if (hashes_[next_] != Hash(ids)) {
      Fail(ErrorKind::kMismatch, "{}:{}: a part of another text; remove the file, or name another --out",
           path_, next_ + 2);
    }
    *text = texts_[next_++];
    return true;
  }

  void Add(std::span<const TokenId> ids, const std::string& text) {
    if (path_.empty()) return;
    Json json;
    json["ids"] = Hash(ids);
    json["text"] = text;
    WriteLine(json.dump(-1, ' ', false, Json::error_handler_t::replace), true);
  }

 private:
  static std::string Hash(std::span<const TokenId> ids) {
    return fmt::format("{:016x}", HashBytes({reinterpret_cast<const char*>(ids.data()), ids.size_bytes()}));
  }

  void Read(const std::string& run) {
    const std::string text = ReadWholeFile(path_, kMaxDataBytes);
    const size_t whole = text.rfind('\n') == std::string::npos ? 0 : text.rfind('\n') + 1;
    const auto lines = scores::Split(std::string_view(text).substr(0, whole), '\n');
    if (lines.empty() || lines[0] != run) {
      Fail(ErrorKind::kMismatch, "{} holds parts of another summary; remove it, or name another --out",
           path_);
    }
    for (size_t i = 1; i + 1 < lines.size(); ++i) {
      try {
        const Json json = Json::parse(lines[i]);
        texts_.push_back(json.at("text").get<std::string>());
        hashes_.push_back(json.at("ids").get<std::string>());
      } catch (const Json::exception& error) {
        Fail(ErrorKind::kMismatch, "{}:{}: not a part of this program ({}); remove the file", path_, i + 1,
             JsonReason(error));
      }
    }
    if (whole == text.size()) return;
    AtomicFileWriter writer(path_);  // a line that a crash cut
    writer.Write(std::string_view(text).substr(0, whole));
    writer.Commit();
  }

  void WriteLine(const std::string& line, bool wanted) {
    if (!wanted) return;
    out_ << line << '\n' << std::flush;
    if (!out_) throw Error(ErrorKind::kFile, fmt::format("{}: cannot be written", path_));
  }

  std::string path_;
  std::ofstream out_;
  std::vector<std::string> texts_;
  std::vector<std::string> hashes_;  // of the parts' tokens
  size_t next_ = 0;
};

class Summarizer {
 public:
  Summarizer(const Model& model, const SummarySettings& settings, Progress& progress)
      : model_(model), settings_(settings), progress_(progress), parts_(settings.parts_path, RunKey()) {}

  SummaryResult Run(const NextText& next) {
    const auto start = Clock::now();
    SummaryResult result;
    std::string text;
    NextText source = next;
    for (int64_t pass = 1; pass < settings_.passes && !interrupted_; ++pass) {
      text = OnePass(pass, source, &result);
      source = Whole(text);
    }
    if (!interrupted_) result.text = LastPass(source, &result);
    result.is_interrupted = interrupted_;
    result.peak_bytes = peak_bytes_;
    result.seconds = std::chrono::duration<double>(Clock::now() - start).count();
    return result;
  }

 private:
  // What decides the summaries of parts.
  std::string RunKey() const {
    Json json;
    json["model"] = fmt::format("{:016x}", model_.fingerprint());
    json["context"] = settings_.session.context;
    json["kv"] =
        fmt::format("{}, {}", EncodingName(settings_.session.keys), EncodingName(settings_.session.values));
    json["start_position"] = settings_.session.start_position;
    json["max_tokens"] = settings_.max_tokens;
    json["part_tokens"] = PartTokens();
    json["before"] = settings_.before;
    json["after"] = settings_.after;
    return json.dump(-1, ' ', false, Json::error_handler_t::replace);
  }

  int64_t PartTokens() const {
    if (settings_.part_tokens > 0) return settings_.part_tokens;
    const int64_t trained = model_.info().trained_length;
    return trained > 0 ? std::max<int64_t>(trained / 2, 1) : kDefaultPartTokens;
  }

  static NextText Whole(const std::string& text) {
    return [&text, is_given = false]() mutable {
      if (is_given) return std::string();
      is_given = true;
      return text;
    };
  }

  Session Begin() {
    Session session(model_, settings_.session);
    session.FeedText(settings_.before, TextKind::kPlain, settings_.stop);
    return session;
  }

  // Empty after a stop.
  std::string Write(Session& session) {
    session.FeedText(settings_.after, TextKind::kPlain, settings_.stop);
    session.FinishText();
    std::string summary;
    GenerateOptions generate;
    generate.max_tokens = settings_.max_tokens;
    Generation generation = session.Generate(generate);
    while (const auto piece = generation.Next(settings_.stop)) summary += piece->text;
    peak_bytes_ = std::max(peak_bytes_, model_.activation_bytes() + session.memory().peak_bytes);
    if (generation.result().reason != StopReason::kInterrupted) return std::string(scores::Trim(summary));
    interrupted_ = true;
    return "";
  }

  // The summaries of the parts, a line each.
  std::string OnePass(int64_t pass, const NextText& source, SummaryResult* result) {
    std::string joined;
    StreamEncoder encoder(model_.tokenizer());
    std::vector<TokenId> ids;
    const auto flush = [&](size_t least) {
      const size_t size = static_cast<size_t>(PartTokens());
      while (!interrupted_ && ids.size() >= least && !ids.empty()) {
        const size_t count = std::min(size, ids.size());
        const std::string summary = OnePart({ids.data(), count});
        ids.erase(ids.begin(), ids.begin() + static_cast<ptrdiff_t>(count));
        if (interrupted_) return;
        joined += (joined.empty() ? "" : "\n") + summary;
        ++result->num_parts;
        progress_.Update(result->num_parts, -1, fmt::format("pass {}, part {}", pass, result->num_parts));
      }
    };
    for (std::string piece = source(); !piece.empty() && !interrupted_; piece = source()) {
      const size_t before = ids.size();
      encoder.Feed(piece, &ids);
      if (pass == 1) result->num_tokens += static_cast<int64_t>(ids.size() - before);
      flush(static_cast<size_t>(PartTokens()));
      if (settings_.stop.stop_requested()) interrupted_ = true;
    }
    const size_t before = ids.size();
    encoder.Finish(&ids);
    if (pass == 1) result->num_tokens += static_cast<int64_t>(ids.size() - before);
    flush(1);
    return joined;
  }

  std::string OnePart(std::span<const TokenId> ids) {
    std::string summary;
    if (parts_.Take(ids, &summary)) return summary;
    Session session = Begin();
    session.FinishText();
    if (session.Feed(ids, settings_.stop) < static_cast<int64_t>(ids.size())) {
      interrupted_ = true;
      return "";
    }
    summary = Write(session);
    if (!interrupted_) parts_.Add(ids, summary);
    return summary;
  }

  std::string LastPass(const NextText& source, SummaryResult* result) {
    Session session = Begin();
    const int64_t first = session.num_tokens();
    int64_t num_bytes = 0;
    for (std::string piece = source(); !piece.empty(); piece = source()) {
      num_bytes += static_cast<int64_t>(piece.size());
      if (session.FeedText(piece, TextKind::kPlain, settings_.stop) < static_cast<int64_t>(piece.size()))
        interrupted_ = true;
      if (interrupted_ || settings_.stop.stop_requested()) {
        interrupted_ = true;
        return "";
      }
      progress_.Update(num_bytes, -1, fmt::format("{} tokens read", FormatCount(session.num_tokens())));
    }
    if (num_bytes == 0) Fail(ErrorKind::kInput, "there is no text to summarize");
    if (settings_.passes == 1) result->num_tokens = session.num_tokens() - first;
    return Write(session);
  }

  const Model& model_;
  const SummarySettings& settings_;
  Progress& progress_;
  PartsFile parts_;
  size_t peak_bytes_ = 0;
  bool interrupted_ = false;
};

}  // namespace

SummaryResult Summarize(const Model& model, const SummarySettings& settings, const NextText& next,
                        Progress& progress) {
  if (!model.has_tokenizer()) {
    Fail(ErrorKind::kUnsupported, "{} carries no tokenizer; name one with --tokenizer", model.info().name);
  }
  if (settings.passes < 1) Fail(ErrorKind::kInput, "passes: at least 1");
  return Summarizer(model, settings, progress).Run(next);
}

}  // namespace mneme
