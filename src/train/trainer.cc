#include "train/trainer.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/error.h"
#include "base/files/file.h"
#include "base/random.h"
#include "base/text/units.h"
#include "context/infini.h"
#include "train/architecture.h"
#include "train/checkpoint.h"
#include "train/data/data.h"
#include "train/data/sequence.h"
#include "train/data/text_files.h"
#include "train/data/vocabulary.h"
#include "train/decoder.h"
#include "train/optimizer.h"
#include "train/tensor_io.h"
#include "train/text_evaluation.h"

namespace mneme::train {
namespace {

using Clock = std::chrono::steady_clock;
using Json = nlohmann::ordered_json;

torch::Device ParseDevice(const std::string& name) {
  const bool is_cuda = name.starts_with("cuda");
  if (is_cuda && !at::hasCUDA()) {
    Fail(ErrorKind::kUnsupported, "device '{}': this libtorch sees no CUDA device; use device = \"cpu\"",
         name);
  }
  try {
    return torch::Device(name);
  } catch (const c10::Error&) {
    Fail(ErrorKind::kInput, "device '{}' is not known; there are: cpu, cuda, cuda:N", name);
  }
}

void MakeFolder(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (error) Fail(ErrorKind::kFile, "{}: cannot be made: {}", path, error.message());
}

// One run at a time in a folder: two would overwrite each other's checkpoints.
class FolderLock {
 public:
  explicit FolderLock(const std::string& folder) {
    const std::string path = folder + "/lock";
    file_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (file_ < 0) Fail(ErrorKind::kFile, "{}: cannot be opened for writing", path);
    if (::flock(file_, LOCK_EX | LOCK_NB) == 0) return;
    ::close(file_);
    Fail(ErrorKind::kFile,
         "{}: another run is using this folder; wait for it, stop it, or take another 'out'", folder);
  }
  ~FolderLock() { ::close(file_); }
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;

 private:
  int file_ = -1;
};

// A line per step; lines of steps that a crash undid are removed on resume.
class RunLog {
 public:
  RunLog(std::string path, int64_t from_step) : path_(std::move(path)) {
    std::string kept;
    if (FileExists(path_) && from_step > 0) {
      const std::string old = ReadWholeFile(path_, kMaxDataBytes);
      for (size_t begin = 0; begin < old.size();) {
        const size_t end = old.find('\n', begin);
        if (end == std::string::npos) break;
        const std::string_view line(old.data() + begin, end - begin);
        const Json json = Json::parse(line, nullptr, false);
        if (json.is_object() && json.value("step", int64_t{0}) <= from_step) kept.append(line).append("\n");
        begin = end + 1;
      }
    }
    AtomicFileWriter writer(path_);
    writer.Write(kept);
    writer.Commit();
    file_ = std::fopen(path_.c_str(), "a");
    if (file_ == nullptr) Fail(ErrorKind::kFile, "{}: cannot be opened for writing", path_);
  }
  ~RunLog() { std::fclose(file_); }
  RunLog(const RunLog&) = delete;
  RunLog& operator=(const RunLog&) = delete;

  void Write(const Json& line) {
    const std::string text = line.dump() + "\n";
    if (std::fwrite(text.data(), 1, text.size(), file_) != text.size() || std::fflush(file_) != 0) {
      Fail(ErrorKind::kFile, "{}: cannot be written (is the disk full?); the last checkpoint is intact",
           path_);
    }
  }

 private:
  std::string path_;
  std::FILE* file_ = nullptr;
};

class Run {
 public:
  Run(const TrainConfig& config, const TrainEvents& events, const TrainLimits& limits);
  TrainOutcome Go();

 private:
  void OpenVocabulary();
  void MakeDecoder();
  void OpenData();
  void CheckBaseMemory() const;
  void LoadBase();
  void FreezeForAdapt();
  const StageSettings& StageAt(int64_t step) const;
  Batch NextBatch();
  void Step();
  void CheckNumbers(const SequenceResult& result, double norm) const;
  void Evaluate();
  void EvaluatePasskeys();
  void EvaluateFiles();
  void Save();
  void SaveCarried(StateWriter& writer) const;
  void Restore();
  void RestoreCarried(StateReader& reader);
  void Export();
  std::vector<double> Gates() const;
  void Say(const std::string& line) const {
    if (events_.say) events_.say(line);
  }
  std::string CheckpointPath() const { return config_.out + "/checkpoint.bin"; }

