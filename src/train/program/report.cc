#include "train/program/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/files/file.h"
#include "eval/report/html.h"

namespace mneme::train {
namespace {

using Json = nlohmann::json;

struct Curve {
  std::vector<double> x, y;
};

// Means over even stretches, so that a long run stays readable.
Curve Thin(const Curve& curve, size_t most = 300) {
  Curve result;
  const size_t stretch = std::max<size_t>(1, curve.x.size() / most);
  for (size_t i = 0; i + stretch <= curve.x.size(); i += stretch) {
    double x = 0, y = 0;
    for (size_t j = i; j < i + stretch; ++j) {
      x += curve.x[j];
      y += curve.y[j];
    }
    result.x.push_back(x / static_cast<double>(stretch));
    result.y.push_back(y / static_cast<double>(stretch));
  }
  return result;
}

void AddCurve(const std::string& name, const Curve& curve, Plot* plot) {
  if (curve.x.empty()) return;
  Curve thin = Thin(curve);
  plot->series.push_back({name, std::move(thin.x), std::move(thin.y), {}, {}});
}

double Largest(const Json& list) {
  double most = 0;
  for (const Json& item : list) {
    if (item.is_number()) most = std::max(most, item.get<double>());
  }
  return most;
}

constexpr std::array<double, 5> kShares = {0.1, 0.3, 0.5, 0.7, 0.9};

struct Curves {
  Curve loss, answers, write, max_m, max_z;
  std::array<Curve, 6> gates;  // share of the heads below each border, and above the last
  std::map<int64_t, std::map<std::string, Curve>> recall;  // by step, by depth
  std::map<std::string, Curve> text;                       // by held-back file
};

void ReadStep(const Json& line, Curves* curves) {
  const double step = line.value("step", 0.0);
  const auto add = [&](const char* key, Curve* curve) {
    if (!line.contains(key) || !line[key].is_number()) return;
    curve->x.push_back(step);
    curve->y.push_back(line[key].get<double>());
  };
  add("loss", &curves->loss);
  add("answer_loss", &curves->answers);
  add("write", &curves->write);
  for (const auto& [key, curve] : {std::pair{"max_m", &curves->max_m}, std::pair{"max_z", &curves->max_z}}) {
    if (!line.contains(key)) continue;
    curve->x.push_back(step);
    curve->y.push_back(Largest(line[key]));
  }
  if (!line.contains("gates") || line["gates"].empty()) return;
  std::array<double, 6> counts{};
  for (const Json& gate : line["gates"]) {
    const double share = gate.get<double>();
    counts[static_cast<size_t>(std::upper_bound(kShares.begin(), kShares.end(), share) - kShares.begin())] +=
        1;
  }
  for (size_t i = 0; i < counts.size(); ++i) {
    curves->gates[i].x.push_back(step);
    curves->gates[i].y.push_back(counts[i] / static_cast<double>(line["gates"].size()));
  }
}

Curves ReadLog(const std::string& path) {
  Curves curves;
  const std::string log = ReadWholeFile(path, kMaxDataBytes);
  for (size_t begin = 0; begin < log.size();) {
    const size_t end = std::min(log.find('\n', begin), log.size());
    const Json line = Json::parse(log.substr(begin, end - begin), nullptr, false);
    begin = end + 1;
    if (!line.is_object()) continue;
    if (line.value("task", "") == "text") {
      Curve& curve = curves.text[line.value("file", "")];
      curve.x.push_back(line.value("step", 0.0));
      curve.y.push_back(line.value("nll", 0.0));
    } else if (line.contains("task")) {
      Curve& curve =
          curves.recall[line.value("step", int64_t{0})][fmt::format("depth {}", line.value("depth", 0.0))];
      curve.x.push_back(line.value("segments", 0.0) * (1 - line.value("depth", 0.0)));
      curve.y.push_back(line.value("accuracy", 0.0));
    } else {
      ReadStep(line, &curves);
    }
  }
  return curves;
}

}  // namespace

std::string TrainingPage(const std::string& log_path, const std::string& title) {
  const Curves curves = ReadLog(log_path);
  HtmlPage page(title);
  Plot loss{.title = "Loss",
            .x_label = "step",
            .y_label = "nats per token",
            .log_y = true,
            .series = {},
            .markers = {},
            .y_shows = {}};
  AddCurve("weighted loss", curves.loss, &loss);
  AddCurve("answers", curves.answers, &loss);
  for (const auto& [file, curve] : curves.text) AddCurve(file + " (held back)", curve, &loss);
  page.AddPlot(loss);
  if (!curves.recall.empty()) {
    page.Heading("Recall");
    page.Paragraph(
        "Passkey, all five digits right, by the number of segments between the key and the question.");
    Plot recall{.title = fmt::format("Step {}", curves.recall.rbegin()->first),
                .x_label = "segments between",
                .y_label = "accuracy",
                .log_x = true,
                .series = {},
                .markers = {},
                .y_shows = {0, 1}};
    for (const auto& [depth, curve] : curves.recall.rbegin()->second) {
      recall.series.push_back({depth, curve.x, curve.y, {}, {}});
    }
    page.AddPlot(recall);
  }
  if (!curves.gates[0].x.empty()) {
    page.Heading("Gates");
    page.Paragraph(
        "Share of the heads whose gate (0: local attention only, 1: memory only) lies in each range.");
    Plot gates{.title = "Gates",
               .x_label = "step",
               .y_label = "share of heads",
               .series = {},
               .markers = {},
               .y_shows = {0, 1}};
    const std::array<const char*, 6> names = {"below 0.1",  "0.1 to 0.3", "0.3 to 0.5",
                                              "0.5 to 0.7", "0.7 to 0.9", "above 0.9"};
    for (size_t i = 0; i < names.size(); ++i) AddCurve(names[i], curves.gates[i], &gates);
    page.AddPlot(gates);
  }
  if (!curves.max_m.x.empty()) {
    page.Heading("Memory");
    Plot memory{.title = "Largest entry",
                .x_label = "step",
                .y_label = "magnitude",
                .log_y = true,
                .series = {},
                .markers = {},
                .y_shows = {}};
    AddCurve("|M|", curves.max_m, &memory);
    AddCurve("|z|", curves.max_z, &memory);
    page.AddPlot(memory);
  }
  if (!curves.write.x.empty()) {
    Plot write{.title = "Mean write gate",
               .x_label = "step",
               .y_label = "mean",
               .series = {},
               .markers = {},
               .y_shows = {}};
    AddCurve("write gate", curves.write, &write);
    page.AddPlot(write);
  }
  return page.Finish();
}

}  // namespace mneme::train
