// The gated linear recurrence: a slice of at most 32 columns of one head's state [K, V], through all tokens of a run. A
// column reads no other one, and each of its sums goes over the K rows in order, one token after the other: so the bits
// depend neither on how the columns are shared out nor on where a sequence's tokens were cut.
//
// A token decays the state, adds to it and reads it. In the same pass over the rows the next token's keys read what was
// just written, so that each row is loaded and stored once a token.

static inline float exponential_of(float x) {
  float lanes[8];
  store(lanes, exponential(all(x)));
  return lanes[0];
}

// The decays of a token, one for each row, and its keys times these.
static inline void decays_of(const RecurSlice& s, int t, float* decays, float* keys) {
  const float* k = s.k + t * s.k_stride;
  each(s.decay + t * s.decay_stride, decays, s.key_dim, [](auto v) { return exponential(v); });
  each(decays, k, keys, s.key_dim, [](auto v, auto w) { return mul(v, w); });
}

// One token, for W vectors of columns. `keys`: the next token's, whose sums go to `next`; null behind the last one.
template <class L, int W, bool VECTOR>
static inline void recur_token(const RecurSlice& s, const float* from, int column, const float* q, const float* k,
                               const float* decays, typename L::Lanes decay, const float* keys,
                               const typename L::Lanes* d, typename L::Lanes* y, typename L::Lanes* next) {
  using V = typename L::Lanes;
  const int rows = s.key_dim, width = s.columns;
  const float* p = from + column;
  float* to = s.to + column;
  V result[W], sum[W], add[W];
  for (int w = 0; w < W; w++) result[w] = sum[w] = filled<V>(0.0f), add[w] = d[w];
  auto row = [&](int i, auto&& ahead) {
    V e = decay, key = L::every(k + i), query = L::every(q + i);
    if constexpr (VECTOR) e = L::every(decays + i);
    for (int w = 0; w < W; w++) {
      V state = fma(key, add[w], mul(e, L::numbers(p + (size_t)i * width + L::N * w)));
      store(to + (size_t)i * width + L::N * w, state);
      result[w] = fma(query, state, result[w]);
      ahead(i, w, state);
    }
  };
  if (keys)
    for (int i = 0; i < rows; i++) row(i, [&](int at, int w, V state) { sum[w] = fma(L::every(keys + at), state, sum[w]); });
  else
    for (int i = 0; i < rows; i++) row(i, [](int, int, V) {});
  for (int w = 0; w < W; w++) y[w] = result[w], next[w] = sum[w];
}

template <class L, int W, bool VECTOR>
static void recur_columns(const RecurSlice& s, int column) {
  using V = typename L::Lanes;
  const int rows = s.key_dim, width = s.columns;
  float* decays[2] = {s.scratch, s.scratch + rows};  // of this token and of the next one
  float* keys[2] = {s.scratch + 2 * rows, s.scratch + 3 * rows};
  V next[W], d[W], y[W];
  for (int w = 0; w < W; w++) next[w] = filled<V>(0.0f);
  if (VECTOR) decays_of(s, 0, decays[0], keys[0]);
  if (s.delta) {
    const float* k = VECTOR ? keys[0] : s.k;
    for (int i = 0; i < rows; i++)
      for (int w = 0; w < W; w++)
        next[w] = fma(L::every(k + i), L::numbers(s.from + (size_t)i * width + column + L::N * w), next[w]);
  }
  for (int t = 0; t < s.tokens; t++) {
    const float* v = s.v + t * s.v_stride + column;
    V beta = filled<V>(s.beta ? s.beta[t * s.beta_stride] : 1.0f);
    V decay = filled<V>(VECTOR ? 0.0f : exponential_of(s.decay[t * s.decay_stride]));
    for (int w = 0; w < W; w++) {
      V value = L::numbers(v + L::N * w);
      if (s.delta) value = VECTOR ? sub(value, next[w]) : minus_fma(decay, next[w], value);
      d[w] = mul(beta, value);
    }
    const float* ahead = nullptr;
    if (t + 1 < s.tokens) {
      if (VECTOR) decays_of(s, t + 1, decays[(t + 1) & 1], keys[(t + 1) & 1]);
      if (s.delta) ahead = VECTOR ? keys[(t + 1) & 1] : s.k + (t + 1) * s.k_stride;
    }
    recur_token<L, W, VECTOR>(s, t ? s.to : s.from, column, s.q + t * s.q_stride, s.k + t * s.k_stride, decays[t & 1], decay,
                              ahead, d, y, next);
    for (int w = 0; w < W; w++) store(s.y + t * s.y_stride + column + L::N * w, y[w]);
  }
}

// What is left over of eight columns, one at a time.
static void recur_column(const RecurSlice& s, int column, bool vector) {
  float *decays = s.scratch, *keys = s.scratch + s.key_dim;
  for (int t = 0; t < s.tokens; t++) {
    const float *q = s.q + t * s.q_stride, *k = s.k + t * s.k_stride, *from = t ? s.to : s.from;
    float decay = vector ? 0.0f : exponential_of(s.decay[t * s.decay_stride]), d = s.v[t * s.v_stride + column];
    if (vector) decays_of(s, t, decays, keys);
    if (s.delta) {
      float sum = 0;
      for (int i = 0; i < s.key_dim; i++) sum = std::fma((vector ? keys : k)[i], from[(size_t)i * s.columns + column], sum);
      d = vector ? d - sum : std::fma(-decay, sum, d);
    }
    d = (s.beta ? s.beta[t * s.beta_stride] : 1.0f) * d;
    float y = 0;
    for (int i = 0; i < s.key_dim; i++) {
      size_t at = (size_t)i * s.columns + column;
      float state = std::fma(k[i], d, (vector ? decays[i] : decay) * from[at]);
      s.to[at] = state;
      y = std::fma(q[i], state, y);
    }
    s.y[t * s.y_stride + column] = y;
  }
}

template <bool VECTOR> static void recur_slice(const RecurSlice& s) {
  int column = 0;
  if constexpr (Widest::N == 8)
    for (; column + 32 <= s.columns; column += 32) recur_columns<Eight, 4, VECTOR>(s, column);
  for (; column + 2 * Widest::N <= s.columns; column += 2 * Widest::N) recur_columns<Widest, 2, VECTOR>(s, column);
  if constexpr (Widest::N > 8)
    for (; column + 16 <= s.columns; column += 16) recur_columns<Widest, 1, VECTOR>(s, column);
  for (; column + 8 <= s.columns; column += 8) recur_columns<Eight, 1, VECTOR>(s, column);
  for (; column < s.columns; column++) recur_column(s, column, VECTOR);
}

static void recur(const RecurSlice& s) { s.vector ? recur_slice<true>(s) : recur_slice<false>(s); }
