// Calibrations as files.
#include <fmt/core.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <sstream>
#include <string>
#include <system_error>

#include "base/error.h"
#include "base/files/file.h"
#include "mneme/calibrate.h"
#include "model/model_impl.h"

namespace mneme {
namespace {

constexpr std::string_view kMagic = "mneme calibration 1";
constexpr size_t kMostBytes = size_t{64} << 10;
constexpr size_t kMostHeads = 64;

// Empty: there is no place for it.
std::string CachePath(const Model& model) {
  const char* const cache = std::getenv("XDG_CACHE_HOME");
  const char* const home = std::getenv("HOME");
  std::filesystem::path folder;
  if (cache != nullptr && *cache != '\0') {
    folder = cache;
  } else if (home != nullptr && *home != '\0') {
    folder = std::filesystem::path(home) / ".cache";
  } else {
    return "";
  }
  return (folder / "mneme" / fmt::format("{:016x}.recall", model.fingerprint())).string();
}

[[noreturn]] void FailFile(const std::string& path, std::string_view what) {
  Fail(ErrorKind::kFile, "{}: {}; it is no calibration that this program wrote", path, what);
}

}  // namespace

std::string CalibrationPath(const Model& model) {
  std::string path = model.info().path;
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  return path + ".recall";
}

void WriteCalibration(const Model& model, const Calibration& calibration, const std::string& path) {
  std::string text = fmt::format("{}\nmodel {:016x}\n", kMagic, model.fingerprint());
  for (const CalibratedHead& head : calibration.heads) {
    text += fmt::format("head {} {} {:.4f}\n", head.layer, head.head, head.score);
  }
  text +=
      fmt::format("slices {}\nquestions {}\nfound_first {:.4f}\nfound_four {:.4f}\n", calibration.num_slices,
                  calibration.num_questions, calibration.found_first, calibration.found_four);
  AtomicFileWriter file(path);
  file.Write(text);
  file.Commit();
}

Calibration ReadCalibration(const Model& model, const std::string& path) {
  std::istringstream lines(ReadWholeFile(path, kMostBytes));
  std::string line;
  if (!std::getline(lines, line) || line != kMagic)
    FailFile(path, "it does not begin with its name and version");
  const ContextShape& shape = model.impl()->loaded->context_shape();
  Calibration calibration;
  bool is_bound = false, has_end = false;
  while (std::getline(lines, line)) {
    std::istringstream words(line);
    std::string name;
    words >> name;
    if (name == "model") {
      std::string fingerprint;
      words >> fingerprint;
      if (fingerprint != fmt::format("{:016x}", model.fingerprint())) {
        Fail(ErrorKind::kMismatch,
             "{}: it is the calibration of another model; make one for this: mneme calibrate", path);
      }
      is_bound = true;
    } else if (name == "head") {
      CalibratedHead head;
      words >> head.layer >> head.head >> head.score;
      const bool is_there =
          words && head.layer >= 0 && head.head >= 0 &&
          static_cast<size_t>(head.layer) < shape.layers.size() &&
          static_cast<size_t>(head.head) < shape.layers[static_cast<size_t>(head.layer)].num_heads;
      const bool is_known = std::any_of(
          calibration.heads.begin(), calibration.heads.end(),
          [&](const CalibratedHead& known) { return known.layer == head.layer && known.head == head.head; });
      if (!is_there || is_known || calibration.heads.size() == kMostHeads)
        FailFile(path, "a head is not one of the model's");
      calibration.heads.push_back(head);
    } else if (name == "slices") {
      words >> calibration.num_slices;
    } else if (name == "questions") {
      words >> calibration.num_questions;
    } else if (name == "found_first") {
      words >> calibration.found_first;
    } else if (name == "found_four") {
      words >> calibration.found_four;
      has_end = true;  // the last line that is written
    } else {
      FailFile(path, "it has a line that is not known");
    }
    if (!words) FailFile(path, "a number is missing");
  }
  if (!has_end) FailFile(path, "it ends too early");
  if (!is_bound || calibration.heads.empty()) FailFile(path, "it names no model or no head");
  return calibration;
}

std::optional<Calibration> FindCalibration(const Model& model) {
  for (const std::string& path : {CalibrationPath(model), CachePath(model)}) {
    std::error_code ignored;
    if (path.empty() || !std::filesystem::is_regular_file(path, ignored)) continue;
    try {
      return ReadCalibration(model, path);
    } catch (const Error&) {
      // One that is damaged or of another model is as none.
    }
  }
  return std::nullopt;
}

void UseCalibration(const Model& model, const Calibration& calibration) {
  RecallRules rules;
  for (const CalibratedHead& head : calibration.heads) {
    rules.heads.push_back({static_cast<size_t>(head.layer), static_cast<size_t>(head.head)});
  }
  model.impl()->loaded->SetRecall(rules);
}

Calibration EnsureCalibrated(const Model& model, Progress& progress, StopToken stop) {
  if (std::optional<Calibration> found = FindCalibration(model)) {
    UseCalibration(model, *found);
    return *std::move(found);
  }
  Calibration made = Calibrate(model, progress, stop);
  UseCalibration(model, made);
  const std::string path = CachePath(model);
  if (path.empty()) return made;
  try {
    std::error_code ignored;
    std::filesystem::create_directories(std::filesystem::path(path).parent_path(), ignored);
    WriteCalibration(model, made, path);
  } catch (const Error&) {
    // It is made again the next time.
  }
  return made;
}

}  // namespace mneme
