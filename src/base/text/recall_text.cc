#include "base/text/recall_text.h"

#include <fmt/core.h>

#include <array>

namespace mneme {
namespace {

constexpr std::array<std::string_view, 5> kGrass = {
    "The grass is green.", "The sky is blue.", "The sun is yellow.", "Here we go.", "There and back again."};
constexpr std::string_view kIntroduction =
    "There is an important info hidden inside a lot of irrelevant text. Find it and memorize them. I will "
    "quiz you about the important information there.\n";
constexpr std::array<std::string_view, 64> kWords = {
    "apple",  "river",  "stone",   "tiger",  "cloud",  "house",  "bread",  "chair",  "plant",  "horse",
    "light",  "music",  "paper",   "queen",  "radio",  "sheep",  "table",  "uncle",  "voice",  "water",
    "yacht",  "zebra",  "angel",   "beach",  "candle", "desert", "engine", "forest", "garden", "hammer",
    "island", "jacket", "kitchen", "ladder", "mirror", "needle", "orange", "pencil", "rabbit", "silver",
    "tunnel", "valley", "window",  "anchor", "basket", "castle", "doctor", "farmer", "guitar", "helmet",
    "insect", "jungle", "lemon",   "market", "number", "oyster", "pirate", "rocket", "saddle", "temple",
    "velvet", "walnut", "wizard",  "yellow"};

}  // namespace

std::span<const std::string_view> GrassSentences() { return kGrass; }
std::string_view PasskeyIntroduction() { return kIntroduction; }
std::span<const std::string_view> RecallWords() { return kWords; }

std::string DrawDigits(Random& random) { return fmt::format("{:05}", 10000 + random.Below(90000)); }

std::string PasskeyStatement(std::string_view key) {
  return fmt::format("The pass key is {0}. Remember it. {0} is the pass key.", key);
}
std::string PasskeyQuestion() { return "What is the pass key? The pass key is"; }

std::string NamedKeyStatement(std::string_view name, std::string_view key) {
  return fmt::format("The pass key {0} is {1}. Remember it. {1} is the pass key {0}.", name, key);
}
std::string NamedKeyQuestion(std::string_view name) {
  return fmt::format("What is the pass key {0}? The pass key {0} is", name);
}

std::string PairStatement(std::string_view key, std::string_view value) {
  return fmt::format("The {} has the {}.", key, value);
}
std::string_view PairsHeading() { return "Who has what?"; }
std::string PairQuestion(std::string_view key) { return fmt::format("The {} has the", key); }

}  // namespace mneme
