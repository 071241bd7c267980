// Products of quantised weights with many rows of activations, over the lanes of the namespace it is included in. 256
// columns of a few tiles are unpacked into a buffer that fits the first-level cache, and all rows read it. The results have
// the same bits as those of quantised.inl, because the integers are the same and floats are added in the same order.

constexpr int SPAN_GROUPS = 8, SPAN_COLUMNS = 32 * SPAN_GROUPS;  // what one header serves
constexpr int PLACES = 2, MOST_ROWS = 64;                        // unpacked together; rows whose sums are kept
template <bool FINE> constexpr int LEAST_ROWS = FINE ? 16 : 32;  // with fewer, unpacking costs more than it saves

// How codes are multiplied. WORDS: 16-bit numbers, already less their offset and times their step. BYTES: unsigned bytes,
// whose products are added in 16 bits first.
enum class Form { NOT_UNPACKED, WORDS, BYTES };

// WORDS for 16-bit activations, where one product replaces two of bytes, and for codes that are looked up. A group's 32
// products have to fit 32 bits: step * (code - offset) may be at most 2056. IQ3_XXS has 31 * 62 = 1922. Q6_K has 128 * 32,
// so it is BYTES; it is unpacked for 8-bit activations too, because its codes take the most instructions to decode.
template <class Q, bool FINE> constexpr Form form() {
  if constexpr (Q::KIND == Scales::OCTETS) return Form::WORDS;
  else if (Q::KIND == Scales::STEPS_16 && Q::BITS == 6) return Form::BYTES;
  else return FINE || (Q::SIGNED && Q::TABLE != Codes::PLAIN) ? Form::WORDS : Form::NOT_UNPACKED;
}

struct Unpacked {
  alignas(64) uint8_t codes[SPAN_GROUPS][16][sizeof(Words)];  // BYTES: the first 8 of each
  Floats unit[SPAN_GROUPS][2];       // of columns 0 to 15 and 16 to 31, where they differ
  Floats least[SPAN_GROUPS];         // added times the group's total, or taken off times `minima` and its codes' sums
  Words minima[SPAN_GROUPS];
  Words low[SPAN_GROUPS], high[SPAN_GROUPS], offsets[SPAN_GROUPS];  // BYTES: their Steps
};

// Columns 4j to 4j + 3 of the tile's rows: 4j and 4j + 2 in one vector, 4j + 1 and 4j + 3 in the next.
ALWAYS_INLINE static void put_words(Unpacked& to, int g, int j, Bytes code, Words step) {
  put(to.codes[g][2 * j], mul(even_bytes(code), step));
  put(to.codes[g][2 * j + 1], mul(odd_bytes(code), step));
}

template <class Q, Form FORM> static At unpack(At w, int groups, Unpacked& to) {
  Floats d = every(0), least = every(0);
  read_header<Q>(w, d, least);
  for (int g = 0; g < groups; g++, w = w + Q::GROUP) {
    const At s = w + Q::CODES;
    to.unit[g][0] = read_unit<Q>(s, d, least);
    to.least[g] = least;
    if constexpr (Q::KIND == Scales::STEPS_32_MIN) to.least[g] = minus(mul(least, small_numbers(s + 8)));
    if constexpr (Q::KIND == Scales::STEPS_16_MIN) to.minima[g] = minima_of_two(s + 16);
    if constexpr (Q::KIND == Scales::FLOATS_16) {
      to.unit[g][0] = mul(d, byte_floats(s));
      to.unit[g][1] = mul(d, byte_floats(s + 8));
    }
    const Steps<Q, Q::OFFSET> steps(s);
    if constexpr (FORM == Form::BYTES) {
      to.low[g] = steps.low;
      to.high[g] = steps.high;
      to.offsets[g] = steps.offsets;
    }
    each_of([&](auto j) __attribute__((always_inline)) {
      const Bytes code = Q::template code<j>(w);
      if constexpr (FORM == Form::BYTES) put(to.codes[g][j], code);
      else put_words(to, g, j, Q::OFFSET ? sub(code, every_byte(Q::OFFSET)) : code, j < 4 ? steps.low : steps.high);
    }, std::make_integer_sequence<int, 8>());
  }
  return w;
}

template <class Q> static At unpack_octets(At w, int groups, Unpacked& to) {
  const uint8_t* table = octet_table(Q::TYPE);
  const Floats unit = mul(halves(w), every(octet_unit(Q::TYPE)));
  Octets room[TILES_AT_ONCE];
  w = w + 16;
  for (int g = 0; g < groups; g++, w = w + Q::GROUP) {
    to.unit[g][0] = unit;
    const At octets = octets_of(w, [](const uint8_t* from, Octets& out) { read_group<Q::TYPE>(from, out); }, room);
    const Words steps = steps_of_two(octets + OCTET_STEPS), low = evens_twice(steps), high = odds_twice(steps);
    each_of([&](auto k) __attribute__((always_inline)) {
      const Bytes some = octet_code<Q, 2 * k>(octets, table), others = octet_code<Q, 2 * k + 1>(octets, table);
      put_words(to, g, 2 * k, first_fours(some, others), k < 2 ? low : high);
      put_words(to, g, 2 * k + 1, last_fours(some, others), k < 2 ? low : high);
    }, std::make_integer_sequence<int, 4>());
  }
  return w;
}

