// What a tile's bytes hold, read group by group of 32 columns, over the lanes of the namespace it is included in; also the
// list of quantised types, and `fetch`.

#define ALWAYS_INLINE __attribute__((always_inline)) inline  // what is left as a call hands its vectors over in memory

enum class Codes { PLAIN, IQ4, MXFP4, NF4, FP4 };  // what a code is looked up in

constexpr const int8_t* table_of(Codes codes) {
  return codes == Codes::IQ4 ? IQ4_TABLE : codes == Codes::NF4 ? NF4_TABLE : codes == Codes::FP4 ? FP4_TABLE : MXFP4_TABLE;
}

// `one_step`: both steps of a group are the same number.
template <int bits, Scales kind, int offset_, Codes table_, bool signed_, int run_, bool one_step = false> struct Quant {
  static constexpr int BITS = bits, OFFSET = offset_, RUN = run_;
  static constexpr Scales KIND = kind;
  static constexpr Codes TABLE = table_;
  static constexpr bool SIGNED = signed_, ONE_STEP = one_step;
  static constexpr bool STEPS = kind == Scales::STEPS_16 || kind == Scales::STEPS_16_MIN || kind == Scales::STEPS_32_MIN;
  static constexpr int CODES = 32 * bits;
  static constexpr int GROUP = CODES + (kind == Scales::HALF_MIN || kind == Scales::STEPS_16_MIN ? 32 : 16);
  static constexpr int HEADER = kind == Scales::STEPS_16 ? 16 : STEPS || kind == Scales::FLOATS_16 ? 32 : 0;

  // Columns 4j to 4j + 3 of the tile's rows.
  template <int j> ALWAYS_INLINE static Bytes code(At w) {
    if constexpr (bits == 8) return bytes(w + 32 * j);
    Bytes two = bytes(w + 32 * (j / 2)), one = j % 2 ? high_nibbles(two) : low_nibbles(two);
    if constexpr (bits == 6) one = either(one, two_bits_high<j % 4>(bytes(w + (128 + 32 * (j / 4)))));
    if constexpr (table_ != Codes::PLAIN) one = look_up(table_of(table_), one);
    return one;
  }
};

template <class Q> constexpr bool TWO_STEPS = (Q::KIND == Scales::STEPS_16 || Q::KIND == Scales::STEPS_16_MIN) && !Q::ONE_STEP;

// The steps of a group's columns 0 to 15 and 16 to 31, and what is taken off each code, times them; 1 where the group has
// one scale. Each number twice, for products of pairs.
template <class Q, int OFFSET> struct Steps {
  Words low = every_word(1), high = every_word(1), offsets = every_word(OFFSET);

  ALWAYS_INLINE explicit Steps(At scales) {
    if constexpr (TWO_STEPS<Q>) {
      Words steps = steps_of_two(scales);
      low = evens_twice(steps);
      high = odds_twice(steps);
      if constexpr (OFFSET != 0) offsets = mul(steps, offsets);
    }
  }
};

// Before every 8 groups: `d`, and `least` of types with steps and minima. Moves `w` behind it.
template <class Q> ALWAYS_INLINE static void read_header(At& w, Floats& d, Floats& least) {
  if constexpr (Q::HEADER > 0) {
    d = Q::KIND == Scales::FLOATS_16 ? floats(w) : halves(w);
    if constexpr (Q::HEADER == 32 && Q::STEPS) least = halves(w + 16);
    w = w + Q::HEADER;
  }
}

// What a group's codes are multiplied with, from its scales; sets `d` and `least` where they lie in the group.
template <class Q> ALWAYS_INLINE static Floats read_unit(At s, Floats& d, Floats& least) {
  if constexpr (Q::HEADER == 0) {
    d = Q::KIND == Scales::BFLOAT ? bfloats(s) : halves(s);
    if constexpr (Q::KIND == Scales::HALF_MIN) least = halves(s + 16);
    if constexpr (Q::KIND == Scales::HALF_MIN && Q::BITS == 8) least = fma(d, every(128), least);  // codes from -128
  }
  // exact: a half times a whole number of six bits and a sign
  if constexpr (Q::KIND == Scales::STEPS_32_MIN) return mul(d, small_numbers(s));
  if constexpr (Q::ONE_STEP) return mul(d, to_float(dot(steps_of_two(s), every_pair(1))));  // the first of each two
  return d;
}

