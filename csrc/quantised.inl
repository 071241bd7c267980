// Products of quantised weights with rows of activations, over the lanes of the namespace it is included in: 8 rows of a
// matrix for each tile that is read at once, and as many rows of activations as have sums that fit the registers. Floats
// are summed in one fixed order whatever else is in the step.

// M rows; with fine codes, each of their groups has a second one behind it.
template <class Q, int M, bool FINE>
ALWAYS_INLINE static void quantised_tile(At w, size_t ahead, const Group* const* rows, int groups, Floats* result) {
  constexpr int P = FINE ? 2 * M : M;
  const Floats part = every(1.0f / 256.0f);
  const Group* x[P];
  int at[P];
  Floats acc[M];
  for (int m = 0; m < M; m++) {
    x[m] = x[P - M + m] = rows[m];
    acc[m] = every(0);
  }
  Floats d = every(0), least = every(0);
  for (int g = 0; g < groups; g++) {
    if (g % 8 == 0) read_header<Q>(w, d, least);
    At s = w + Q::CODES;
    const Floats unit = read_unit<Q>(s, d, least);
    Floats minima = every(0);
    Words minima_16 = every_word(0);
    if constexpr (Q::KIND == Scales::STEPS_32_MIN) minima = mul(least, small_numbers(s + 8));
    if constexpr (Q::KIND == Scales::STEPS_16_MIN) minima_16 = minima_of_two(s + 16);
    for (int m = 0; m < M; m++) {
      at[m] = FINE ? 2 * g : g;
      if (FINE) at[M + m] = 2 * g + 1;
    }
    for (int line = 0; line <= Q::GROUP / 64; line++) prefetch(w + (ahead + 64 * line));
    if constexpr (Q::KIND == Scales::FLOATS_16) {
      each_of([&](auto half) __attribute__((always_inline)) {
        const Floats step = mul(d, byte_floats(s + 8 * half));
        const Dots<Q, P, half> dots(w, x, at);
        for (int m = 0; m < M; m++) {
          Floats whole = to_float(dots.total[m]);
          if constexpr (FINE) whole = fma(to_float(dots.total[M + m]), part, whole);
          acc[m] = fma(whole, mul(step, every_at(&x[m][at[m]].scale)), acc[m]);
        }
      }, std::make_integer_sequence<int, 2>());
      w = w + Q::GROUP;
      continue;
    }
    const Dots<Q, P> dots(w, x, at);

#pragma GCC unroll 8
    for (int m = 0; m < M; m++) {
      const Group& coarse = x[m][at[m]];
      Floats whole = to_float(dots.total[m]), scale = every_at(&coarse.scale);
      if constexpr (FINE) whole = fma(to_float(dots.total[M + m]), part, whole);
      acc[m] = fma(whole, mul(unit, scale), acc[m]);
      if constexpr (Q::KIND == Scales::HALF_MIN) acc[m] = fma(least, every_at(&coarse.total), acc[m]);
      if constexpr (Q::KIND == Scales::STEPS_32_MIN) acc[m] = minus_fma(minima, every_at(&coarse.total), acc[m]);
      if constexpr (Q::KIND == Scales::STEPS_16_MIN) {
        Floats below = to_float(dot(minima_16, every_pair(coarse.halves)));
        if constexpr (FINE) below = fma(to_float(dot(minima_16, every_pair((&coarse + 1)->halves))), part, below);
        acc[m] = minus_fma(below, mul(least, scale), acc[m]);
      }
    }
    w = w + Q::GROUP;
  }
  for (int m = 0; m < M; m++) result[m] = acc[m];
}

// The same for octets (octets.h).
template <class Q, int M, bool FINE>
ALWAYS_INLINE static void octet_tile(At w, size_t ahead, const Group* const* rows, int groups, Floats* result) {
  constexpr int P = FINE ? 2 * M : M;
  const uint8_t* table = octet_table(Q::TYPE);
  const Group* x[P];
  int at[P];
  for (int m = 0; m < M; m++) {
    x[m] = x[P - M + m] = rows[m];
    result[m] = every(0);
  }
  Floats unit = every(0);
  Octets room[TILES_AT_ONCE];
  for (int g = 0; g < groups; g++) {
    if (g % 8 == 0) {
      unit = mul(halves(w), every(octet_unit(Q::TYPE)));
      w = w + 16;
    }
    for (int line = 0; line <= Q::GROUP / 64; line++) prefetch(w + (ahead + 64 * line));
    for (int m = 0; m < M; m++) {
      at[m] = FINE ? 2 * g : g;
      if (FINE) at[M + m] = 2 * g + 1;
    }
    const At octets = octets_of(w, [](const uint8_t* from, Octets& out) { read_group<Q::TYPE>(from, out); }, room);
    const OctetDots<Q, P> dots(octets, table, x, at);
    for (int m = 0; m < M; m++) {
      Floats whole = to_float(dots.total[m]);
      if constexpr (FINE) whole = fma(to_float(dots.total[M + m]), every(1.0f / 256.0f), whole);
      result[m] = fma(whole, mul(unit, every_at(&x[m][at[m]].scale)), result[m]);
    }
    w = w + Q::GROUP;
  }
}

template <class Q, int M, bool FINE>
ALWAYS_INLINE static void quantised_rows(At w, size_t ahead, bool both, const Activations& x, int row, int groups, float* y, size_t y_stride) {
  const Group* rows[M];
  for (int m = 0; m < M; m++) rows[m] = x.groups + (x.pick ? (size_t)x.pick[row + m] : (size_t)(row + m)) * x.q_stride;
  Floats result[M];
  if constexpr (Q::KIND == Scales::OCTETS) octet_tile<Q, M, FINE>(w, ahead, rows, groups, result);
  else quantised_tile<Q, M, FINE>(w, ahead, rows, groups, result);
  for (int m = 0; m < M; m++) store_rows(y + (row + m) * y_stride, result[m], both);
}

// M rows at a time, then what is left by halves.
template <class Q, int M, bool FINE>
static inline void quantised_all(At w, size_t ahead, bool both, const Activations& x, int rows, int groups, float* y,
                                 size_t y_stride, int row = 0) {
  for (; row + M <= rows; row += M) quantised_rows<Q, M, FINE>(w, ahead, both, x, row, groups, y, y_stride);
  if constexpr (M > 1) quantised_all<Q, M / 2, FINE>(w, ahead, both, x, rows, groups, y, y_stride, row);
}

template <class Q>
static void quantised_product(const Matrix& m, int which, int t0, int t1, const Activations& x, int rows, float* y,
                              size_t y_stride) {
  int groups = m.columns / 32;
  size_t size = m.tile_size(), ahead = read_ahead(size);
  for (int t = t0; t < t1; t += TILES_AT_ONCE, y += 8 * TILES_AT_ONCE) {
    bool both = t + 1 < t1;
    At w = place(m.tile(which, t), size, both);
    if (TILES_AT_ONCE > 1) fetch(w.p, both ? 2 * size : size);
    if (x.fine) quantised_all<Q, ROWS / 2, true>(w, ahead, both, x, rows, groups, y, y_stride);
    else quantised_all<Q, ROWS, false>(w, ahead, both, x, rows, groups, y, y_stride);
  }
}