enum class Minimum { NONE, OF_GROUP, OF_HALVES };  // what is added beside the products

template <class Q> constexpr Minimum minimum_of() {
  if constexpr (Q::KIND == Scales::HALF_MIN || Q::KIND == Scales::STEPS_32_MIN) return Minimum::OF_GROUP;
  return Q::KIND == Scales::STEPS_16_MIN ? Minimum::OF_HALVES : Minimum::NONE;
}

// `whole`: the sum of a row's products in this group, in units of 8-bit codes. With 16-bit activations the integer sum is
// 256 * C + F. A 256th of it is rounded once, to the same float as fma(F, 1 / 256, C), because C and F are below 2^24.
template <bool FINE, Minimum MINIMUM>
ALWAYS_INLINE static void finish_group(const Unpacked& w, int g, int half, const Group& x, Floats whole, Floats& sum) {
  const Floats scale = every_at(&x.scale);
  sum = fma(whole, mul(w.unit[g][half], scale), sum);
  if constexpr (MINIMUM == Minimum::OF_GROUP) sum = fma(w.least[g], every_at(&x.total), sum);
  if constexpr (MINIMUM == Minimum::OF_HALVES) {
    Floats below = to_float(dot(w.minima[g], every_pair(x.halves)));
    if constexpr (FINE) below = fma(to_float(dot(w.minima[g], every_pair((&x + 1)->halves))), every(1.0f / 256.0f), below);
    sum = minus_fma(below, mul(w.least[g], scale), sum);
  }
}

// M rows of activations times what is unpacked of `groups` groups, onto `sums`. `words`: [M][SPAN_COLUMNS], what the rows
// hold, each 32 columns in the order of widen_row().
template <int M, bool FINE, bool HALVES, Minimum MINIMUM>
__attribute__((noinline)) static void multiply_words(const Unpacked& w, const Group* const* x, const int16_t* words, int groups,
                                                     Floats* sums) {
  for (int g = 0; g < groups; g++) {
    Ints total[M];
    const auto finish = [&](int half) __attribute__((always_inline)) {
#pragma GCC unroll 8
      for (int m = 0; m < M; m++) {
        Floats whole = to_float(total[m]);
        if constexpr (FINE) whole = mul(whole, every(1.0f / 256.0f));
        finish_group<FINE, MINIMUM>(w, g, half, x[m][FINE ? 2 * g : g], whole, sums[m]);
      }
    };
    each_of([&](auto number) __attribute__((always_inline)) {
      constexpr int j = number;
      const Words code = words_at(w.codes[g][j]);
#pragma GCC unroll 8
      for (int m = 0; m < M; m++) {
        const Ints two = dot(code, every_pair_at(words + (SPAN_COLUMNS * m + 32 * g + 16 * (j % 2) + j / 2 * 2)));
        total[m] = j == 0 || (HALVES && j == 8) ? two : add(total[m], two);
      }
      if constexpr (HALVES && j == 7) finish(0);
    }, std::make_integer_sequence<int, 16>());
    finish(HALVES);
  }
}

template <class Q, int M, bool FINE>
__attribute__((noinline)) static void multiply_bytes(const Unpacked& w, const Group* const* x, int groups, Floats* sums) {
  constexpr int P = FINE ? 2 * M : M;
  for (int g = 0; g < groups; g++) {
    const auto row = [&](int p) __attribute__((always_inline)) -> const Group& { return x[p % M][FINE ? 2 * g + p / M : g]; };
    Words products[P];
    Ints total[P];
    each_of([&](auto number) __attribute__((always_inline)) {
      constexpr int j = number;
      const Bytes code = bytes_at(w.codes[g][j]);
#pragma GCC unroll 8
      for (int p = 0; p < P; p++) {
        const Words two = dot_unsigned(code, every_four(row(p).codes + 4 * j));
        products[p] = j % Q::RUN == 0 ? two : add(products[p], two);
        if constexpr (j % Q::RUN == Q::RUN - 1) {
          const Ints part = dot(products[p], j < 4 ? w.low[g] : w.high[g]);
          total[p] = j < Q::RUN ? part : add(total[p], part);
        }
      }
    }, std::make_integer_sequence<int, 8>());
#pragma GCC unroll 8
    for (int p = 0; p < P; p++) total[p] = sub(total[p], dot(w.offsets[g], every_pair(row(p).halves)));
#pragma GCC unroll 8
    for (int m = 0; m < M; m++) {
      Floats whole = to_float(total[m]);
      if constexpr (FINE) whole = fma(to_float(total[M + m]), every(1.0f / 256.0f), whole);
      finish_group<FINE, minimum_of<Q>()>(w, g, 0, row(m), whole, sums[m]);
    }
  }
}