// f(0), f(1), ... f(n - 1), each with its number as a constant.
template <class F, int... j> ALWAYS_INLINE static void each_of(F f, std::integer_sequence<int, j...>) {
  (f(std::integral_constant<int, j>()), ...);
}

template <Type type_> struct OctetQuant {
  static constexpr Type TYPE = type_;
  static constexpr Scales KIND = Scales::OCTETS;
  static constexpr int GROUP = octet_bytes(type_);
};

// Eight columns of four rows, as numbers with a sign: columns 8 (j / 2) on, and of every four rows the first or last two.
template <class Q, int j> ALWAYS_INLINE static Bytes octet_entries(At octets, const uint8_t* table) {
  return of_fours(Q::TYPE) ? fours_of(table, octets + 16 * j) : eights(table, octets + 8 * j);
}
template <class Q, int j> ALWAYS_INLINE static Bytes octet_code(At octets, const uint8_t* table) {
  const Bytes signs = sign_bytes(octets + (OCTET_SIGNS + 4 * j)), entries = octet_entries<Q, j>(octets, table);
  return has_shift(Q::TYPE) ? two_less_where(entries, signs) : negative_where(entries, signs);
}

// The quantised types.
#define TRILENS_QUANTISED_TYPES(QUANT, OCTETS) \
  QUANT(Q4_0, 4, Scales::HALF, 8, Codes::PLAIN, false, 8)           \
  QUANT(Q4_1, 4, Scales::HALF_MIN, 0, Codes::PLAIN, false, 8)       \
  QUANT(Q5_0, 6, Scales::HALF, 16, Codes::PLAIN, false, 4)          \
  QUANT(Q5_1, 6, Scales::HALF_MIN, 0, Codes::PLAIN, false, 4)       \
  QUANT(Q8_0, 8, Scales::HALF, 0, Codes::PLAIN, true, 1)            \
  QUANT(Q2_K, 4, Scales::STEPS_16_MIN, 0, Codes::PLAIN, false, 4)   \
  QUANT(Q3_K, 4, Scales::STEPS_16, 4, Codes::PLAIN, false, 4)       \
  QUANT(Q4_K, 4, Scales::STEPS_32_MIN, 0, Codes::PLAIN, false, 8)   \
  QUANT(Q5_K, 6, Scales::STEPS_32_MIN, 0, Codes::PLAIN, false, 4)   \
  QUANT(Q6_K, 6, Scales::STEPS_16, 32, Codes::PLAIN, false, 2)      \
  QUANT(IQ4_NL, 4, Scales::HALF, 0, Codes::IQ4, true, 1)            \
  QUANT(IQ4_XS, 4, Scales::STEPS_16, 0, Codes::IQ4, true, 1, true)  \
  QUANT(MXFP4, 4, Scales::BFLOAT, 12, Codes::MXFP4, false, 4)       \
  QUANT(NVFP4, 4, Scales::FLOATS_16, 12, Codes::MXFP4, false, 4)    \
  QUANT(NF4, 4, Scales::HALF, 0, Codes::NF4, true, 1)               \
  QUANT(FP4, 4, Scales::HALF, 0, Codes::FP4, true, 1)               \
  QUANT(Q8_MIN, 8, Scales::HALF_MIN, 0, Codes::PLAIN, true, 1)      \
  OCTETS(IQ1_S)                                                     \
  OCTETS(IQ1_M)                                                     \
  OCTETS(IQ2_XXS)                                                   \
  OCTETS(IQ2_XS)                                                    \
  OCTETS(IQ2_S)                                                     \
  OCTETS(IQ3_XXS)                                                   \
  OCTETS(IQ3_S)

// Reads all of it once, in the order in which it lies: memory feeds one quick stream far better than two slow ones, which
// the products of two tiles and many rows are.
static inline void fetch(const uint8_t* p, size_t bytes) {
  for (size_t i = 0; i < bytes; i += 64) (void)*(const volatile uint8_t*)(p + i);
}
