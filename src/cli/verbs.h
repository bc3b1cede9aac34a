// The verbs of the program. Each function describes one subcommand to the parser; when it is the one that was
// typed, its action is stored and main runs it after parsing. An action returns the exit code: 0, or 130
// after an interrupt; it throws mneme::Error for everything else.
#pragma once

#include <functional>

namespace CLI {
class App;
}

namespace mneme::cli {

using Action = std::function<int()>;

void AddRun(CLI::App& app, Action* action);
void AddChat(CLI::App& app, Action* action);
void AddInspect(CLI::App& app, Action* action);
void AddPlan(CLI::App& app, Action* action);
void AddConvert(CLI::App& app, Action* action);
void AddBench(CLI::App& app, Action* action);
void AddTokenize(CLI::App& app, Action* action);
void AddEval(CLI::App& app, Action* action);
void AddTrain(CLI::App& app, Action* action);
void AddAdapt(CLI::App& app, Action* action);

inline constexpr int kExitError = 1;
inline constexpr int kExitUsage = 2;
inline constexpr int kExitInterrupted = 130;

}  // namespace mneme::cli