  TrainConfig config_;
  const TrainEvents events_;
  const TrainLimits limits_;
  std::optional<FolderLock> lock_;
  std::optional<BaseModel> base_;
  std::optional<Tokenizer> tokenizer_;
  Architecture architecture_;
  std::optional<Decoder> decoder_;
  std::optional<AdamW> optimizer_;
  std::optional<DataStream> data_;
  std::vector<TextFiles> held_back_;    // one file each
  std::vector<CarriedMemory> carried_;  // by micro-batch; empty where the stage carries none
  std::optional<RunLog> log_;
  int64_t step_ = 0;
  double last_loss_ = std::nan("");
  double smooth_loss_ = std::nan("");
  double smooth_answer_ = std::nan("");
  double tokens_per_second_ = 0;
  std::string model_path_;
};

Run::Run(const TrainConfig& config, const TrainEvents& events, const TrainLimits& limits)
    : config_(config), events_(events), limits_(limits) {
  at::set_num_threads(static_cast<int>(config_.train.num_threads));
  MakeFolder(config_.out);
  lock_.emplace(config_.out);
  if (!config_.model.base.empty()) base_.emplace(config_.model.base);
  OpenVocabulary();
  MakeDecoder();
  optimizer_.emplace(decoder_->parameters(), config_.train);
  OpenData();
  for (const std::string& file : config_.train.evaluate_files) held_back_.emplace_back(std::vector{file});
  if (!limits_.fresh && FileExists(CheckpointPath())) Restore();
  log_.emplace(config_.out + "/log.jsonl", step_);
}

void Run::OpenVocabulary() {
  if (base_) {
    tokenizer_ = base_->LoadTokenizer();
    return;
  }
  const std::string& path = config_.vocabulary.path;
  if (!FileExists(path)) {
    Say(fmt::format("training a vocabulary of {} pieces", config_.vocabulary.size));
    const auto lines = DataStream::SampleLines(config_.sources, config_.vocabulary.sample_bytes,
                                               static_cast<uint64_t>(config_.train.seed));
    TrainVocabulary(config_.vocabulary, lines, path);
  }
  tokenizer_ = LoadTokenizerFile(path);
}

void Run::MakeDecoder() {
  architecture_ = base_ ? base_->architecture() : MakeArchitecture(config_.model, tokenizer_->vocab_size());
  AdapterSettings adapters;
  if (config_.train.trainable == "lora") {
    adapters.rank = config_.train.lora_rank;
    adapters.scale = config_.train.lora_alpha / static_cast<double>(config_.train.lora_rank);
  }
  const auto options =
      torch::TensorOptions().dtype(torch::kFloat32).device(ParseDevice(config_.train.device));
  decoder_.emplace(architecture_, config_.memory, adapters, static_cast<uint64_t>(config_.train.seed),
                   options, config_.train.precision == "bf16");
  if (base_) {
    LoadBase();
    FreezeForAdapt();
  }
  int64_t count = 0;
  for (const Parameter& parameter : decoder_->parameters()) count += parameter.value.numel();
  Say(fmt::format("{} parameters, {} layers, attention {}{}, {} pieces, segment {}", FormatCount(count),
                  architecture_.plan.num_layers(), config_.memory.attention,
                  config_.memory.attention == "infini" ? " (" + config_.memory.update + ")" : "",
                  tokenizer_->vocab_size(), config_.memory.segment));
}

void Run::OpenData() {
  DataTokens tokens;
  tokens.pause = config_.vocabulary.pause_token;
  tokens.backspace = config_.vocabulary.backspace_token;
  if (config_.model.sink == "token") tokens.sink = config_.vocabulary.sink_token;
  data_.emplace(config_.sources, *tokenizer_, static_cast<uint64_t>(config_.train.seed) + 1, tokens);
  architecture_.plan.actions = {data_->pause(), data_->backspace(), data_->sink()};
}

// What adapting may add to a model.
bool IsNew(const Parameter& parameter) {
  return parameter.name.find("infini_") != std::string::npos ||
         parameter.name.find("knn_") != std::string::npos ||
         parameter.name.find(".lora_") != std::string::npos;
}

// A model that has a memory goes on with the same kind of it: other rules would read what these gates and
// keys were not made for.
void Run::CheckBaseMemory() const {
  const MemoryRules& has = architecture_.plan.memory;
  const MemorySettings& wants = config_.memory;
  if (has.segment == 0) return;
  const bool fits = wants.attention == "infini" && ParseMemoryUpdate(wants.update) == has.update &&
                    wants.key_shift == has.key_shift;
  if (fits) return;
  Fail(ErrorKind::kMismatch,
       "{}: has a compressive memory already (update \"{}\", key_shift {}); set the same in [memory], with "
       "attention = \"infini\"",
       config_.model.base, MemoryUpdateName(has.update), has.key_shift);
}

void Run::LoadBase() {
  CheckBaseMemory();
  torch::NoGradGuard no_grad;
  size_t loaded = 0;
  base_->ForEachTensor([&](const NamedTensor& tensor) {
    Parameter* parameter = decoder_->Find(tensor.name);
    if (parameter == nullptr) {
      Fail(ErrorKind::kUnsupported, "{}: tensor '{}' has no place in the training module", config_.model.base,
           tensor.name);
    }
    parameter->value.copy_(torch::tensor(tensor.values).reshape(parameter->value.sizes()));
    if (!IsNew(*parameter)) ++loaded;
  });
  for (const Parameter& parameter : decoder_->parameters()) {
    if (!IsNew(parameter)) --loaded;
  }
  MNEME_CHECK(loaded == 0);
}

void Run::FreezeForAdapt() {
  if (config_.train.trainable == "all") return;
  for (Parameter& parameter : decoder_->parameters()) {
    const bool is_memory = parameter.name.find("infini_") != std::string::npos ||
                           parameter.name.find("knn_") != std::string::npos;
    parameter.trains = is_memory || parameter.name.find(".lora_") != std::string::npos;
  }
}

const StageSettings& Run::StageAt(int64_t step) const {
  for (const StageSettings& stage : config_.stages) {
    if (step < stage.steps) return stage;
    step -= stage.steps;
  }
  return config_.stages.back();
}

Batch Run::NextBatch() {
  const StageSettings& stage = StageAt(step_);
  // From the step, so that it needs no state.
  Random random(static_cast<uint64_t>(config_.train.seed) * 1000003 + static_cast<uint64_t>(step_));
  const auto span = static_cast<uint64_t>(stage.max_segments - stage.min_segments + 1);
  const int64_t num_segments = stage.min_segments + static_cast<int64_t>(random.Below(span));
  data_->SetWeights(stage.weights);
  Batch batch = data_->Next(stage.batch, num_segments, config_.memory.segment);
  for (int64_t row = 0; row < batch.batch && stage.carry > 0; ++row) {
    if (random.Uniform() < stage.carry) batch.resets[static_cast<size_t>(row * num_segments)] = 0;
  }
  return batch;
}

Batch Rows(const Batch& batch, int64_t first, int64_t count) {
  Batch part;
  part.batch = count;
  part.num_segments = batch.num_segments;
  part.segment = batch.segment;
  const auto cut = [&](const auto& from, int64_t row, auto* to) {
    to->assign(from.begin() + first * row, from.begin() + (first + count) * row);
  };
  const int64_t length = batch.num_segments * batch.segment;
  cut(batch.tokens, length, &part.tokens);
  cut(batch.targets, length, &part.targets);
  cut(batch.weights, length, &part.weights);
  cut(batch.resets, batch.num_segments, &part.resets);
  part.num_branches = batch.num_branches;
  part.backspace = batch.backspace;
  const int64_t slots = batch.num_segments * batch.num_branches;
  cut(batch.branch_tokens, slots, &part.branch_tokens);
  cut(batch.branch_parents, slots, &part.branch_parents);
  cut(batch.branch_depths, slots, &part.branch_depths);
  cut(batch.branch_weights, slots, &part.branch_weights);
  return part;
}

void Run::CheckNumbers(const SequenceResult& result, double norm) const {
  for (size_t layer = 0; layer < result.layers.size(); ++layer) {
    const LayerWatch& watch = result.layers[layer];
    if (watch.max_m <= config_.train.z_limit && watch.max_z <= config_.train.z_limit) continue;
    Fail(ErrorKind::kInput,
         "step {}: the memory of layer {} left its bounds (|M| {:.3g}, |z| {:.3g}, limit {:.3g}); the "
         "checkpoint "
         "before is intact: go on with a lower learning rate",
         step_, layer, watch.max_m, watch.max_z, config_.train.z_limit);
  }
  if (std::isfinite(result.loss) && std::isfinite(norm)) return;
  std::string where = "the head";
  for (const Parameter& parameter : decoder_->parameters()) {
    const torch::Tensor& gradient = parameter.value.grad();
    if (gradient.defined() && !gradient.isfinite().all().item<bool>()) {
      where = parameter.name;
      break;
    }
  }
  Fail(ErrorKind::kInput,
       "step {}: loss {} and gradient norm {} (first in '{}'); the checkpoint before is intact: go on with a "
       "lower "
       "learning rate",
       step_, result.loss, norm, where);
}

void Run::Step() {
  const auto start = Clock::now();
  const Batch batch = NextBatch();
  const int64_t micro = config_.train.micro_batch > 0 ? config_.train.micro_batch : batch.batch;
  SequenceOptions options;
  options.recompute = config_.train.recompute;
  const double own_penalty = StageAt(step_).write_penalty;
  options.write_penalty = own_penalty < 0 ? config_.memory.write_penalty : own_penalty;
  SequenceResult result;
  const bool carries = StageAt(step_).carry > 0;
  carried_.resize(carries ? static_cast<size_t>((batch.batch + micro - 1) / micro) : 0);
  for (int64_t first = 0; first < batch.batch; first += micro) {
    const int64_t count = std::min(micro, batch.batch - first);
    options.scale = static_cast<double>(count) / static_cast<double>(batch.batch);
    CarriedMemory* carried = carries ? &carried_[static_cast<size_t>(first / micro)] : nullptr;
    result.Add(Backpropagate(*decoder_, Rows(batch, first, count), options, carried), options.scale);
  }
  const double norm = optimizer_->ClipGradients();
  CheckNumbers(result, norm);
  const double share = LearningRateShare(config_.train, step_, config_.num_steps());
  optimizer_->Step(share);
  ++step_;

  const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
  const auto num_tokens = static_cast<int64_t>(batch.tokens.size());
  const double rate = static_cast<double>(num_tokens) / seconds;
  tokens_per_second_ = tokens_per_second_ == 0 ? rate : 0.9 * tokens_per_second_ + 0.1 * rate;
  const auto smooth = [](double old, double now) {
    return std::isnan(old) ? now : std::isnan(now) ? old : 0.95 * old + 0.05 * now;
  };
  last_loss_ = result.loss;
  smooth_loss_ = smooth(smooth_loss_, result.loss);
  smooth_answer_ = smooth(smooth_answer_, result.answers.value());
  Json line = {{"step", step_},        {"loss", result.loss},
               {"gradient", norm},     {"rate", share * config_.train.learning_rate},
               {"tokens", num_tokens}, {"segments", batch.num_segments},
               {"seconds", seconds}};
  if (result.answers.weight > 0) line["answer_loss"] = result.answers.value();
  if (result.backspaces.weight > 0) line["backspace_loss"] = result.backspaces.value();
  if (config_.memory.attention == "infini") {
    if (config_.memory.update == "gated-delta") line["write"] = result.write_mean;
    Json m = Json::array(), z = Json::array();
    for (const LayerWatch& watch : result.layers) {
      m.push_back(watch.max_m);
      z.push_back(watch.max_z);
    }
    line["max_m"] = m;
    if (config_.memory.update != "gated-delta") line["max_z"] = z;
    line["gates"] = Gates();
  }
  log_->Write(line);
  if (events_.progress != nullptr) {
    events_.progress->Update(
        step_, config_.num_steps(),
        fmt::format("loss {:.3f}{}, {} tok/s", smooth_loss_,
                    std::isnan(smooth_answer_) ? "" : fmt::format(", answers {:.3f}", smooth_answer_),
                    FormatCount(static_cast<int64_t>(tokens_per_second_))));
  }
}

std::vector<double> Run::Gates() const {
  std::vector<double> gates;
  torch::NoGradGuard no_grad;
  for (const Parameter& parameter : decoder_->parameters()) {
    if (parameter.group != ParameterGroup::kGate) continue;
    const torch::Tensor shares =
        torch::sigmoid(parameter.value).to(torch::kCPU, torch::kFloat64).contiguous();
    gates.insert(gates.end(), shares.data_ptr<double>(), shares.data_ptr<double>() + shares.numel());
  }
  return gates;
}

void Run::Evaluate() {
  EvaluatePasskeys();
  EvaluateFiles();
}

void Run::EvaluatePasskeys() {
  const int64_t trials = config_.train.evaluate_trials;
  if (config_.train.evaluate_segments.empty()) return;
  std::string text;
  for (const int64_t num_segments : config_.train.evaluate_segments) {
    std::string row;
    for (const double depth : {0.0, 0.5, 0.9}) {
      constexpr int64_t kRows = 8;
      int64_t right = 0;
      for (int64_t done = 0; done < trials && !limits_.stop.stop_requested(); done += kRows) {
        const int64_t count = std::min(kRows, trials - done);
        right += CountExact(*decoder_, data_->Passkeys(count, num_segments, config_.memory.segment, depth,
                                                       static_cast<uint64_t>(done + num_segments * 1000)));
      }
      if (limits_.stop.stop_requested()) return;
      const double accuracy = static_cast<double>(right) / static_cast<double>(trials);
      log_->Write({{"step", step_},
                   {"task", "passkey"},
                   {"length", num_segments * config_.memory.segment},
                   {"segments", num_segments},
                   {"depth", depth},
                   {"trials", trials},
                   {"accuracy", accuracy}});
      row += fmt::format("{}{:.2f}", row.empty() ? "" : "/", accuracy);
    }
    text += fmt::format("  {} tokens {}", num_segments * config_.memory.segment, row);
  }
  Say(fmt::format("step {}: passkey by depth 0/0.5/0.9:{}", step_, text));
}

void Run::EvaluateFiles() {
  TextEvaluation options;
  options.segment = config_.memory.segment;
  options.max_tokens = config_.train.evaluate_tokens;
  options.reset_segments = config_.train.evaluate_reset;
  options.stop = limits_.stop;
  if (data_->sink() >= 0) options.front = {data_->sink()};
  if (options.reset_segments < 0) {
    options.reset_segments = 0;
    for (const StageSettings& stage : config_.stages) {
      if (config_.memory.attention != "dense") break;
      options.reset_segments = std::max(options.reset_segments, stage.max_segments);
    }
  }
  for (size_t i = 0; i < held_back_.size(); ++i) {
    const std::string& path = config_.train.evaluate_files[i];
    const TextScore score = EvaluateText(*decoder_, *tokenizer_, held_back_[i].text(0), options);
    if (score.stopped) return;
    const double per_byte = score.nll * static_cast<double>(score.num_tokens) /
                            static_cast<double>(std::max<int64_t>(score.num_bytes, 1));
    Json line = {{"step", step_},
                 {"task", "text"},
                 {"file", std::filesystem::path(path).filename().string()},
                 {"attention", config_.memory.attention},
                 {"tokens", score.num_tokens},
                 {"bytes", score.num_bytes},
                 {"nll", score.nll},
                 {"standard_error", score.standard_error},
                 {"perplexity", std::exp(score.nll)},
                 {"bits_per_byte", per_byte / std::log(2.0)},
                 {"reset_segments", options.reset_segments},
                 {"held_bytes", score.held.total()},
                 {"held",
                  {{"memory", score.held.memory},
                   {"window", score.held.window},
                   {"cache", score.held.cache},
                   {"neighbours", score.held.neighbours}}},
                 {"blocks", score.blocks}};
    if (config_.memory.attention == "infini") line["update"] = config_.memory.update;
    log_->Write(line);
    Say(fmt::format(
        "step {}: {}: {:.4f} +- {:.4f} nats per token (perplexity {:.3f}) over {} tokens; {} held "
        "from segment to segment",
        step_, path, score.nll, score.standard_error, std::exp(score.nll), score.num_tokens,
        FormatBytes(static_cast<size_t>(score.held.total()))));
  }
}

void Run::Save() {
  WriteCheckpoint(CheckpointPath(), [&](StateWriter& writer) {
    writer.PutString(ShapeText(config_));
    writer.Put<int64_t>(step_);
    writer.Put<uint64_t>(tokenizer_->fingerprint());
    optimizer_->Save(writer);
    data_->Save(writer);
    SaveCarried(writer);
  });
  Export();
}

void Run::SaveCarried(StateWriter& writer) const {
  writer.Put<uint64_t>(carried_.size());
  for (const CarriedMemory& carried : carried_) {
    writer.Put<int64_t>(carried.num_rows());
    if (carried.num_rows() == 0) continue;
    PutTensor(carried.written, writer);
    for (const MemoryTensors& memory : carried.layers) {
      PutTensor(memory.m, writer);
      PutTensor(memory.z, writer);
    }
  }
}

void Run::RestoreCarried(StateReader& reader) {
  carried_.clear();
  const auto count = reader.Get<uint64_t>();
  for (uint64_t i = 0; i < count; ++i) {
    CarriedMemory& carried = carried_.emplace_back();
    const auto num_rows = reader.Get<int64_t>();
    if (num_rows == 0) continue;
    if (num_rows < 0 || num_rows > 1 << 20)
      Fail(ErrorKind::kFile, "{}: carries {} rows", CheckpointPath(), num_rows);
    const DecoderState shapes = decoder_->EmptyState(num_rows);
    carried.written = shapes.written;
    GetTensor("carried rows", &carried.written, reader);
    for (const LayerState& layer : shapes.layers) {
      MemoryTensors& memory = carried.layers.emplace_back(layer.memory);
      GetTensor("carried memory", &memory.m, reader);
      GetTensor("carried memory", &memory.z, reader);
    }
  }
}

void Run::Restore() {
  ReadCheckpoint(CheckpointPath(), [&](StateReader& reader) {
    if (reader.GetString() != ShapeText(config_)) {
      Fail(ErrorKind::kMismatch,
           "{}: is a checkpoint of another [model] or [memory]; take another 'out' folder, or start anew "
           "with --fresh",
           CheckpointPath());
    }
    step_ = reader.Get<int64_t>();
    if (reader.Get<uint64_t>() != tokenizer_->fingerprint()) {
      Fail(ErrorKind::kMismatch, "{}: was made with another vocabulary", CheckpointPath());
    }
    optimizer_->Restore(reader);
    data_->Restore(reader);
    RestoreCarried(reader);
  });
  Say(fmt::format("going on from step {}", step_));
}

void Run::Export() {
  if (config_.memory.attention == "memorizing") return;
  torch::NoGradGuard no_grad;
  std::vector<NamedTensor> tensors;
  for (const Parameter& parameter : decoder_->parameters()) {
    if (parameter.name.find(".lora_") != std::string::npos) continue;
    const torch::Tensor value = decoder_->Merged(parameter).to(torch::kCPU, torch::kFloat32).contiguous();
    tensors.push_back({parameter.name,
                       value.sizes().vec(),
                       {value.data_ptr<float>(), value.data_ptr<float>() + value.numel()}});
  }
  const std::string path = config_.out + "/model.gguf";
  ExportGguf(path, architecture_, config_.memory, *tokenizer_, base_ ? &*base_ : nullptr, tensors);
  model_path_ = path;
}

TrainOutcome Run::Go() {
  const int64_t total = config_.num_steps();
  const int64_t end = limits_.stop_after < 0 ? total : std::min(total, step_ + limits_.stop_after);
  bool is_saved = false, is_evaluated = false;
  while (step_ < end && !limits_.stop.stop_requested()) {
    Step();
    is_saved = step_ % config_.train.checkpoint_every == 0;
    if (is_saved) Save();
    is_evaluated = config_.train.evaluate_every > 0 && step_ % config_.train.evaluate_every == 0;
    if (is_evaluated) Evaluate();
  }
  if (!is_saved) Save();
  if (step_ >= total && !is_evaluated) EvaluateFiles();
  if (events_.progress != nullptr) {
    events_.progress->Finish(fmt::format("step {} of {}, loss {:.4f}", step_, total, smooth_loss_));
  }
  return {step_, last_loss_, step_ >= total, limits_.stop.stop_requested(), model_path_};
}

}  // namespace

TrainOutcome Train(const TrainConfig& config, const TrainEvents& events, const TrainLimits& limits) {
  try {
    return Run(config, events, limits).Go();
  } catch (const c10::Error& error) {
    Fail(ErrorKind::kInput, "libtorch: {}", error.what_without_backtrace());
  }
}

}  // namespace mneme::train
