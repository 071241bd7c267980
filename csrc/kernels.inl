// Every kernel, over the lanes of the namespace it is included in. Floats are summed in one fixed order whatever else is
// in the step; integers are exact in any order.

// ------------------------------------------------------------------------------------------------- functions

// e^x by a polynomial on [-ln 2 / 2, ln 2 / 2] (the coefficients of Cephes' expf); under 2 units in the last place.
// Below -87 it is 0, above 88 infinite.
template <class V> static inline V exponential(V x) {
  V y = smaller(larger(x, filled<V>(-87.0f)), filled<V>(88.0f));
  V n = nearest(mul(y, filled<V>(1.44269504088896341f)));
  V r = minus_fma(n, filled<V>(0.693359375f), y);
  r = minus_fma(n, filled<V>(-2.12194440e-4f), r);
  V p = filled<V>(1.9875691500e-4f);
  p = fma(p, r, filled<V>(1.3981999507e-3f));
  p = fma(p, r, filled<V>(8.3334519073e-3f));
  p = fma(p, r, filled<V>(4.1665795894e-2f));
  p = fma(p, r, filled<V>(1.6666665459e-1f));
  p = fma(p, r, filled<V>(5.0000001201e-1f));
  V e = mul(add(fma(p, mul(r, r), r), filled<V>(1.0f)), power_of_two(n));
  return if_less(x, filled<V>(-87.0f), filled<V>(0.0f), if_less(filled<V>(88.0f), x, filled<V>(INFINITY), e));
}

template <class V> static inline V sigmoid(V x) { return div(filled<V>(1.0f), add(filled<V>(1.0f), exponential(sub(filled<V>(0.0f), x)))); }

template <class V> static inline V tanh_of(V x) {  // tanh
  return sub(filled<V>(1.0f), div(filled<V>(2.0f), add(exponential(mul(x, filled<V>(2.0f))), filled<V>(1.0f))));
}

// Abramowitz and Stegun 7.1.26, 1.5e-7 absolute.
template <class V> static inline V error_function(V x) {
  V a = magnitude(x);
  V t = div(filled<V>(1.0f), fma(a, filled<V>(0.3275911f), filled<V>(1.0f)));
  V p = filled<V>(1.061405429f);
  p = fma(p, t, filled<V>(-1.453152027f));
  p = fma(p, t, filled<V>(1.421413741f));
  p = fma(p, t, filled<V>(-0.284496736f));
  p = fma(p, t, filled<V>(0.254829592f));
  V y = minus_fma(mul(p, t), exponential(sub(filled<V>(0.0f), mul(a, a))), filled<V>(1.0f));
  return if_less(x, filled<V>(0.0f), sub(filled<V>(0.0f), y), y);
}

// log(1 + e^x) = max(x, 0) + log(1 + u), u = e^-|x|; and log(1 + u) = 2 artanh s, s = u / (2 + u), at most 1/3.
template <class V> static inline V softplus(V x) {
  V u = exponential(sub(filled<V>(0.0f), magnitude(x)));
  V s = div(u, add(u, filled<V>(2.0f))), square = mul(s, s);
  V p = filled<V>(1.0f / 15);
  for (float term : {1.0f / 13, 1.0f / 11, 1.0f / 9, 1.0f / 7, 1.0f / 5, 1.0f / 3, 1.0f}) p = fma(p, square, filled<V>(term));
  return fma(mul(s, filled<V>(2.0f)), p, larger(x, filled<V>(0.0f)));
}

template <class V> static inline V curve(V x, const Glu& glu) {
  switch (glu.curve) {
    case Curve::IDENTITY: return x;
    case Curve::SIGMOID: return sigmoid(x);
    case Curve::SOFTPLUS: return softplus(x);
    case Curve::RELU2: {
      V y = larger(x, filled<V>(0.0f));
      return mul(y, y);
    }
    case Curve::RELU: return larger(x, filled<V>(0.0f));
    case Curve::BEND: {
      V below = smaller(x, filled<V>(0.0f));
      return sub(sub(exponential(below), filled<V>(1.0f)), below);
    }
    case Curve::SILU: return mul(x, sigmoid(mul(x, filled<V>(glu.slope))));
    case Curve::GELU: return mul(mul(x, filled<V>(0.5f)), add(filled<V>(1.0f), error_function(mul(x, filled<V>(0.70710678118654752f)))));
    default: {  // 0.5 x (1 + tanh u) = x sigmoid(2 u)
      V u = mul(mul(x, filled<V>(1.5957691216057308f)), fma(mul(x, x), filled<V>(0.044715f), filled<V>(1.0f)));
      return mul(x, sigmoid(u));
    }
  }
}

