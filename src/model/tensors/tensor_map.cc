#include "model/tensors/tensor_map.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>
#include <map>
#include <set>

#include "base/error.h"
#include "base/half.h"
#include "base/text/units.h"
#include "formats/quant.h"

namespace mneme {
namespace {

// "layers.{}.mlp" with the layer's number, and a number for "*" where it has one.
std::string Fill(std::string_view pattern, int layer, int star = -1) {
  std::string name(pattern);
  if (const size_t at = name.find("{}"); at != std::string::npos) name.replace(at, 2, std::to_string(layer));
  if (const size_t at = name.find('*'); at != std::string::npos) name.replace(at, 1, std::to_string(star));
  return name;
}

// The first existing tensor among the names that a table has; `star` as in Fill. *described gets the name to
// show if none exists.
const TensorInfo* FindInFolder(const TensorSource& source, const Family& family,
                               std::span<const TensorName> table, std::string_view canonical,
                               std::string_view suffix, int layer, int star, std::string* described) {
  const std::string exact = fmt::format("{}.{}", canonical, suffix);
  for (const TensorName& row : table) {
    const bool is_exact = row.canonical == exact;
    if (row.canonical != canonical && !is_exact) continue;
    for (const std::string_view prefix : family.folder_prefixes) {
      const bool is_absolute = row.folder.starts_with('/');
      const std::string stem = is_absolute ? std::string(row.folder.substr(1))
                                           : std::string(prefix) + Fill(row.folder, layer, star);
      const std::string name = is_exact ? stem : fmt::format("{}.{}", stem, suffix);
      if (described != nullptr && described->empty()) *described = name;
      if (const TensorInfo* tensor = source.Find(name)) return tensor;
      if (is_absolute) break;
    }
  }
  return nullptr;
}

const TensorInfo* FindRaw(const TensorSource& source, const Family& family, std::string_view canonical,
                          std::string_view suffix, int layer, int star, std::string* described) {
  if (source.container() == Container::kSafetensors) {
    for (const auto table : {family.folder_names, family.folder_more_names}) {
      const TensorInfo* const tensor =
          FindInFolder(source, family, table, canonical, suffix, layer, star, described);
      if (tensor != nullptr) return tensor;
    }
    return nullptr;
  }
  const std::string name = NameInGguf(family, canonical, suffix, layer);
  if (described != nullptr) *described = name;
  return source.Find(name);
}

std::string ShapeText(const std::vector<uint64_t>& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

[[noreturn]] void FailShape(const TensorSource& source, const TensorInfo& tensor, std::string_view expected) {
  Fail(ErrorKind::kFile, "{}: tensor '{}' has the shape {}, but the model's settings demand {}",
       source.path(), tensor.name, ShapeText(tensor.shape), expected);
}

// Bytes of one element of a plain encoding; 0 for block encodings.
size_t ElementBytes(Encoding encoding) {
  return EncodingBlockValues(encoding) == 1 ? EncodingBlockBytes(encoding) : 0;
}

void CheckEncoding(const TensorSource& source, const TensorInfo& tensor) {
  if (!CanDecode(tensor.encoding) || tensor.encoding == Encoding::kF64 || tensor.mxfp4_scales != nullptr) {
    Fail(ErrorKind::kUnsupported, "{}: tensor '{}' is stored as {}, which cannot be a weight", source.path(),
         tensor.name, EncodingName(tensor.encoding));
  }
}

// A vector is decoded as it lies.
void CheckVector(const TensorSource& source, const TensorInfo& tensor) {
  if (CanDecode(tensor.encoding) && tensor.mxfp4_scales == nullptr && tensor.ternary_scale == 0) return;
  Fail(ErrorKind::kUnsupported, "{}: tensor '{}' is stored as {}, which cannot be a vector", source.path(),
       tensor.name, EncodingName(tensor.encoding));
}

// The layer of a tensor, if its name tells one.
std::optional<uint64_t> LayerIn(std::string_view name) {
  for (const std::string_view before : {"blk.", "layers."}) {
    const size_t at = name.find(before);
    if (at == std::string_view::npos) continue;
    uint64_t layer = 0;
    const char* const first = name.data() + at + before.size();
    if (std::from_chars(first, name.data() + name.size(), layer).ec == std::errc()) return layer;
  }
  return std::nullopt;
}

// Buffers that ride along in files and are no weights.
bool IsBuffer(std::string_view name) {
  constexpr std::string_view kSuffixes[] = {"rotary_emb.inv_freq",
                                            ".attn.bias",
                                            ".attn.masked_bias",
                                            ".attention.bias",
                                            ".masked_bias",
                                            "attn_rot_embd.weight",
                                            "rope_freqs.weight",
                                            "rope_factors_short.weight",
                                            "rope_factors_long.weight"};
  return std::any_of(std::begin(kSuffixes), std::end(kSuffixes),
                     [&](std::string_view suffix) { return name.ends_with(suffix); });
}

// The part for another purpose (images, sound, drafts of further tokens) that the tensor belongs to; empty
// for tensors of the language model.
std::string_view OtherPart(std::string_view name) {
  constexpr std::string_view kPrefixes[] = {
      "vision_tower.", "multi_modal_projector.", "model.vision_tower.", "model.multi_modal_projector.",
      "model.visual.", "visual.", "vision_model.", "model.vision_model.", "audio_tower.",
      "model.audio_tower.", "model.embed_vision.", "model.embed_audio.", "mtp.", "model.mtp.",
      // In files of Ollama.
      "v.", "mm."};
  for (const std::string_view prefix : kPrefixes) {
    if (name.starts_with(prefix)) return prefix.substr(0, prefix.size() - 1);
  }
  return {};
}

// Of layers behind the last, which predict further tokens.
bool IsOfSkippedLayer(std::string_view name, const ModelPlan& plan) {
  const size_t num_layers = plan.num_layers();
  const std::optional<uint64_t> layer = LayerIn(name);
  return layer && *layer >= num_layers && *layer - num_layers < plan.num_skipped_layers;
}

// 0 for the gate, 1 for the up matrix: their place in a tensor that holds both.
std::optional<size_t> PartOfGateUp(std::string_view canonical) {
  if (canonical.starts_with("ffn_gate_")) return 0;
  if (canonical.starts_with("ffn_up_")) return 1;
  return std::nullopt;
}

std::vector<float> FactorsOf(const ModelPlan& plan, std::string_view canonical, size_t num_rows) {
  std::vector<float> factors;
  for (const FolderFactors& entry : plan.folder_factors) {
    if (entry.canonical != canonical) continue;
    // One factor is of all rows, however many a layer has.
    if (entry.rows.size() == 1) return std::vector<float>(num_rows, entry.rows[0].second);
    for (const auto& [count, factor] : entry.rows) factors.insert(factors.end(), count, factor);
    MNEME_CHECK(factors.size() == num_rows);
  }
  return factors;
}

}  // namespace

std::string NameInGguf(const Family& family, std::string_view canonical, std::string_view suffix, int layer) {
  const std::string exact = fmt::format("{}.{}", canonical, suffix);
  std::string_view stem = canonical;
  for (const TensorName& row : family.gguf_tensors) {
    if (row.canonical != canonical && row.canonical != exact) continue;
    if (row.canonical == exact) suffix = "";
    stem = row.folder;
    break;
  }
  const std::string name = suffix.empty() ? std::string(stem) : fmt::format("{}.{}", stem, suffix);
  return layer < 0 ? name : fmt::format("blk.{}.{}", layer, name);
}

TensorMap::TensorMap(const TensorSource& source, const Family& family, const ModelPlan& plan)
    : source_(source), family_(family), plan_(plan) {}

bool TensorMap::HasWeight(const TensorSource& source, const Family& family, std::string_view canonical,
                          int layer, std::string_view suffix) {
  return FindRaw(source, family, canonical, suffix, layer, 0, nullptr) != nullptr;
}

uint64_t TensorMap::EmbeddingRows(const TensorSource& source, const Family& family) {
  std::string name;
  const TensorInfo* tensor = FindRaw(source, family, "token_embd", "weight", -1, -1, &name);
  if (tensor == nullptr) Fail(ErrorKind::kFile, "{}: has no tensor '{}'", source.path(), name);
  if (tensor->shape.size() != 2) FailShape(source, *tensor, "two dimensions");
  return tensor->shape[0];
}

const TensorInfo* TensorMap::Raw(std::string_view canonical, std::string_view suffix, int layer) {
  const TensorInfo* tensor = FindRaw(source_, family_, canonical, suffix, layer, 0, nullptr);
  if (tensor != nullptr) used_.insert(tensor);
  return tensor;
}

uint8_t* TensorMap::Allocate(size_t bytes) {
  owned_.push_back(MakeAligned<uint8_t>(bytes));
  owned_bytes_ += bytes;
  return owned_.back().get();
}

MatrixRows TensorMap::Matrix(const TensorInfo& tensor, size_t num_rows, size_t num_cols) {
  CheckEncoding(source_, tensor);
  const bool is_transposed = family_.folder_transposed && source_.container() == Container::kSafetensors &&
                             tensor.name.find("wte") == std::string::npos &&
                             tensor.name.find("wpe") == std::string::npos &&
                             tensor.name.find("lm_head") == std::string::npos;
  const std::vector<uint64_t> expected =
      is_transposed ? std::vector<uint64_t>{num_cols, num_rows} : std::vector<uint64_t>{num_rows, num_cols};
  // GGUF keeps a matrix of one row as a vector.
  const bool is_vector = num_rows == 1 && tensor.shape == std::vector<uint64_t>{num_cols};
  if (tensor.shape != expected && !is_vector) FailShape(source_, tensor, ShapeText(expected));
  if (tensor.ternary_scale != 0 && !is_transposed) return JoinTernary(tensor);
  MatrixRows rows{tensor.name, tensor.encoding, num_rows, num_cols, {{tensor.data, num_rows}}, {}};
  if (is_transposed) {
    const size_t element = ElementBytes(tensor.encoding);
    if (element == 0) Fail(ErrorKind::kUnsupported, "{}: '{}' is transposed", source_.path(), tensor.name);
    if (const auto found = transposed_.find(&tensor); found != transposed_.end()) {
      rows.runs[0].data = found->second;
      return rows;
    }
    uint8_t* out = Allocate(tensor.bytes);
    transposed_[&tensor] = out;
    for (size_t col = 0; col < num_cols; ++col) {
      for (size_t row = 0; row < num_rows; ++row) {
        std::memcpy(out + (row * num_cols + col) * element, tensor.data + (col * num_rows + row) * element,
                    element);
      }
    }
    rows.runs[0].data = out;
  }
  return rows;
}

MatrixRows TensorMap::Select(const MatrixRows& fused, const std::vector<Part>& parts) const {
  MatrixRows rows{fused.name, fused.encoding, 0, fused.num_cols, {}, {}};
  const size_t row_bytes = EncodedBytes(fused.encoding, fused.num_cols);
  for (const Part& part : parts) {
    rows.runs.push_back({fused.runs[0].data + part.first * row_bytes, part.num_rows});
    rows.num_rows += part.num_rows;
    if (fused.factors.empty()) continue;
    const auto first = fused.factors.begin() + static_cast<ptrdiff_t>(part.first);
    rows.factors.insert(rows.factors.end(), first, first + static_cast<ptrdiff_t>(part.num_rows));
  }
  return rows;
}

std::vector<TensorMap::Part> TensorMap::QkvParts(const AttentionPlan& plan, int part) const {
  const size_t num_kv_heads = plan.num_kv_heads;
  const size_t sizes[3] = {plan.num_heads * plan.key_dim, num_kv_heads * plan.key_dim,
                           num_kv_heads * plan.value_dim};
  if (plan.has_output_gate && part % 3 == 0) {
    std::vector<Part> parts;
    for (size_t head = 0; head < plan.num_heads; ++head) {
      parts.push_back({(2 * head + (part == 3 ? 1 : 0)) * plan.key_dim, plan.key_dim});
    }
    return parts;
  }
  const bool is_folder = source_.container() == Container::kSafetensors;
  if (!is_folder || family_.folder_qkv == FusedQkv::kConcatenated) {
    const size_t first = part == 0 ? 0 : part == 1 ? sizes[0] : sizes[0] + sizes[1];
    return {{first, sizes[part]}};
  }
  std::vector<Part> parts;
  const size_t group[3] = {sizes[0] / num_kv_heads, plan.key_dim, plan.value_dim};
  const size_t offset = part == 0 ? 0 : part == 1 ? group[0] : group[0] + group[1];
  for (size_t head = 0; head < num_kv_heads; ++head) {
    parts.push_back({head * (group[0] + group[1] + group[2]) + offset, group[part]});
  }
  return parts;
}

std::optional<MatrixRows> TensorMap::Find(std::string_view canonical, int layer, size_t num_rows,
                                          size_t num_cols, bool is_required) {
  const TensorInfo* tensor = Raw(canonical, "weight", layer);
  if (tensor == nullptr) {
    const bool is_shared = canonical == "ffn_gate_shexp" || canonical == "ffn_up_shexp";
    if (is_shared && (tensor = Raw("ffn_gate_up_shexp", "weight", layer)) != nullptr) {
      return Select(Matrix(*tensor, 2 * num_rows, num_cols),
                    {{*PartOfGateUp(canonical) * num_rows, num_rows}});
    }
    if (!is_required) return std::nullopt;
    std::string name;
    FindRaw(source_, family_, canonical, "weight", layer, 0, &name);
    if (name.empty()) name = canonical;
    Fail(ErrorKind::kFile, "{}: has no tensor '{}'", source_.path(), name);
  }
  MatrixRows rows = Matrix(*tensor, num_rows, num_cols);
  rows.factors = FactorsOf(plan_, canonical, num_rows);
  return rows;
}

const TensorInfo* TensorMap::ExpertTensor(std::string_view canonical, std::string_view suffix, int layer,
                                          size_t expert, bool* is_fused) {
  const int star = static_cast<int>(expert);
  std::string name;
  const TensorInfo* tensor = FindRaw(source_, family_, canonical, suffix, layer, star, &name);
  *is_fused = false;
  if (tensor == nullptr && PartOfGateUp(canonical)) {
    tensor = FindRaw(source_, family_, "ffn_gate_up_exps", suffix, layer, star, nullptr);
    *is_fused = tensor != nullptr;
  }
  if (tensor == nullptr && source_.container() == Container::kGguf) {
    // "ffn_up.3" as files before April 2024 have it, for "ffn_up_exps".
    const std::string_view stem = canonical.substr(0, canonical.rfind('_'));
    tensor = source_.Find(fmt::format("blk.{}.{}.{}.{}", layer, stem, expert, suffix));
  }
  if (tensor == nullptr) Fail(ErrorKind::kFile, "{}: has no tensor '{}'", source_.path(), name);
  used_.insert(tensor);
  return tensor;
}

MatrixRows TensorMap::JoinMxfp4(const TensorInfo& tensor, size_t first, size_t step, size_t num_rows,
                                size_t num_cols) {
  const size_t row_blocks = num_cols / EncodingBlockValues(Encoding::kMXFP4);
  const size_t block_bytes = EncodingBlockBytes(Encoding::kMXFP4);
  uint8_t* const out = Allocate(num_rows * row_blocks * block_bytes);
  for (size_t row = 0; row < num_rows; ++row) {
    const size_t from = (first + row * step) * row_blocks;
    for (size_t block = 0; block < row_blocks; ++block) {
      JoinMxfp4Block(tensor.data + (from + block) * (block_bytes - 1), tensor.mxfp4_scales[from + block],
                     out + (row * row_blocks + block) * block_bytes);
    }
  }
  return {tensor.name, Encoding::kMXFP4, num_rows, num_cols, {{out, num_rows}}, {}};
}

MatrixRows TensorMap::JoinTernary(const TensorInfo& tensor) {
  constexpr size_t kBlock = 32, kBlockBytes = 18;
  const size_t num_rows = tensor.shape[0], num_cols = tensor.shape[1], packed_rows = num_rows / 4;
  const float scale = plan_.ternary_divides ? 1.0f / tensor.ternary_scale : tensor.ternary_scale;
  const uint16_t half = F32ToF16(scale);
  const bool fits = F16ToF32(half) == scale && num_cols % kBlock == 0;
  const auto value = [&](size_t row, size_t col) {
    return (tensor.data[row % packed_rows * num_cols + col] >> (row / packed_rows * 2) & 3) - 1;
  };
  if (!fits) {
    auto* const out = reinterpret_cast<float*>(Allocate(num_rows * num_cols * sizeof(float)));
    for (size_t row = 0; row < num_rows; ++row) {
      for (size_t col = 0; col < num_cols; ++col) {
        out[row * num_cols + col] = scale * static_cast<float>(value(row, col));
      }
    }
    const auto* const bytes = reinterpret_cast<const uint8_t*>(out);
    return {tensor.name, Encoding::kF32, num_rows, num_cols, {{bytes, num_rows}}, {}};
  }
  uint8_t* const blocks = Allocate(num_rows * num_cols / kBlock * kBlockBytes);
  uint8_t* out = blocks;
  for (size_t row = 0; row < num_rows; ++row) {
    for (size_t col = 0; col < num_cols; col += kBlock, out += kBlockBytes) {
      std::memcpy(out, &half, sizeof(half));
      for (size_t i = 0; i < kBlock / 2; ++i) {
        out[2 + i] =
            static_cast<uint8_t>((8 + value(row, col + i)) | (8 + value(row, col + i + kBlock / 2)) << 4);
      }
    }
  }
  return {tensor.name, Encoding::kQ4_0, num_rows, num_cols, {{blocks, num_rows}}, {}};
}

MatrixRows TensorMap::FindExpert(std::string_view canonical, int layer, size_t expert, size_t count,
                                 size_t num_rows, size_t num_cols) {
  bool is_fused = false;
  const TensorInfo& tensor = *ExpertTensor(canonical, "weight", layer, expert, &is_fused);
  const size_t part = is_fused ? *PartOfGateUp(canonical) : 0;
  const size_t all_rows = is_fused ? 2 * num_rows : num_rows;
  if (tensor.mxfp4_scales != nullptr) {
    if (tensor.shape != std::vector<uint64_t>{count, all_rows, num_cols}) {
      FailShape(source_, tensor, ShapeText({count, all_rows, num_cols}));
    }
    const size_t first = expert * all_rows + part;
    return JoinMxfp4(tensor, first, is_fused ? 2 : 1, num_rows, num_cols);
  }
  if (tensor.shape.size() != 3) return Matrix(tensor, num_rows, num_cols);
  CheckEncoding(source_, tensor);
  const bool is_transposed =
      family_.folder_transposed_experts && source_.container() == Container::kSafetensors;
  std::vector<uint64_t> expected = {count, all_rows, num_cols};
  if (is_transposed) std::swap(expected[1], expected[2]);
  if (tensor.shape != expected) FailShape(source_, tensor, ShapeText(expected));
  MatrixRows rows{tensor.name, tensor.encoding, num_rows, num_cols, {}, {}};
  if (!is_transposed) {
    const size_t bytes = num_rows * EncodedBytes(tensor.encoding, num_cols);
    const size_t index = is_fused ? 2 * expert + part : expert;
    rows.runs = {{tensor.data + index * bytes, num_rows}};
    return rows;
  }
  const size_t element = ElementBytes(tensor.encoding);
  if (element == 0) Fail(ErrorKind::kUnsupported, "{}: '{}' is transposed", source_.path(), tensor.name);
  uint8_t* const out = Allocate(num_rows * num_cols * element);
  const uint8_t* const from = tensor.data + expert * all_rows * num_cols * element;
  for (size_t row = 0; row < num_rows; ++row) {
    const size_t at = !is_fused                       ? row
                      : family_.folder_gates_in_turns ? 2 * row + part
                                                      : part * num_rows + row;
    for (size_t col = 0; col < num_cols; ++col) {
      std::memcpy(out + (row * num_cols + col) * element, from + (col * all_rows + at) * element, element);
    }
  }
  rows.runs = {{out, num_rows}};
  return rows;
}

std::vector<float> TensorMap::FindExpertBias(std::string_view canonical, int layer, size_t expert,
                                             size_t count, size_t num_rows) {
  bool is_fused = false;
  const TensorInfo& tensor = *ExpertTensor(canonical, "bias", layer, expert, &is_fused);
  const size_t all_rows = is_fused ? 2 * num_rows : num_rows;
  const std::vector<uint64_t> expected = {count, all_rows};
  if (tensor.shape != expected) FailShape(source_, tensor, ShapeText(expected));
  CheckVector(source_, tensor);
  std::vector<float> all(count * all_rows);
  DecodeBlocks(tensor.encoding, tensor.data, all.size(), all.data());
  std::vector<float> values(num_rows);
  const size_t first = expert * all_rows + (is_fused ? *PartOfGateUp(canonical) : 0);
  for (size_t i = 0; i < num_rows; ++i) values[i] = all[first + (is_fused ? 2 * i : i)];
  return values;
}

MatrixRows TensorMap::FindPart(std::string_view canonical, int layer, size_t all_rows, size_t num_cols,
                               size_t first, size_t num_rows) {
  return Select(*Find(canonical, layer, all_rows, num_cols, true), {{first, num_rows}});
}

MatrixRows TensorMap::FindAdapter(std::string_view canonical, int layer, size_t source, size_t number,
                                  size_t all_rows, size_t num_cols, size_t first, size_t num_rows) {
  const bool is_folder = source_.container() == Container::kSafetensors;
  const MatrixRows all = is_folder
                             ? FindExpert(canonical, static_cast<int>(source), number, 1, all_rows, num_cols)
                             : *Find(canonical, layer, all_rows, num_cols, true);
  return Select(all, {{first, num_rows}});
}

std::vector<float> TensorMap::FindPerHead(std::string_view canonical, int layer, size_t count, bool is_rate) {
  std::vector<float> values = FindVector(canonical, "", layer, count, true);
  if (is_rate && source_.container() == Container::kSafetensors) {
    for (float& value : values) value = -std::exp(value);
  }
  return values;
}

MatrixRows TensorMap::Transposed(const MatrixRows& rows) {
  std::vector<float> decoded;
  const uint8_t* from = rows.runs[0].data;
  MatrixRows turned{rows.name, rows.encoding, rows.num_cols, rows.num_rows, {}, {}};
  if (ElementBytes(rows.encoding) == 0) {
    decoded = DecodeRows(rows);
    from = reinterpret_cast<const uint8_t*>(decoded.data());
    turned.encoding = Encoding::kF32;
  }
  const size_t element = ElementBytes(turned.encoding);
  uint8_t* const out = Allocate(rows.num_rows * rows.num_cols * element);
  for (size_t row = 0; row < rows.num_rows; ++row) {
    for (size_t col = 0; col < rows.num_cols; ++col) {
      std::memcpy(out + (col * rows.num_rows + row) * element, from + (row * rows.num_cols + col) * element,
                  element);
    }
  }
  turned.runs = {{out, turned.num_rows}};
  return turned;
}

std::optional<MatrixRows> TensorMap::FindQkv(const AttentionPlan& plan, int part, int layer) {
  constexpr std::string_view kNames[3] = {"attn_q", "attn_k", "attn_v"};
  const size_t model_dim = plan.input_dim > 0 ? plan.input_dim : plan_.model_dim;
  if (plan.has_output_gate && part % 3 == 0) {
    const size_t rows = 2 * plan.num_heads * plan.key_dim;
    return Select(*Find("attn_q", layer, rows, model_dim, true), QkvParts(plan, part));
  }
  size_t num_rows = 0;
  for (const Part& piece : QkvParts(plan, part)) num_rows += piece.num_rows;
  if (auto own = Find(kNames[part], layer, num_rows, model_dim, false)) return own;
  size_t total = 0;
  for (int i = 0; i < 3; ++i) {
    for (const Part& piece : QkvParts(plan, i)) total += piece.num_rows;
  }
  const auto fused = Find("attn_qkv", layer, total, model_dim, false);
  if (!fused) return Find(kNames[part], layer, num_rows, model_dim, true);
  return Select(*fused, QkvParts(plan, part));
}

std::optional<MatrixRows> TensorMap::FindGateUp(size_t dim, int part, int layer) {
  const auto gate = Find("ffn_gate", layer, dim, plan_.model_dim, false);
  if (gate) return part == 0 ? gate : Find("ffn_up", layer, dim, plan_.model_dim, true);
  const auto fused = Find("ffn_up", layer, 2 * dim, plan_.model_dim, true);
  return Select(*fused, {{static_cast<size_t>(part) * dim, dim}});
}

std::vector<float> TensorMap::FindVector(std::string_view canonical, std::string_view suffix, int layer,
                                         size_t count, bool is_required) {
  const size_t counts[] = {count};
  const TensorInfo* tensor = Raw(canonical, suffix, layer);
  if (tensor == nullptr) {
    if (!is_required) return {};
    std::string name;
    FindRaw(source_, family_, canonical, suffix, layer, 0, &name);
    Fail(ErrorKind::kFile, "{}: has no tensor '{}'", source_.path(), name.empty() ? canonical : name);
  }
  if (tensor->num_values() != counts[0]) {
    FailShape(source_, *tensor, fmt::format("[{}]", count));
  }
  CheckVector(source_, *tensor);
  std::vector<float> values(count);
  DecodeBlocks(tensor->encoding, tensor->data, count, values.data());
  return values;
}

std::vector<float> TensorMap::FindQkvBias(const AttentionPlan& plan, int part, int layer) {
  if (plan.has_output_gate && part % 3 == 0) {
    const std::vector<float> both =
        FindVector("attn_q", "bias", layer, 2 * plan.num_heads * plan.key_dim, false);
    std::vector<float> bias;
    for (const Part& piece : both.empty() ? std::vector<Part>() : QkvParts(plan, part)) {
      const auto first = both.begin() + static_cast<ptrdiff_t>(piece.first);
      bias.insert(bias.end(), first, first + static_cast<ptrdiff_t>(piece.num_rows));
    }
    return bias;
  }
  constexpr std::string_view kNames[3] = {"attn_q", "attn_k", "attn_v"};
  const std::vector<Part> parts = QkvParts(plan, part);
  size_t count = 0;
  for (const Part& piece : parts) count += piece.num_rows;
  std::vector<float> own = FindVector(kNames[part], "bias", layer, count, false);
  if (!own.empty()) return own;
  size_t total = 0;
  for (int i = 0; i < 3; ++i) {
    for (const Part& piece : QkvParts(plan, i)) total += piece.num_rows;
  }
  const std::vector<float> fused = FindVector("attn_qkv", "bias", layer, total, false);
  if (fused.empty()) return {};
  for (const Part& piece : parts) {
    const auto first = fused.begin() + static_cast<ptrdiff_t>(piece.first);
    own.insert(own.end(), first, first + static_cast<ptrdiff_t>(piece.num_rows));
  }
  return own;
}

std::vector<float> TensorMap::FindGateUpBias(size_t dim, int part, int layer) {
  if (Raw("ffn_gate", "weight", layer) != nullptr) {
    return FindVector(part == 0 ? "ffn_gate" : "ffn_up", "bias", layer, dim, false);
  }
  const std::vector<float> fused = FindVector("ffn_up", "bias", layer, 2 * dim, false);
  if (fused.empty()) return {};
  const auto first = fused.begin() + static_cast<ptrdiff_t>(static_cast<size_t>(part) * dim);
  return {first, first + static_cast<ptrdiff_t>(dim)};
}

std::vector<float> TensorMap::FindNorm(std::string_view canonical, std::string_view suffix, int layer,
                                       bool is_required, std::span<const size_t> allowed_counts) {
  const TensorInfo* tensor = Raw(canonical, suffix, layer);
  std::vector<float> values;
  if (tensor != nullptr) {
    // Folders that keep one vector per head: gather them.
    std::vector<const TensorInfo*> pieces = {tensor};
    const bool is_gathered =
        source_.container() == Container::kSafetensors &&
        std::any_of(family_.folder_names.begin(), family_.folder_names.end(), [&](const TensorName& row) {
          return row.canonical == canonical && row.folder.find('*') != std::string_view::npos;
        });
    for (int head = 1; is_gathered; ++head) {
      const TensorInfo* next = FindRaw(source_, family_, canonical, suffix, layer, head, nullptr);
      if (next == nullptr) break;
      used_.insert(next);
      pieces.push_back(next);
    }
    for (const TensorInfo* piece : pieces) {
      CheckVector(source_, *piece);
      const size_t count = static_cast<size_t>(piece->num_values());
      values.resize(values.size() + count);
      DecodeBlocks(piece->encoding, piece->data, count, values.data() + values.size() - count);
    }
    if (std::find(allowed_counts.begin(), allowed_counts.end(), values.size()) == allowed_counts.end()) {
      FailShape(source_, *tensor, fmt::format("{} values", fmt::join(allowed_counts, " or ")));
    }
  } else if (is_required) {
    std::string name;
    FindRaw(source_, family_, canonical, suffix, layer, 0, &name);
    Fail(ErrorKind::kFile, "{}: has no tensor '{}'", source_.path(), name.empty() ? canonical : name);
  }
  if (family_.folder_norms_minus_one && source_.container() == Container::kSafetensors &&
      suffix == "weight") {
    for (float& value : values) value += 1.0f;
  }
  return values;
}

void TensorMap::CheckAllUsed() const {
  // Layers that read the keys of another one may have matrices for their own all the same (gemma3n).
  std::set<const TensorInfo*> passed_over;
  for (size_t layer = 0; layer < plan_.num_layers(); ++layer) {
    const AttentionPlan* const attention = plan_.layers[layer].attention();
    if (attention == nullptr || attention->kv_source < 0) continue;
    for (const std::string_view name : {"attn_k", "attn_v", "attn_k_norm"}) {
      for (const std::string_view suffix : {"weight", "bias"}) {
        passed_over.insert(FindRaw(source_, family_, name, suffix, static_cast<int>(layer), 0, nullptr));
      }
    }
  }
  for (const TensorInfo& tensor : source_.tensors()) {
    if (used_.contains(&tensor) || passed_over.contains(&tensor) || IsBuffer(tensor.name) ||
        !OtherPart(tensor.name).empty())
      continue;
    if (IsOfSkippedLayer(tensor.name, plan_)) continue;
    Fail(
        ErrorKind::kUnsupported,
        "{}: tensor '{}' has no place in the family '{}' as it is known here; the model would be run wrongly",
        source_.path(), tensor.name, family_.name);
  }
}

WeightView TensorMap::Contiguous(const MatrixRows& rows) {
  if (!rows.factors.empty()) {
    const std::vector<float> values = DecodeRows(rows);
    uint8_t* const out = Allocate(values.size() * sizeof(float));
    std::memcpy(out, values.data(), values.size() * sizeof(float));
    return {Encoding::kF32, rows.num_rows, rows.num_cols, out};
  }
  const size_t row_bytes = EncodedBytes(rows.encoding, rows.num_cols);
  const uint8_t* data = rows.runs[0].data;
  bool is_contiguous = true;
  for (size_t i = 1; i < rows.runs.size(); ++i) {
    is_contiguous &= rows.runs[i].data == rows.runs[i - 1].data + rows.runs[i - 1].num_rows * row_bytes;
  }
  const size_t element = ElementBytes(rows.encoding);
  if (element > 1 && reinterpret_cast<uintptr_t>(data) % element != 0) is_contiguous = false;
  if (!is_contiguous) {
    uint8_t* out = Allocate(rows.num_rows * row_bytes);
    data = out;
    for (const RowRun& run : rows.runs) {
      std::memcpy(out, run.data, run.num_rows * row_bytes);
      out += run.num_rows * row_bytes;
    }
  }
  return {rows.encoding, rows.num_rows, rows.num_cols, data};
}

WeightView TensorMap::Decoded(const WeightView& view) {
  if (view.encoding == Encoding::kF32) return view;
  uint8_t* const out = Allocate(view.num_rows * view.num_cols * sizeof(float));
  for (size_t row = 0; row < view.num_rows; ++row) {
    DecodeBlocks(view.encoding, view.data + row * view.row_bytes(), view.num_cols,
                 reinterpret_cast<float*>(out) + row * view.num_cols);
  }
  return {Encoding::kF32, view.num_rows, view.num_cols, out};
}

std::vector<std::string> PassedOverParts(const TensorSource& source, const ModelPlan& plan) {
  struct Sum {
    size_t num_tensors = 0;
    size_t bytes = 0;
  };
  std::map<std::string, Sum> parts;
  for (const TensorInfo& tensor : source.tensors()) {
    std::string part(OtherPart(tensor.name));
    if (part.empty() && IsOfSkippedLayer(tensor.name, plan)) {
      part = fmt::format("layer {}, which predicts further tokens", *LayerIn(tensor.name));
    }
    if (part.empty()) continue;
    ++parts[part].num_tensors;
    parts[part].bytes += tensor.bytes;
  }
  std::vector<std::string> texts;
  for (const auto& [part, sum] : parts) {
    texts.push_back(fmt::format("{} ({} {}, {})", part, sum.num_tensors,
                                sum.num_tensors == 1 ? "tensor" : "tensors", FormatBytes(sum.bytes)));
  }
  return texts;
}

FamilyInput InputOf(const Hyperparameters& hyper, const TensorSource& source, const Family& family) {
  const auto find = [&source, &family](std::string_view canonical, size_t layer, std::string_view suffix) {
    return FindRaw(source, family, canonical, suffix, static_cast<int>(layer), 0, nullptr);
  };
  return {
      hyper,
      [find](std::string_view canonical, size_t layer) {
        return find(canonical, layer, "weight") != nullptr;
      },
      [find](std::string_view canonical, size_t layer) { return find(canonical, layer, "bias") != nullptr; },
      [find](std::string_view canonical, size_t layer) -> uint64_t {
        const TensorInfo* const tensor = find(canonical, layer, "weight");
        return tensor == nullptr || tensor->shape.empty() ? 0 : tensor->shape[0];
      }};
}

std::vector<float> DecodeRows(const MatrixRows& rows) {
  std::vector<float> values(rows.num_rows * rows.num_cols);
  float* out = values.data();
  for (const RowRun& run : rows.runs) {
    DecodeBlocks(rows.encoding, run.data, run.num_rows * rows.num_cols, out);
    out += run.num_rows * rows.num_cols;
  }
  for (size_t i = 0; i < values.size() && !rows.factors.empty(); ++i)
    values[i] *= rows.factors[i / rows.num_cols];
  return values;
}

}  // namespace mneme
