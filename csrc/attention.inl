// Attention of some rows over the cached keys and values of one span. The rows of a key-value head that are in the step,
// heads and tokens alike, go through a page together: what is read and converted serves all of them. A score is one chain
// of sums over the columns, a column of the result one chain over the positions, so the bits depend neither on the rows
// beside it nor on how the sums are shared out among registers.

// The compiler stores every sum in each turn of a loop that it does not unroll. Sanitizers check every copy, which takes
// a quarter of an hour to compile; for them the loops stay.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define UNROLLED
#else
#define UNROLLED _Pragma("GCC unroll 8")
#endif

constexpr int TOGETHER = 6;  // rows whose sums are in registers at once

template <class L, KV kind> static inline auto cached(const uint8_t* p, size_t at) {
  if constexpr (kind == KV::F32) return L::numbers((const float*)p + at);
  else if constexpr (kind == KV::F16) return L::halves((const uint16_t*)p + at);
  else return L::bytes((const int8_t*)p + at);
}
template <KV kind> static inline float cached_one(const uint8_t* p, size_t at) {
  if constexpr (kind == KV::F32) return ((const float*)p)[at];
  else if constexpr (kind == KV::I8) return (float)((const int8_t*)p)[at];
  else {
    uint16_t h[8] = {((const uint16_t*)p)[at], 0, 0, 0, 0, 0, 0, 0};
    float f[8];
    store(f, load_f16(h));
    return f[0];
  }
}

// Rows k0 to k1 of a page's keys or values, `stride` numbers apart, and where the next ones lie that will be read.
struct Cached {
  const uint8_t* at;
  const uint8_t* next;
  size_t stride;
  int k0, k1;
};

// c[r][n] += sum over k of a[r][k] * b[k][n], k ascending, one chain for each element.
template <class L, KV kind, int R, int V>
static inline void sums(const float* const* a, const Cached& b, float* const* c, int n) {
  constexpr size_t SIZE = kind == KV::F32 ? 4 : kind == KV::F16 ? 2 : 1;
  using Lanes = typename L::Lanes;
  Lanes acc[R][V], held[R < V ? R : V];
  const float* from[R];
UNROLLED
  for (int r = 0; r < R; r++) {
    from[r] = a[r];
UNROLLED
    for (int v = 0; v < V; v++) acc[r][v] = L::numbers(c[r] + n + L::N * v);
  }
  const size_t step = b.stride * SIZE, first = b.k0 * step + n * SIZE;
  const uint8_t *at = b.at + first, *next = b.next + (size_t)n * SIZE * (b.k1 - b.k0);
  for (int k = b.k0; k < b.k1; k++, at += step, next += V * L::N * SIZE) {
    prefetch_line(next);
    if constexpr (R < V) {  // hold what there is less of
UNROLLED
      for (int r = 0; r < R; r++) held[r] = L::every(from[r] + k);
UNROLLED
      for (int v = 0; v < V; v++) {
        Lanes row = cached<L, kind>(at, L::N * v);
UNROLLED
        for (int r = 0; r < R; r++) acc[r][v] = fma(held[r], row, acc[r][v]);
      }
    } else {
UNROLLED
      for (int v = 0; v < V; v++) held[v] = cached<L, kind>(at, L::N * v);
UNROLLED
      for (int r = 0; r < R; r++) {
        Lanes factor = L::every(from[r] + k);
UNROLLED
        for (int v = 0; v < V; v++) acc[r][v] = fma(factor, held[v], acc[r][v]);
      }
    }
  }
UNROLLED
  for (int r = 0; r < R; r++)
UNROLLED
    for (int v = 0; v < V; v++) store(c[r] + n + L::N * v, acc[r][v]);
}

// V vectors at a time, then what is left by halves.
template <KV kind, int R, int V = Widest::at_once(R)>
static inline void sums_of_rows(const float* const* a, const Cached& b, float* const* c, int n, int i = 0) {
  for (; i + Widest::N * V <= n; i += Widest::N * V) sums<Widest, kind, R, V>(a, b, c, i);
  if constexpr (V > 1) return sums_of_rows<kind, R, V / 2>(a, b, c, n, i);
  for (; i + 8 <= n; i += 8) sums<Eight, kind, R, 1>(a, b, c, i);
  for (; i < n; i++)
    for (int r = 0; r < R; r++)
      for (int k = b.k0; k < b.k1; k++) c[r][i] = std::fma(a[r][k], cached_one<kind>(b.at, k * b.stride + i), c[r][i]);
}

// In as few and as even passes as TOGETHER rows at a time allow.
template <KV kind> static inline void sums_of_all(const float** a, const Cached& b, float** c, int rows, int n) {
  for (int passes = (rows + TOGETHER - 1) / TOGETHER; passes > 0; passes--) {
    int now = (rows + passes - 1) / passes;
    switch (now) {
      case 1: sums_of_rows<kind, 1>(a, b, c, n); break;
      case 2: sums_of_rows<kind, 2>(a, b, c, n); break;
      case 3: sums_of_rows<kind, 3>(a, b, c, n); break;
      case 4: sums_of_rows<kind, 4>(a, b, c, n); break;
      case 5: sums_of_rows<kind, 5>(a, b, c, n); break;
      default: sums_of_rows<kind, 6>(a, b, c, n); break;
    }
    a += now, c += now, rows -= now;
  }
}