// The last few columns of a row, as eight lanes with zeros behind them.
static inline F8 load_some(const float* p, int n) {
  float full[8] = {0, 0, 0, 0, 0, 0, 0, 0};
  for (int i = 0; i < n; i++) full[i] = p[i];
  return load(full);
}
static inline void store_some(float* p, F8 a, int n) {
  float full[8];
  store(full, a);
  for (int i = 0; i < n; i++) p[i] = full[i];
}

// y = f(a), y = f(a, b), y = f(a, b, y): f takes lanes of any number.
template <class F> static inline void each(const float* a, float* y, int n, F f) {
  int i = 0;
  for (; i + Widest::N <= n; i += Widest::N) store(y + i, f(Widest::numbers(a + i)));
  for (; Widest::N > 8 && i + 8 <= n; i += 8) store(y + i, f(load(a + i)));
  if (i < n) store_some(y + i, f(load_some(a + i, n - i)), n - i);
}
template <class F> static inline void each(const float* a, const float* b, float* y, int n, F f) {
  int i = 0;
  for (; i + Widest::N <= n; i += Widest::N) store(y + i, f(Widest::numbers(a + i), Widest::numbers(b + i)));
  for (; Widest::N > 8 && i + 8 <= n; i += 8) store(y + i, f(load(a + i), load(b + i)));
  if (i < n) store_some(y + i, f(load_some(a + i, n - i), load_some(b + i, n - i)), n - i);
}
template <class F> static inline void each_onto(const float* a, const float* b, float* y, int n, F f) {
  int i = 0;
  for (; i + Widest::N <= n; i += Widest::N)
    store(y + i, f(Widest::numbers(a + i), Widest::numbers(b + i), Widest::numbers(y + i)));
  for (; Widest::N > 8 && i + 8 <= n; i += 8) store(y + i, f(load(a + i), load(b + i), load(y + i)));
  if (i < n)
    store_some(y + i, f(load_some(a + i, n - i), load_some(b + i, n - i), load_some(y + i, n - i)), n - i);
}

// ------------------------------------------------------------------------------------------------- activations

constexpr float LEAST = 1e-30f;  // what is smaller counts as nothing: 127 divided by it would overflow

static inline int32_t two_numbers(float a, float b) {
  return (int32_t)((uint32_t)(uint16_t)(int16_t)a | (uint32_t)(uint16_t)(int16_t)b << 16);
}

// A group's codes and what is summed of them; their sum.
static inline float fill(Group& group, const F8 codes[4]) {
  for (int i = 0; i < 4; i++) store_i8(group.codes + 8 * i, codes[i]);
  float a = sum(add(codes[0], codes[1])), b = sum(add(codes[2], codes[3]));  // whole numbers: exact
  float lanes[8];
  store(lanes, add(add(codes[0], codes[1]), add(codes[2], codes[3])));
  group.halves = two_numbers(a, b);
  if constexpr (SUMS_OF_FOURS) group.start = (int32_t)-(a + b);
  else group.start = two_numbers(-8 * (lanes[0] + lanes[1] + lanes[4] + lanes[5]), -8 * (lanes[2] + lanes[3] + lanes[6] + lanes[7]));
  return a + b;
}

