// The context of a model with layers of fixed state: that of its attention layers, and their state, as one
// stream. Policies bound the attention layers alone; the state has its size. A model without attention layers
// has a context of the same kind, whose policy bounds nothing.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "context/context.h"
#include "context/recurrent/recurrent_state.h"

namespace mneme {

class HybridContext : public Context {
 public:
  // has_attention: the model has layers with attention.
  HybridContext(std::unique_ptr<Context> attention, std::unique_ptr<RecurrentState> state,
                bool has_attention);
  // What the state of a stream takes beside the attention layers' context.
  static size_t PeakBytes(const ContextShape& shape, const ContextSettings& settings);
  static RecurrentSettings SettingsOf(const ContextSettings& settings);

  RecurrentState* recurrent() override { return state_.get(); }

  std::string Describe() const override { return attention_->Describe(); }
  void Begin(std::span<const TokenId> tokens) override;
  AttendCall Plan(size_t layer, const float* q, const float* k, const float* v, float* out) override {
    return attention_->Plan(layer, q, k, v, out);
  }
  void Finish(size_t layer, Device& device) override { attention_->Finish(layer, device); }
  void SetWriteGate(size_t layer, const float* write_gate) override {
    attention_->SetWriteGate(layer, write_gate);
  }
  void Commit() override;
  void Abort() override;
  int64_t MaxRewind() const override;
  void Rewind(int64_t count) override;
  void TakeBackLast() override;
  void BeginTurn() override { attention_->BeginTurn(); }
  int64_t Replay(int64_t most_rows, Device& device) override;
  std::vector<RecalledSlice> Recalled() const override { return attention_->Recalled(); }
  void Save(StateWriter& writer) const override;
  void Restore(StateReader& reader) override;
  std::unique_ptr<Context> Fork() const override;
  // What no attention layer sees is in the state.
  std::vector<LedgerRange> Ledger() const override;

 private:
  void Follow();

  std::unique_ptr<Context> attention_;
  std::unique_ptr<RecurrentState> state_;
  const bool has_attention_;
};

}  // namespace mneme
