#include <algorithm>
#include <cstring>

#include "engine_parts.h"

namespace trilens {

// A causal convolution, column by column. A row is the sum of its taps from the oldest token to its own, so it is the same
// however the sequence's tokens were shared out among steps and threads.
void Engine::convolve_rows(const Instruction& s, int first, int end) {
  const int width = s.width, kept = s.i[1] - 1;  // rows kept before the run
  const float *taps = row_of(s.param[0]), *bias = row_of(s.param[1]);
  for (int r = first; r < end; r++) {
    const Run& run = runs_[tokens_[r].run];
    const float* before = run.sequence->fixed.now() + pool->fixed_offsets[s.i[0]];
    auto row = [&](int at) {  // of the sequence, `at` counted from the run's first
      return at >= 0 ? buffer(s.in[0], run.first + at, width) : before + (size_t)(kept + at) * width;
    };
    const int at = r - run.first;
    float* y = buffer(s.out[0], r, width);
    if (bias) memcpy(y, bias, width * sizeof(float));
    else memset(y, 0, width * sizeof(float));
    for (int j = 0; j <= kept; j++) k_.multiply_add(row(at - kept + j), taps + (size_t)j * width, y, width);
    if (at != run.count - 1) continue;
    float* next = next_[tokens_[r].run].data() + pool->fixed_offsets[s.i[0]];
    for (int j = 0; j < kept; j++) memcpy(next + (size_t)j * width, row(run.count - kept + j), width * sizeof(float));
  }
}

// The steps' runs, and arena for the states behind them.
void Engine::begin_runs(const std::vector<std::pair<Sequence*, int>>& taken) {
  runs_.clear();
  int first = 0;
  for (auto [sequence, count] : taken) {
    runs_.push_back({sequence, first, count});
    first += count;
  }
  if (next_.size() < runs_.size()) next_.resize(runs_.size());
  for (size_t i = 0; i < runs_.size(); i++) next_[i].resize(pool->fixed_floats);
}

// The step has succeeded: what was written becomes what is there.
void Engine::end_runs() {
  for (size_t i = 0; i < runs_.size(); i++) {
    Sequence& s = *runs_[i].sequence;
    s.length += runs_[i].count;
    if (!pool->fixed_floats) continue;
    s.fixed.replace(next_[i]);
    if (pool->snapshot_every && s.length % pool->snapshot_every == 0) s.fixed.keep(s.length);
  }
}

}  // namespace trilens