// Groups of 32 columns from `first_group` on of row `row`: the largest magnitude becomes 127.
static void quantise(const float* x, int columns, size_t row, const Quantised& to, int first_group) {
  for (int g = 0; g * 32 < columns; g++) {
    F8 v[4];
    for (int i = 0; i < 4; i++) {
      int left = columns - g * 32 - 8 * i;
      v[i] = left >= 8 ? load(x + g * 32 + 8 * i) : load_some(x + g * 32 + 8 * i, left < 0 ? 0 : left);
    }
    F8 m = larger(larger(magnitude(v[0]), magnitude(v[1])), larger(magnitude(v[2]), magnitude(v[3])));
    float most = largest(m);
    float inverse = most > LEAST ? 127.0f / most : 0.0f;
    Group* out = to.groups + row * to.q_stride + (size_t)(first_group + g) * (to.fine ? 2 : 1);
    F8 rounded[4];
    for (int i = 0; i < 4; i++) {
      F8 exact = mul(v[i], all(inverse));
      rounded[i] = nearest(exact);
      if (to.fine) {
        F8 left = nearest(mul(sub(exact, rounded[i]), all(256.0f)));
        v[i] = larger(smaller(left, all(127.0f)), all(-127.0f));  // half a step is 128, which does not fit
      }
    }
    float whole = fill(*out, rounded);
    if (to.fine) whole = std::fma(fill(out[1], v), 1.0f / 256.0f, whole);
    out->scale = std::isnan(whole) ? NAN : most / 127.0f;  // a group with a NaN or an infinity: every product is NaN
    out->total = out->scale * whole;
  }
}

// ------------------------------------------------------------------------------------------------- rows

static inline float row_sum(const float* x, int n) {
  F8 acc = zero();
  int i = 0;
  for (; i + 8 <= n; i += 8) acc = add(acc, load(x + i));
  if (i < n) acc = add(acc, load_some(x + i, n - i));
  return sum(acc);
}

static float mean_square(const float* x, int n) {
  F8 acc = zero();
  int i = 0;
  for (; i + 8 <= n; i += 8) acc = fma(load(x + i), load(x + i), acc);
  if (i < n) acc = fma(load_some(x + i, n - i), load_some(x + i, n - i), acc);
  return sum(acc) / (float)n;
}

static void norm(const float* x, float* y, int columns, int groups, bool centred, float eps, const float* weight,
                 const float* bias) {
  int n = columns / groups;
  for (int g = 0; g < groups; g++, x += n, y += n) {
    const float* from = x;
    if (centred) {
      float mean = row_sum(x, n) / (float)n;
      each(x, y, n, [&](auto v) { return sub(v, filled<decltype(v)>(mean)); });
      from = y;
    }
    float r = 1.0f / std::sqrt(mean_square(from, n) + eps);
    if (weight) each(from, weight, y, n, [&](auto v, auto w) { return mul(mul(v, filled<decltype(v)>(r)), w); });
    else each(from, y, n, [&](auto v) { return mul(v, filled<decltype(v)>(r)); });
    if (bias) each(y, bias, y, n, [](auto v, auto b) { return add(v, b); });
  }
}

static void glu(const float* gate, const float* up, float* y, int n, const Glu& glu) {
  each(gate, up, y, n, [&](auto g, auto u) {
    using V = decltype(g);
    V limit = filled<V>(glu.clamp), least = filled<V>(-glu.clamp);
    return mul(curve(smaller(g, filled<V>(glu.gate_clamp)), glu), add(larger(smaller(u, limit), least), filled<V>(glu.up_offset)));
  });
}

static void activate(const float* x, float* y, int n, Curve c) {
  const Glu glu{c, INFINITY, 1.0f, 0.0f, INFINITY};
  each(x, y, n, [&](auto v) { return curve(v, glu); });
}

static void add_rows(const float* a, const float* b, float* y, int n) {
  each(a, b, y, n, [](auto v, auto w) { return add(v, w); });
}
static void scale_row(const float* a, float factor, float* y, int n) {
  each(a, y, n, [&](auto v) { return mul(v, filled<decltype(v)>(factor)); });
}
static void multiply(const float* a, const float* factors, float* y, int n) {
  each(a, factors, y, n, [](auto v, auto w) { return mul(v, w); });
}
static void fused_add(const float* a, float factor, float* y, int n) {
  each(a, y, y, n, [&](auto v, auto w) { return fma(v, filled<decltype(v)>(factor), w); });
}
static void multiply_add(const float* a, const float* factors, float* y, int n) {
  each_onto(a, factors, y, n, [](auto v, auto w, auto sum) { return fma(v, w, sum); });
}
static void clip(const float* a, float least, float most, float* y, int n) {
  each(a, y, n, [&](auto v) { return smaller(larger(v, filled<decltype(v)>(least)), filled<decltype(v)>(most)); });
}
static void softcap(const float* a, float cap, float* y, int n) {
  each(a, y, n, [&](auto v) { return mul(tanh_of(div(v, filled<decltype(v)>(cap))), filled<decltype(v)>(cap)); });
}

