// Products of weights with rows of activations, over the lanes of the namespace it is included in: those of quantised
// weights are in quantised.inl or unpacked.inl, those of float weights here.

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
#define TRILENS_QUANT(type, ...) \
  case Type::type: return quantised_product<Quant<__VA_ARGS__>>(m, which, t0, t1, x, rows, y, y_stride);
#define TRILENS_OCTETS(type) \
  case Type::type: return quantised_product<OctetQuant<Type::type>>(m, which, t0, t1, x, rows, y, y_stride);
  switch (m.type) {
    case Type::F32: return float_product<Type::F32>(m, which, t0, t1, x, rows, y, y_stride);
    case Type::F16: return float_product<Type::F16>(m, which, t0, t1, x, rows, y, y_stride);
    case Type::BF16: return float_product<Type::BF16>(m, which, t0, t1, x, rows, y, y_stride);
    case Type::F8_E4M3: return float_product<Type::F8_E4M3>(m, which, t0, t1, x, rows, y, y_stride);
    TRILENS_QUANTISED_TYPES(TRILENS_QUANT, TRILENS_OCTETS)
    case Type::COUNT: break;
  }
#undef TRILENS_QUANT
#undef TRILENS_OCTETS
}

#undef ALWAYS_INLINE
