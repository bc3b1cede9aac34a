// Calibration: which attention heads of a model find what a question asks for. Context `recall` lets a few of
// them choose what comes back; which ones those are differs from model to model and is found by trying, in
// seconds for a small model: sentences are hidden in a text that ships with the program, each is asked for,
// and the heads whose votes point at the right place are kept.
//
// A calibration is a small file of lines, bound to the model by its fingerprint. It lies beside the model
// (MODEL.recall), or in the user's cache ($XDG_CACHE_HOME or ~/.cache, mneme/FINGERPRINT.recall).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "mneme/export.h"
#include "mneme/model.h"
#include "mneme/progress.h"
#include "mneme/stop.h"

namespace mneme {

struct CalibratedHead {
  int64_t layer = 0;  // counted among those with attention
  int64_t head = 0;   // query head
  double score = 0;   // alone: 1 where it always finds the right place and nothing rivals it
};

struct Calibration {
  std::vector<CalibratedHead> heads;  // the first is the best
  int64_t num_slices = 0;             // of the text, among which the right one was to be found
  int64_t num_questions = 0;
  double found_first = 0;  // share of the questions whose slice came first in the votes of all the heads
  double found_four = 0;   // or among the first four
};

// Tries all heads. The same on any number of threads. Throws Error(kUnsupported) for a model without a
// tokenizer or without attention that could recall, Error(kBudget), Error(kInterrupted) after a stop.
MNEME_API Calibration Calibrate(const Model& model, Progress& progress, StopToken stop = {});

// Where WriteCalibration would put it beside the model.
MNEME_API std::string CalibrationPath(const Model& model);
// Throws Error(kFile).
MNEME_API void WriteCalibration(const Model& model, const Calibration& calibration, const std::string& path);
// Throws Error(kFile) for a file that is none, Error(kMismatch) for that of another model.
MNEME_API Calibration ReadCalibration(const Model& model, const std::string& path);
// The one that lies beside the model or in the cache; none, or one that cannot be read: nothing.
MNEME_API std::optional<Calibration> FindCalibration(const Model& model);

// Sessions made from here on choose with it. Thread rule: the engine's.
MNEME_API void UseCalibration(const Model& model, const Calibration& calibration);
// Finds one and uses it, or makes one, uses it and keeps it in the cache if that can be written. What a
// session with context `recall` does by itself where nobody did it before. Throws as Calibrate.
MNEME_API Calibration EnsureCalibrated(const Model& model, Progress& progress, StopToken stop = {});

}  // namespace mneme
