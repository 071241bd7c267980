// The arithmetic, chosen at run time by what the processor has. `kernels.inl` is written once over lanes of eight and
// compiled for each instruction set; every set gives the same bits.
#pragma once
#include <cstddef>
#include <cstdint>

#include "layout.h"

namespace trilens {

// 32 columns of a row of activations, rounded to 8 bits: value = scale * code.
struct Group {
  int8_t codes[32];
  float scale;
  float total;        // scale * sum of the codes
  int32_t halves;     // the codes' sums over columns 0 to 15 and 16 to 31, two 16-bit numbers
  int32_t start;      // what sums of products begin with. Of pairs: -8 times the codes' sums over columns 4j, 4j + 1
                      // and over 4j + 2, 4j + 3, likewise; of fours: minus the sum of all
};

// Rows of activations: floats, and the same in groups where a quantised matrix reads them. With `fine` codes a second
// group follows each, what 8 bits leave over rounded to 8 bits more: value = scale * (code + fine code / 256).
struct Activations {
  const float* f = nullptr;
  size_t f_stride = 0;
  const Group* groups = nullptr;
  size_t q_stride = 0;  // groups in a row, fine ones included
  bool fine = false;
  const int32_t* pick = nullptr;  // which rows, where not all in order

  void skip(size_t rows, size_t columns) {
    f += rows * f_stride + columns;
    if (groups) groups += rows * q_stride + columns / 32 * (fine ? 2 : 1);
  }
};

struct Quantised {  // where rows are written to
  Group* groups = nullptr;
  size_t q_stride = 0;
  bool fine = false;
};

enum class Curve { SILU, GELU, GELU_TANH, IDENTITY, SIGMOID, SOFTPLUS, RELU2, RELU, BEND };
struct Glu { Curve curve; float clamp, slope, up_offset, gate_clamp; };

enum class KV { F32, F16, I8 };

// 64 positions of one key-value head. Keys lie [key_dim][64], values [64][value_dim] (none: the keys' first value_dim
// rows serve, as in latent attention). 8-bit codes have a scale for each position.
constexpr int PAGE = 64;
struct KVBlock {
  const uint8_t* keys;
  const uint8_t* values;
  const float* key_scales;
  const float* value_scales;
};

// The query rows of some tokens that share a key-value head, over the blocks that they see.
struct AttendRows {
  const float* q;  // row r of `rows` at q + (r / group) * q_stride + (r % group) * key_dim
  size_t q_stride;
  int rows, group, key_dim, value_dim;
  KV kind;
  bool latent;
  float scale, softcap;
  const int32_t* first;  // of each row r: the first position that it sees
  const int32_t* last;
  const uint8_t* next;  // keys that will be read behind this span; null: not known
};

// A row's part of a softmax: the largest score, the sum of exponentials and the weighted values, over a span of positions.
struct Partial { float best, sum; };

constexpr int SPAN = 256;  // positions in a span; spans are summed by themselves and merged in ascending order

struct RouteRule {
  int experts, chosen, scoring;
  bool renormalise;
  int groups, groups_chosen, best;
  float renormalise_eps, scale, jitter;
  const float* correction_bias;
  const float* expert_scale;
};

// A slice of columns of one head's matrix state, and what a run of tokens does to it: token t's rows lie `t * stride` on.
struct RecurSlice {
  const float* from;  // [key_dim][columns] before the first token
  float* to;          // behind the last
  int key_dim, columns, tokens;
  bool delta, vector;        // the delta rule; a decay for each row of the state instead of one
  const float *q, *k, *v;    // of this head; v of these columns
  const float *decay, *beta;  // logarithms of decays; a null beta is 1
  size_t q_stride, k_stride, v_stride, decay_stride, beta_stride, y_stride;
  float* y;        // of these columns
  float* scratch;  // 4 * key_dim
};

struct Kernels {
  const char* name;
  // y[row][0..8 * tiles) = x[row] @ tiles t0..t1 of matrix `which`, `rows` rows
  void (*product)(const Matrix& m, int which, int t0, int t1, const Activations& x, int rows, float* y, size_t y_stride);
  void (*quantise)(const float* x, int columns, size_t row, const Quantised& to, int first_group);
  void (*norm)(const float* x, float* y, int columns, int groups, bool centred, float eps, const float* weight, const float* bias);
  void (*glu)(const float* gate, const float* up, float* y, int n, const Glu& glu);
  void (*add)(const float* a, const float* b, float* y, int n);
  void (*scale)(const float* a, float factor, float* y, int n);
  void (*multiply)(const float* a, const float* factors, float* y, int n);
  void (*fused_add)(const float* a, float factor, float* y, int n);  // y += a * factor
  void (*multiply_add)(const float* a, const float* factors, float* y, int n);  // y += a * factors
  void (*activate)(const float* x, float* y, int n, Curve curve);
  void (*clip)(const float* a, float least, float most, float* y, int n);
  void (*softcap)(const float* a, float cap, float* y, int n);
  float (*mean_square)(const float* a, int n);
  void (*above)(const float* a, float deviations, float* y, int n);  // y = max(a - mean - deviations * deviation, 0)
  void (*rope)(const float* x, float* y, int heads, int width, int dim, bool interleaved, const float* cos, const float* sin);
  void (*store_kv)(const float* k, int n, KV kind, uint8_t* out, size_t step, float* scale);
  // one span of one row set, blocks first_block..blocks_end with blocks[0] the first; out[r * out_stride ..] weighted values, partial[r]
  void (*attend)(const AttendRows& a, const KVBlock* blocks, int first_block, int blocks_end, float* scratch, float* out,
                 size_t out_stride, Partial* partial);
  void (*merge)(Partial& into, float* sum, const Partial& from, const float* values, int n);
  void (*finish)(Partial& total, const float* sum, const float* sink, float* y, int n);
  void (*route)(const float* logits, float* scratch, int32_t* ids, float* weights, const RouteRule& rule);
  void (*recur)(const RecurSlice& slice);
};

extern const Kernels portable_kernels;
// Null where the compiler has none. These are constants because their files are compiled for a processor that may not be
// the one here: no code of theirs, not even what would fill a table at start, may run before the processor was asked.
extern const Kernels* const avx2_kernels;
extern const Kernels* const avx512_kernels;
extern const Kernels* const neon_kernels;

}  // namespace trilens
