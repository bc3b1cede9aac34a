// `mneme calibrate MODEL`: finds the heads that choose what comes back in context recall, and keeps them in a
// file beside the model.
#include "mneme/calibrate.h"

#include <fmt/format.h>

#include <memory>
#include <string>

#include "base/progress.h"
#include "cli/console/command.h"
#include "cli/console/console.h"
#include "cli/console/signals.h"
#include "cli/options.h"
#include "cli/stream.h"
#include "cli/verbs.h"

namespace mneme::cli {
namespace {

struct CalibrateArguments {
  ModelArguments model;
  SessionArguments context;
  std::string out;
};

int RunCalibrate(const CalibrateArguments& arguments) {
  const OpenedModel opened(arguments.model, arguments.context.engine);
  const Model& model = opened.model;
  const std::string out = arguments.out.empty() ? CalibrationPath(model) : arguments.out;
  CheckOutputs({out}, InputsOf(arguments.model));
  ConsoleProgress progress("calibrating");
  const Calibration calibration = Calibrate(model, progress, UserStop());
  WriteCalibration(model, calibration, out);
  std::string text = fmt::format("{}: {} questions about a text of {} slices\n", out,
                                 calibration.num_questions, calibration.num_slices);
  for (const CalibratedHead& head : calibration.heads) {
    text += fmt::format("  layer {}, head {}: {:.2f} alone\n", head.layer, head.head, head.score);
  }
  text += fmt::format(
      "together they put the right slice first for {:.0f}% of the questions, among four for {:.0f}%\n",
      100 * calibration.found_first, 100 * calibration.found_four);
  WriteOut(text);
  return 0;
}

}  // namespace

void AddCalibrate(Command& program) {
  auto arguments = std::make_shared<CalibrateArguments>();
  Command& verb = program.AddVerb(
      "calibrate", "Find the heads of a model that choose what comes back in --context recall");
  AddModelOptions(verb, &arguments->model);
  verb.Text("-o,--out", &arguments->out, "FILE",
            "Where they are kept (default: MODEL.recall, which runs find)");
  AddContextOptions(verb, &arguments->context, /*with_context=*/false);
  verb.SetFooter(
      "Takes seconds for a small model, on a text that ships with the program. A run with --context recall "
      "does\n"
      "the same by itself where there is no such file, and keeps it in the user's cache.");
  verb.SetAction([=] { return RunCalibrate(*arguments); });
}

}  // namespace mneme::cli
