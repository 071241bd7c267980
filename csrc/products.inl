// Products of weights with rows of activations, over the lanes of the namespace it is included in: 8 rows of a matrix for
// each tile that is read at once. Floats are summed in one fixed order whatever else is in the step.

// M rows; with fine codes, each of their groups has a second one behind it.
template <class Q, int M, bool FINE>
ALWAYS_INLINE static void quantised_tile(At w, size_t ahead, const Group* const* rows, int groups, Floats* result) {
  constexpr int P = FINE ? 2 * M : M;
  const Floats part = every(1.0f / 254.0f);
  const Group* x[P];
  int at[P];
  Floats acc[M];
  for (int m = 0; m < M; m++) {
    x[m] = x[P - M + m] = rows[m];
    acc[m] = every(0);
  }
  Floats d = every(0), least = every(0);
  for (int g = 0; g < groups; g++) {
    if constexpr (Q::HEADER > 0) {
      if (g % 8 == 0) {
        d = Q::KIND == Scales::FLOATS_16 ? floats(w) : halves(w);
        if constexpr (Q::HEADER == 32 && Q::STEPS) least = halves(w + 16);
        w = w + Q::HEADER;
      }
    }
    At s = w + Q::CODES;
    if constexpr (Q::HEADER == 0) {
      d = Q::KIND == Scales::BFLOAT ? bfloats(s) : halves(s);
      if constexpr (Q::KIND == Scales::HALF_MIN) least = halves(s + 16);
      if constexpr (Q::KIND == Scales::HALF_MIN && Q::BITS == 8) least = fma(d, every(128), least);  // codes from -128
    }
    Floats unit = d;  // exact below: a half times a whole number of six bits and a sign
    if constexpr (Q::KIND == Scales::STEPS_32_MIN) unit = mul(d, small_numbers(s));
    if constexpr (Q::ONE_STEP) unit = mul(d, to_float(dot(steps_of_two(s), every_pair(1))));  // the first of each two
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
      if constexpr (FINE) whole = fma(to_float(dots.total[M + m]), every(1.0f / 254.0f), whole);
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

// Reads all of it once, in the order in which it lies: memory feeds one quick stream far better than two slow ones, which
// the products of two tiles and many rows are.
static inline void fetch(const uint8_t* p, size_t bytes) {
  for (size_t i = 0; i < bytes; i += 64) (void)*(const volatile uint8_t*)(p + i);
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

template <Type type> constexpr int COLUMN = type == Type::F32 ? 32 : type == Type::F8_E4M3 ? 8 : 16;  // bytes of a tile

// Column 4n + i, where 4n is `column`.
template <Type type, int i> ALWAYS_INLINE static Floats weights_at(At w, size_t column) {
  const At at = w + (column + (type == Type::F8_E4M3 ? 0 : i)) * COLUMN<type>;
  if constexpr (type == Type::F32) return floats(at);
  else if constexpr (type == Type::F16) return halves(at);
  else if constexpr (type == Type::BF16) return bfloats(at);
  else return e4m3_column<i>(bytes(at));
}
template <Type type> ALWAYS_INLINE static void four_weights(At w, size_t column, Floats v[4]) {
  if constexpr (type == Type::F8_E4M3) {
    e4m3_columns(bytes(w + column * 8), v);
  } else {
    each_of([&](auto i) __attribute__((always_inline)) { v[i] = weights_at<type, i>(w, column); },
            std::make_integer_sequence<int, 4>());
  }
}

// Four sums by column modulo 4, then (0 + 1) + (2 + 3).
template <Type type, int M>
ALWAYS_INLINE static void float_sums(At w, const float* const* from, int columns, Floats* result) {
  Floats acc[4][M];
  for (int m = 0; m < M; m++)
    for (int i = 0; i < 4; i++) acc[i][m] = every(0);
  int c = 0;
  for (; c + 4 <= columns; c += 4) {
    prefetch(w + ((size_t)c * COLUMN<type> + 2048));
    Floats v[4];
    four_weights<type>(w, c, v);
    for (int i = 0; i < 4; i++)
      for (int m = 0; m < M; m++) acc[i][m] = fma(v[i], every_at(from[m] + c + i), acc[i][m]);
  }
  each_of([&](auto i) __attribute__((always_inline)) {  // constants, so that the sums stay in registers
    if (c + i >= columns) return;
    Floats v = weights_at<type, i>(w, c);
    for (int m = 0; m < M; m++) acc[i][m] = fma(v, every_at(from[m] + c + i), acc[i][m]);
  }, std::make_integer_sequence<int, 3>());
  for (int m = 0; m < M; m++) result[m] = add(add(acc[0][m], acc[1][m]), add(acc[2][m], acc[3][m]));
}

// The same sums for M rows and T places in tiles, one of the four after the other: so many fit in registers that what
// is loaded serves several products.
template <Type type, int M, int T>
ALWAYS_INLINE static void float_block_sums(const At* w, const float* const* from, int columns, Floats* result) {
  static_assert(T <= 2);
  Floats sums[M * T] = {}, last[M * T] = {};  // the loop fills them before it reads them, which GCC does not see
  each_of([&](auto first) __attribute__((always_inline)) {
    Floats acc[M * T];
#pragma GCC unroll 32
    for (int i = 0; i < M * T; i++) acc[i] = every(0);
    for (int c = 0; c + first < columns; c += 4) {
      const Floats here = weights_at<type, first>(w[0], c), there = T > 1 ? weights_at<type, first>(w[T - 1], c) : here;
#pragma GCC unroll 16
      for (int m = 0; m < M; m++) {
        Floats one = every_at(from[m] + c + first);
        acc[m * T] = fma(here, one, acc[m * T]);
        if constexpr (T > 1) acc[m * T + 1] = fma(there, one, acc[m * T + 1]);
      }
    }
#pragma GCC unroll 32
    for (int i = 0; i < M * T; i++) {
      if (first == 0) sums[i] = acc[i];
      else if (first == 1) sums[i] = add(sums[i], acc[i]);
      else if (first == 2) last[i] = acc[i];
      else result[i] = add(sums[i], add(last[i], acc[i]));
    }
  }, std::make_integer_sequence<int, 4>());
}

// M rows of activations. `sums`: (places, rows, columns, result) -> the sums of these columns for M rows and T places.
// Bytes have a factor for 128 columns: each 128 are summed by themselves. They are read as 2^-120 of their values, which
// activations would take out of the range of floats: half of that is made up for before the sums, half behind them.
template <Type type, int M, int T, class F>
ALWAYS_INLINE static void float_product_of(const At* w, const bool* both, const Activations& x, int row, int columns,
                                           float* y, size_t y_stride, F sums) {
  const float* from[M];
  for (int m = 0; m < M; m++) from[m] = x.f + (x.pick ? (size_t)x.pick[row + m] : (size_t)(row + m)) * x.f_stride;
  Floats result[M * T];
  if constexpr (type == Type::F8_E4M3) {
    Floats part[M * T];
    float raised[M][128];
    for (int i = 0; i < M * T; i++) result[i] = every(0);
    for (int c = 0; c < columns; c += 128) {
      const int now = columns - c < 128 ? columns - c : 128;
      const float* from_raised[M];
      for (int m = 0; m < M; m++) {
        from_raised[m] = raised[m];
        for (int i = 0; i < now; i += 8) store(raised[m] + i, mul(load(from[m] + c + i), all(0x1p60f)));
      }
      At here[T];
      for (int t = 0; t < T; t++) here[t] = w[t] + (size_t)(c / 128) * (32 + 128 * 8) + 32;
      sums(here, from_raised, now, part);
      for (int i = 0; i < M * T; i++) {
        const Floats factor = mul(floats(w[i % T] + (size_t)(c / 128) * (32 + 128 * 8)), every(0x1p60f));
        result[i] = fma(part[i], factor, result[i]);
      }
    }
  } else {
    sums(w, from, columns, result);
  }
  for (int i = 0; i < M * T; i++) store_rows(y + (row + i / T) * y_stride + i % T * 8 * TILES_AT_ONCE, result[i], both[i % T]);
}

template <Type type, int M>
ALWAYS_INLINE static void float_rows(At w, bool both, const Activations& x, int row, int columns, float* y, size_t y_stride) {
  float_product_of<type, M, 1>(&w, &both, x, row, columns, y, y_stride, [](const At* w, const float* const* from, int columns,
                                                                           Floats* result) __attribute__((always_inline)) {
    float_sums<type, M>(*w, from, columns, result);
  });
}

template <Type type, int M, int T>
__attribute__((noinline)) static void float_block(const At* w, const bool* both, const Activations& x, int row,
                                                  int columns, float* y, size_t y_stride) {
  float_product_of<type, M, T>(w, both, x, row, columns, y, y_stride, [](const At* w, const float* const* from, int columns,
                                                                         Floats* result) __attribute__((always_inline)) {
    float_block_sums<type, M, T>(w, from, columns, result);
  });
}

// In as few and as even passes as MOST rows at a time allow: 8 rows by at most 6 are 4 and 4.
template <int MOST, class F> ALWAYS_INLINE static void in_passes(int rows, F f) {
  int row = 0;
  for (int passes = (rows + MOST - 1) / MOST; passes > 0; passes--) {
    int now = (rows - row + passes - 1) / passes;
    each_of([&](auto less) {
      if (now == less + 1) f(std::integral_constant<int, less + 1>(), row);
    }, std::make_integer_sequence<int, MOST>());
    row += now;
  }
}

template <Type type>
static void float_product(const Matrix& m, int which, int t0, int t1, const Activations& x, int rows, float* y,
                          size_t y_stride) {
  size_t size = m.tile_size();
  for (int t = t0; t < t1;) {
    At w[BLOCK_PLACES];
    bool both[BLOCK_PLACES];
    int places = 0;
    for (int from = t; places < BLOCK_PLACES && from < t1; places++, from += TILES_AT_ONCE) {
      both[places] = from + 1 < t1;
      w[places] = place(m.tile(which, from), size, both[places]);
    }
    if (rows >= LEAST_BLOCK && places == BLOCK_PLACES) {
      int tiles = t1 - t < BLOCK_PLACES * TILES_AT_ONCE ? t1 - t : BLOCK_PLACES * TILES_AT_ONCE;
      if (m.columns >= 512) fetch(w[0].p, tiles * size);  // short rows are those of small matrices, which caches hold
      in_passes<BLOCK_ROWS>(rows, [&](auto n, int row) {
        float_block<type, n, BLOCK_PLACES>(w, both, x, row, m.columns, y, y_stride);
      });
    } else {
      places = 1;
      in_passes<FLOAT_ROWS>(rows, [&](auto n, int row) { float_rows<type, n>(w[0], both[0], x, row, m.columns, y, y_stride); });
    }
    t += places * TILES_AT_ONCE;
    y += places * 8 * TILES_AT_ONCE;
  }
}

static void product(const Matrix& m, int which, int t0, int t1, const Activations& x, int rows, float* y, size_t y_stride) {
  using S = Scales;
#define TRILENS_QUANT(type, ...) \
  case Type::type: return quantised_product<Quant<__VA_ARGS__>>(m, which, t0, t1, x, rows, y, y_stride)
#define TRILENS_OCTETS(type) \
  case Type::type: return quantised_product<OctetQuant<Type::type>>(m, which, t0, t1, x, rows, y, y_stride)
  switch (m.type) {
    case Type::F32: return float_product<Type::F32>(m, which, t0, t1, x, rows, y, y_stride);
    case Type::F16: return float_product<Type::F16>(m, which, t0, t1, x, rows, y, y_stride);
    case Type::BF16: return float_product<Type::BF16>(m, which, t0, t1, x, rows, y, y_stride);
    case Type::F8_E4M3: return float_product<Type::F8_E4M3>(m, which, t0, t1, x, rows, y, y_stride);
    TRILENS_QUANT(Q4_0, 4, S::HALF, 8, Codes::PLAIN, false, 8);
    TRILENS_QUANT(Q4_1, 4, S::HALF_MIN, 0, Codes::PLAIN, false, 8);
    TRILENS_QUANT(Q5_0, 6, S::HALF, 16, Codes::PLAIN, false, 4);
    TRILENS_QUANT(Q5_1, 6, S::HALF_MIN, 0, Codes::PLAIN, false, 4);
    TRILENS_QUANT(Q8_0, 8, S::HALF, 0, Codes::PLAIN, true, 1);
    TRILENS_QUANT(Q2_K, 4, S::STEPS_16_MIN, 0, Codes::PLAIN, false, 4);
    TRILENS_QUANT(Q3_K, 4, S::STEPS_16, 4, Codes::PLAIN, false, 4);
    TRILENS_QUANT(Q4_K, 4, S::STEPS_32_MIN, 0, Codes::PLAIN, false, 8);
    TRILENS_QUANT(Q5_K, 6, S::STEPS_32_MIN, 0, Codes::PLAIN, false, 4);
    TRILENS_QUANT(Q6_K, 6, S::STEPS_16, 32, Codes::PLAIN, false, 2);
    TRILENS_QUANT(IQ4_NL, 4, S::HALF, 0, Codes::IQ4, true, 1);
    TRILENS_QUANT(IQ4_XS, 4, S::STEPS_16, 0, Codes::IQ4, true, 1, true);
    TRILENS_QUANT(MXFP4, 4, S::BFLOAT, 12, Codes::MXFP4, false, 4);
    TRILENS_QUANT(NVFP4, 4, S::FLOATS_16, 12, Codes::MXFP4, false, 4);
    TRILENS_QUANT(NF4, 4, S::HALF, 0, Codes::NF4, true, 1);
    TRILENS_QUANT(FP4, 4, S::HALF, 0, Codes::FP4, true, 1);
    TRILENS_QUANT(Q8_MIN, 8, S::HALF_MIN, 0, Codes::PLAIN, true, 1);
    TRILENS_OCTETS(IQ1_S);
    TRILENS_OCTETS(IQ1_M);
    TRILENS_OCTETS(IQ2_XXS);
    TRILENS_OCTETS(IQ2_XS);
    TRILENS_OCTETS(IQ2_S);
    TRILENS_OCTETS(IQ3_XXS);
    TRILENS_OCTETS(IQ3_S);
    case Type::COUNT: break;
  }
#undef TRILENS_QUANT
#undef TRILENS_OCTETS
}


#undef ALWAYS_INLINE