// Latent values: c[d] += sum over positions of p * keys[d][position], by position modulo 8, then the eight together.
template <KV kind> static inline void latent_values(const float* p, const uint8_t* keys, float* c, int n) {
  F8 shares[8];
  for (int v = 0; v < 8; v++) shares[v] = load(p + 8 * v);
  for (int d = 0; d < n; d++) {
    F8 acc = zero();
    for (int v = 0; v < 8; v++) acc = fma(shares[v], cached<Eight, kind>(keys, (size_t)d * PAGE + 8 * v), acc);
    c[d] += sum(acc);
  }
}

constexpr int MOST_ROWS = 64;

template <KV kind>
static void attend_span(const AttendRows& a, const KVBlock* blocks, int first_block, int blocks_end, float* scratch,
                        float* out, size_t out_stride, Partial* partial) {
  const int dim = a.value_dim;
  for (int r = 0; r < a.rows; r++) {
    partial[r] = {-INFINITY, 0};
    for (int d = 0; d < dim; d++) out[r * out_stride + d] = 0;
  }
  const float* q[MOST_ROWS];
  const float* shares[MOST_ROWS];
  float* scores[MOST_ROWS];
  float* values[MOST_ROWS];
  struct { int row, low, high; } seen[MOST_ROWS];  // what each row that sees something of a block sees of it
  for (int block = first_block; block < blocks_end; block++) {
    const KVBlock& b = blocks[block - first_block];
    const uint8_t* next = block + 1 < blocks_end ? blocks[block + 1 - first_block].keys : a.next ? a.next : b.keys;
    int begin = block * PAGE, rows = 0, from = PAGE, to = 0;
    for (int r = 0; r < a.rows; r++) {
      int low = a.first[r] > begin ? a.first[r] - begin : 0, high = a.last[r] - begin + 1 < PAGE ? a.last[r] - begin + 1 : PAGE;
      if (low >= high) continue;
      from = low < from ? low : from;
      to = high > to ? high : to;
      q[rows] = a.q + r / a.group * a.q_stride + (size_t)(r % a.group) * a.key_dim;
      shares[rows] = scores[rows] = scratch + rows * PAGE;
      values[rows] = out + r * out_stride;
      seen[rows++] = {r, low, high};
    }
    if (rows == 0) continue;
    for (int i = 0; i < rows * PAGE; i++) scratch[i] = 0;
    sums_of_all<kind>(q, {b.keys, a.latent ? next : b.values, PAGE, 0, a.key_dim}, scores, rows, PAGE);
    for (int n = 0; n < rows; n++) {
      auto [r, low, high] = seen[n];
      float* s = scores[n];
      scale_row(s, a.scale, s, PAGE);
      if (kind == KV::I8) multiply(s, b.key_scales, s, PAGE);
      if (a.softcap != 0) softcap(s, a.softcap, s, PAGE);
      for (int i = 0; i < low; i++) s[i] = -INFINITY;
      for (int i = high; i < PAGE; i++) s[i] = -INFINITY;
      F8 most = all(partial[r].best);
      for (int i = 0; i < PAGE; i += 8) most = larger(load(s + i), most);
      float best = largest(most);
      if (best > partial[r].best && partial[r].best != -INFINITY) {
        float shrunk[8];
        store(shrunk, exponential(all(partial[r].best - best)));
        partial[r].sum *= shrunk[0];
        scale_row(values[n], shrunk[0], values[n], dim);
      }
      partial[r].best = best;
      each(s, s, PAGE, [&](auto v) { return exponential(sub(v, filled<decltype(v)>(best))); });
      partial[r].sum += row_sum(s, PAGE);
      if (kind == KV::I8) multiply(s, a.latent ? b.key_scales : b.value_scales, s, PAGE);
    }
    if (a.latent)
      for (int n = 0; n < rows; n++) latent_values<kind>(shares[n], b.keys, values[n], dim);
    else
      sums_of_all<kind>(shares, {b.values, next, (size_t)dim, from, to}, values, rows, dim);
  }
}

static void attend(const AttendRows& a, const KVBlock* blocks, int first_block, int blocks_end, float* scratch, float* out,
                   size_t out_stride, Partial* partial) {
  switch (a.kind) {
    case KV::F32: return attend_span<KV::F32>(a, blocks, first_block, blocks_end, scratch, out, out_stride, partial);
    case KV::F16: return attend_span<KV::F16>(a, blocks, first_block, blocks_end, scratch, out, out_stride, partial);
    case KV::I8: return attend_span<KV::I8>(a, blocks, first_block, blocks_end, scratch, out, out_stride, partial);
  }
}

#undef UNROLLED
