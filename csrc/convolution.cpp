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
    const float* before = run.sequence->fixed.now();
    if (before) before += pool->fixed_offsets[s.i[0]];
    auto row = [&](int at) -> const float* {  // of the sequence, `at` counted from the run's first
      if (at >= 0) return buffer(s.in[0], run.first + at, width);
      return before ? before + (size_t)(kept + at) * width : zeros_.data();
    };
    const int at = r - run.first;
    float* y = buffer(s.out[0], r, width);
    if (bias) memcpy(y, bias, width * sizeof(float));
    else memset(y, 0, width * sizeof(float));
    for (int j = 0; j <= kept; j++) k_.multiply_add(row(at - kept + j), taps + (size_t)j * width, y, width);
    if (s.i[2] >= 0) k_.activate(y, y, width, (Curve)s.i[2]);
    for (size_t e = 0; e < run.ends.size(); e++) {
      if (at != run.ends[e] - 1) continue;
      float* next = run.states[e]->floats() + pool->fixed_offsets[s.i[0]];
      for (int j = 0; j < kept; j++) memcpy(next + (size_t)j * width, row(run.ends[e] - kept + j), width * sizeof(float));
    }
  }
}

}  // namespace trilens
