// The text in which recall tasks hide what they ask for: the papers' filler without an end, or a file of any
// size, read as a stream of sentences.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/files/file.h"

namespace mneme {

// Where filler may be cut when a text must not grow longer than a number of tokens.
enum class FillerCut : uint8_t { kUnits, kWords, kCharacters };

// Immutable and cheap to copy; any number of readers, each with its own cursor.
class Haystack {
 public:
  // GrassSentences() (base/text/recall_text.h), round and round, `sentences_per_unit` of them (1 or 5) to a
  // unit, units joined by `gap`.
  static Haystack Grass(size_t sentences_per_unit, std::string gap);
  // Sentences of the caller's, round and round. At least one.
  static Haystack Sentences(std::string name, std::vector<std::string> sentences, std::string gap);
  // Sentences of a text file, as they are, with the white space between them. repeat: begins again at the
  // end; else Next says when it ends. Throws Error(kFile); Error(kInput) for a file without a word.
  static Haystack File(const std::string& path, bool repeat);

  struct Cursor {
    size_t place = 0;
    bool operator==(const Cursor&) const = default;
  };
  struct Unit {
    std::string_view gap;  // what separates it from the unit before
    std::string_view text;
  };
  // The unit at the cursor, which moves behind it. False at the end of a text that is not repeated.
  bool Next(Cursor* cursor, Unit* unit) const;
  // Whether filler that was cut inside a unit can go on there: in files.
  bool can_go_on_inside() const { return file_ != nullptr; }
  // Where it does, for a unit that was cut after `bytes` of its text. `before` and `after`: the cursor before
  // and after Next gave the unit.
  Cursor Inside(Cursor before, Cursor after, const Unit& unit, size_t bytes) const {
    return file_ != nullptr ? Cursor{after.place - unit.text.size() + bytes} : before;
  }

  // "the papers' filler", or the file's name.
  const std::string& name() const { return name_; }
  bool is_endless() const { return is_endless_; }

 private:
  std::string_view FileText() const;

  std::string name_;
  bool is_endless_ = true;
  std::string gap_;
  std::vector<std::string> units_;          // of a short text that is repeated
  std::shared_ptr<const MappedFile> file_;  // of a file
};

// Bytes of `text` at which it may be cut, ascending, from after its first piece to its whole length.
std::vector<size_t> CutPoints(std::string_view text, FillerCut cut);

}  // namespace mneme