static void above(const float* a, float deviations, float* y, int n) {
  float mean = row_sum(a, n) / (float)n;
  each(a, y, n, [&](auto v) { return sub(v, filled<decltype(v)>(mean)); });
  float least = deviations * std::sqrt(mean_square(y, n));
  each(y, y, n, [&](auto v) { return larger(sub(v, filled<decltype(v)>(least)), filled<decltype(v)>(0.0f)); });
}

static void rope(const float* x, float* y, int heads, int width, int dim, bool interleaved, const float* cos,
                 const float* sin) {
  int half = dim / 2;
  for (int h = 0; h < heads; h++, x += width, y += width) {
    int i = 0;
    if (!interleaved)
      for (; i + 8 <= half; i += 8) {
        F8 a = load(x + i), b = load(x + half + i), c = load(cos + i), s = load(sin + i);
        store(y + i, minus_fma(b, s, mul(a, c)));
        store(y + half + i, fma(a, s, mul(b, c)));
      }
    for (; i < half; i++) {
      int at = interleaved ? 2 * i : i, other = interleaved ? at + 1 : at + half;
      float a = x[at], b = x[other];
      y[at] = std::fma(-b, sin[i], a * cos[i]);
      y[other] = std::fma(a, sin[i], b * cos[i]);
    }
    for (int c = dim; c < width; c++) y[c] = x[c];
  }
}

// ------------------------------------------------------------------------------------------------- attention

// n numbers into the cache, `step` numbers apart; 8-bit ones with the scale that makes the largest 127.
static void store_kv(const float* k, int n, KV kind, uint8_t* out, size_t step, float* scale) {
  float inverse = 0;
  if (kind == KV::I8) {
    float most = 0;
    for (int i = 0; i < n; i++) most = std::fabs(k[i]) > most ? std::fabs(k[i]) : most;
    *scale = most / 127.0f;
    inverse = most > LEAST ? 127.0f / most : 0.0f;
  }
  for (int i = 0; i < n; i += 8) {
    int m = n - i < 8 ? n - i : 8;
    F8 v = m == 8 ? load(k + i) : load_some(k + i, m);
    if (kind == KV::F32) {
      float some[8];
      store(some, v);
      for (int j = 0; j < m; j++) ((float*)out)[(i + j) * step] = some[j];
    } else if (kind == KV::F16) {
      uint16_t some[8];
      store_f16(some, v);
      for (int j = 0; j < m; j++) ((uint16_t*)out)[(i + j) * step] = some[j];
    } else {
      int8_t some[8];
      store_i8(some, nearest(mul(v, all(inverse))));
      for (int j = 0; j < m; j++) ((int8_t*)out)[(i + j) * step] = some[j];
    }
  }
}

#include "attention.inl"

static void merge(Partial& into, float* sum_, const Partial& from, const float* values, int n) {
  if (from.best == -INFINITY) return;
  if (into.best == -INFINITY) {
    into = from;
    for (int i = 0; i < n; i++) sum_[i] = values[i];
    return;
  }
  float best = from.best > into.best ? from.best : into.best, factors[8];
  float both[8] = {into.best - best, from.best - best, 0, 0, 0, 0, 0, 0};
  store(factors, exponential(load(both)));
  each(sum_, values, sum_, n, [&](auto v, auto w) {
    using V = decltype(v);
    return fma(w, filled<V>(factors[1]), mul(v, filled<V>(factors[0])));
  });
  into = {best, std::fma(from.sum, factors[1], into.sum * factors[0])};
}

