// The verbs of the program. Each function describes one to `program`: options, help, and the action that main
// runs when it is the one that was typed. An action returns the exit code: 0, or 130 after an interrupt; it
// throws mneme::Error for everything else.
#pragma once

#include "cli/console/command.h"

namespace mneme::cli {

void AddRun(Command& program);
void AddChat(Command& program);
void AddInspect(Command& program);
void AddPlan(Command& program);
void AddConvert(Command& program);
void AddCalibrate(Command& program);
void AddStore(Command& program);
void AddBench(Command& program);
void AddTokenize(Command& program);
void AddTemplate(Command& program);
void AddEval(Command& program);
void AddTrain(Command& program);
void AddAdapt(Command& program);

inline constexpr int kExitError = 1;
inline constexpr int kExitUsage = 2;
inline constexpr int kExitInterrupted = 130;

}  // namespace mneme::cli
