// What a tile's bytes hold, read group by group of 32 columns, over the lanes of the namespace it is included in.

#define ALWAYS_INLINE __attribute__((always_inline)) inline  // what is left as a call hands its vectors over in memory

enum class Codes { PLAIN, IQ4, MXFP4 };  // what a code is looked up in

template <int bits, Scales kind, int offset_, Codes table_, bool signed_, int run_> struct Quant {
  static constexpr int BITS = bits, OFFSET = offset_, RUN = run_;
  static constexpr Scales KIND = kind;
  static constexpr bool SIGNED = signed_;
  static constexpr bool STEPS = kind == Scales::STEPS_16 || kind == Scales::STEPS_16_MIN || kind == Scales::STEPS_32_MIN;
  static constexpr int CODES = 32 * bits;
  static constexpr int GROUP = CODES + (kind == Scales::HALF_MIN || kind == Scales::STEPS_16_MIN ? 32 : 16);
  static constexpr int HEADER = kind == Scales::STEPS_16 ? 16 : STEPS ? 32 : 0;

  ALWAYS_INLINE static void codes(At w, Bytes out[8]) {
    if constexpr (bits == 8) {
      for (int j = 0; j < 8; j++) out[j] = bytes(w + 32 * j);
    } else {
      for (int j = 0; j < 4; j++) {
        Bytes b = bytes(w + 32 * j);
        out[2 * j] = low_nibbles(b);
        out[2 * j + 1] = high_nibbles(b);
      }
      if constexpr (bits == 6) {
        for (int h = 0; h < 2; h++) {
          Bytes b = bytes(w + 128 + 32 * h);
          out[4 * h] = either(out[4 * h], two_bits_high<0>(b));
          out[4 * h + 1] = either(out[4 * h + 1], two_bits_high<1>(b));
          out[4 * h + 2] = either(out[4 * h + 2], two_bits_high<2>(b));
          out[4 * h + 3] = either(out[4 * h + 3], two_bits_high<3>(b));
        }
      }
      if constexpr (table_ != Codes::PLAIN)
        for (int j = 0; j < 8; j++) out[j] = look_up(table_ == Codes::IQ4 ? IQ4_TABLE : MXFP4_TABLE, out[j]);
    }
  }
};

// The steps of a group's columns 0 to 15 and 16 to 31, and what is taken off each code, times them; 1 where the group has
// one scale. Each number twice, for products of pairs.
template <class Q, int OFFSET> struct Steps {
  Words low = all_w(1), high = all_w(1), offsets = all_w(OFFSET);

  ALWAYS_INLINE explicit Steps(At scales) {
    if constexpr (Q::KIND == Scales::STEPS_32_MIN) low = high = each_twice(scales);
    else if constexpr (Q::STEPS) {
      Words steps = steps_of_two(scales);
      low = evens_twice(steps);
      high = odds_twice(steps);
      if constexpr (OFFSET != 0) offsets = mul(steps, offsets);
    }
  }
};