static void finish(Partial& total, const float* sum_, const float* sink, float* y, int n) {
  float factor = 1, whole = total.sum;
  if (sink) {
    float best = *sink > total.best ? *sink : total.best, factors[8];
    float both[8] = {total.best - best, *sink - best, 0, 0, 0, 0, 0, 0};
    store(factors, exponential(load(both)));
    factor = factors[0];
    whole = std::fma(total.sum, factors[0], factors[1]);
  }
  float share = factor / whole;
  each(sum_, y, n, [&](auto v) { return mul(v, filled<decltype(v)>(share)); });
}

// ------------------------------------------------------------------------------------------------- routing

static inline int best_of(const float* x, int n) {
  int best = 0;
  for (int i = 1; i < n; i++)
    if (x[i] > x[best]) best = i;
  return best;
}

static inline void softmax(float* x, int n) {
  float best = x[best_of(x, n)];
  each(x, x, n, [&](auto v) { return exponential(sub(v, filled<decltype(v)>(best))); });
  float whole = row_sum(x, n);
  each(x, x, n, [&](auto v) { return div(v, filled<decltype(v)>(whole)); });
}

// `scratch` holds 5 numbers an expert.
static void route(const float* logits, float* scratch, int32_t* ids, float* weights, const RouteRule& rule) {
  int n = rule.experts;
  float *score = scratch, *pick = scratch + n, *copy = scratch + 2 * n;
  for (int e = 0; e < n; e++) score[e] = logits[e];
  if (rule.scoring == 0) softmax(score, n);
  if (rule.scoring == 2) each(score, score, n, [](auto v) { return sigmoid(v); });
  for (int e = 0; e < n; e++) pick[e] = rule.correction_bias ? score[e] + rule.correction_bias[e] : score[e];
  if (rule.groups > 0) {
    int size = n / rule.groups;
    float *totals = scratch + 3 * n, *kept = scratch + 4 * n;  // there are no more groups than experts
    for (int e = 0; e < n; e++) copy[e] = pick[e];
    for (int g = 0; g < rule.groups; g++) {
      totals[g] = 0;
      for (int b = 0; b < rule.best; b++) {
        int e = g * size + best_of(copy + g * size, size);
        totals[g] += copy[e];
        copy[e] = -INFINITY;
      }
    }
    for (int g = 0; g < rule.groups; g++) kept[g] = 0;
    for (int b = 0; b < rule.groups_chosen; b++) {
      int g = best_of(totals, rule.groups);
      kept[g] = 1;
      totals[g] = -INFINITY;
    }
    for (int e = 0; e < n; e++)
      if (!kept[e / size]) pick[e] = -INFINITY;
  }
  for (int r = 0; r < rule.chosen; r++) {
    int e = best_of(pick, n);
    ids[r] = e;
    weights[r] = score[e];
    if (rule.scoring == 3) {  // sparsemixer: a softmax over what is near the best that is left
      float best = pick[e];
      for (int o = 0; o < n; o++) {
        float wide = std::fabs(logits[o]) > best ? std::fabs(logits[o]) : best;
        bool far = (best - logits[o]) / wide > 2 * rule.jitter;
        copy[o] = far ? -INFINITY : pick[o];
      }
      each(copy, copy, n, [&](auto v) { return exponential(sub(v, filled<decltype(v)>(best))); });
      weights[r] = copy[e] / row_sum(copy, n);
    }
    pick[e] = -INFINITY;
  }
  if (rule.scoring == 1) softmax(weights, rule.chosen);
  if (rule.renormalise) {
    float whole = row_sum(weights, rule.chosen) + rule.renormalise_eps;
    for (int r = 0; r < rule.chosen; r++) weights[r] /= whole;
  }
  for (int r = 0; r < rule.chosen; r++) {
    if (rule.scale != 1.0f) weights[r] *= rule.scale;
    if (rule.expert_scale) weights[r] *= rule.expert_scale[ids[r]];
  }
}

#include "recurrence.inl"

static constexpr Kernels table(const char* name) {
  return {name, product, quantise, norm, glu, add_rows, scale_row, multiply, fused_add, multiply_add, activate, clip, softcap,
          mean_square, above, rope, store_kv,
          attend, merge, finish, route, recur};
}