// M rows at a time, then what is left by halves.
template <class Q, int M, bool FINE>
static inline void unpacked_rows(const Unpacked* w, int places, const Activations& x, int first, int rows, int g0, int groups,
                                 Floats (*sums)[MOST_ROWS], int row = 0) {
  constexpr int STEP = FINE ? 2 : 1;
  for (; row + M <= rows; row += M) {
    const Group* from[M];
    for (int m = 0; m < M; m++) {
      const size_t r = first + row + m;
      from[m] = x.groups + (x.pick ? (size_t)x.pick[r] : r) * x.q_stride + STEP * g0;
    }
    if constexpr (form<Q, FINE>() == Form::BYTES) {
      for (int i = 0; i < places; i++) multiply_bytes<Q, M, FINE>(w[i], from, groups, sums[i] + row);
    } else {
      alignas(64) int16_t words[M * SPAN_COLUMNS];
      for (int m = 0; m < M; m++)
        for (int g = 0; g < groups; g++) {
          const Group* group = from[m] + STEP * g;
          widen_row(group->codes, FINE ? group[1].codes : nullptr, words + SPAN_COLUMNS * m + 32 * g);
        }
      for (int i = 0; i < places; i++)
        multiply_words<M, FINE, Q::KIND == Scales::FLOATS_16, minimum_of<Q>()>(w[i], from, words, groups, sums[i] + row);
    }
  }
  if constexpr (M > 1) unpacked_rows<Q, M / 2, FINE>(w, places, x, first, rows, g0, groups, sums, row);
}

template <class Q, bool FINE>
static void unpacked_product_of(const Matrix& m, int which, int t0, int t1, const Activations& x, int rows, float* y,
                                size_t y_stride) {
  constexpr int M = form<Q, FINE>() == Form::BYTES && FINE ? ROWS / 2 : ROWS;
  const int groups = m.columns / 32;
  const size_t size = m.tile_size();
  Unpacked unpacked[PLACES];
  Floats sums[PLACES][MOST_ROWS];
  for (int t = t0; t < t1; t += PLACES * TILES_AT_ONCE, y += 8 * PLACES * TILES_AT_ONCE) {
    const int tiles = t1 - t < PLACES * TILES_AT_ONCE ? t1 - t : PLACES * TILES_AT_ONCE;
    const int places = (tiles + TILES_AT_ONCE - 1) / TILES_AT_ONCE;
    fetch(m.tile(which, t), tiles * size);
    for (int first = 0; first < rows; first += MOST_ROWS) {
      const int now = rows - first < MOST_ROWS ? rows - first : MOST_ROWS;
      At w[PLACES];
      for (int i = 0; i < places; i++) {
        w[i] = place(m.tile(which, t + i * TILES_AT_ONCE), size, (i + 1) * TILES_AT_ONCE <= tiles);
        for (int r = 0; r < now; r++) sums[i][r] = every(0);
      }
      for (int g = 0; g < groups; g += SPAN_GROUPS) {
        const int some = groups - g < SPAN_GROUPS ? groups - g : SPAN_GROUPS;
        for (int i = 0; i < places; i++) {
          if constexpr (Q::KIND == Scales::OCTETS) w[i] = unpack_octets<Q>(w[i], some, unpacked[i]);
          else w[i] = unpack<Q, form<Q, FINE>()>(w[i], some, unpacked[i]);
        }
        unpacked_rows<Q, M, FINE>(unpacked, places, x, first, now, g, some, sums);
      }
      for (int i = 0; i < places; i++)
        for (int r = 0; r < now; r++)
          store_rows(y + (first + r) * y_stride + 8 * TILES_AT_ONCE * i, sums[i][r], (i + 1) * TILES_AT_ONCE <= tiles);
    }
  }
}

// False, and nothing done, where quantised.inl is as fast.
template <bool FINE>
static bool unpacked_product(const Matrix& m, int which, int t0, int t1, const Activations& x, int rows, float* y,
                             size_t y_stride) {
#define TRILENS_UNPACKED(...)                                                              \
  if constexpr (form<__VA_ARGS__, FINE>() != Form::NOT_UNPACKED) {                         \
    unpacked_product_of<__VA_ARGS__, FINE>(m, which, t0, t1, x, rows, y, y_stride);        \
    return true;                                                                           \
  }                                                                                        \
  return false;
#define TRILENS_QUANT(type, ...) case Type::type: TRILENS_UNPACKED(Quant<__VA_ARGS__>)
#define TRILENS_OCTETS(type) case Type::type: TRILENS_UNPACKED(OctetQuant<Type::type>)
  if (rows < LEAST_ROWS<FINE>) return false;
  switch (m.type) {
    TRILENS_QUANTISED_TYPES(TRILENS_QUANT, TRILENS_OCTETS)
    default: return false;
  }
#undef TRILENS_UNPACKED
#undef TRILENS_QUANT
#undef TRILENS_OCTETS
}
