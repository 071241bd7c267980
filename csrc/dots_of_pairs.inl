// Products of a group's codes, the tile's rows with P rows of activations, added: pairs of bytes in 16 bits, as many of
// them as fit (layout.h), then 32. Whole numbers, the same in any order.

constexpr bool SUMS_OF_FOURS = false;

// HALF: 0 and 1 are columns 0 to 15 and 16 to 31 alone.
template <class Q, int P, int HALF = -1> struct Dots {
  static_assert(HALF < 0 || Q::RUN <= 4);
  Ints total[P];

  // `g`: which group of each row.
  ALWAYS_INLINE Dots(At w, const Group* const* x, const int* g) {
    const Steps<Q, Q::OFFSET> steps(w + Q::CODES);
    // Less 8 in 16 bits: a sum may run over on its way; what is left in the end fits again.
    constexpr bool OFFSET_FIRST = Q::OFFSET == 8 && Q::RUN == 8;
    Words products[P];
    each_of([&](auto number) __attribute__((always_inline)) {
      constexpr int j = number;
      if constexpr (HALF >= 0 && j / 4 != HALF) return;
      Bytes code = Q::template code<j>(w), size = code;
      if constexpr (Q::SIGNED) size = magnitude(code);
      for (int m = 0; m < P; m++) {
        Bytes own = every_four(x[m][g[m]].codes + 4 * j);
        if constexpr (Q::SIGNED) own = with_sign(own, code);
        Words two = dot_unsigned(size, own);
        if constexpr (OFFSET_FIRST && j == 0) two = add(two, every_pair(x[m][g[m]].start));
        products[m] = j % Q::RUN == 0 ? two : add(products[m], two);
        if constexpr (j % Q::RUN == Q::RUN - 1) {
          Ints part = dot(products[m], j < 4 ? steps.low : steps.high);
          total[m] = j < Q::RUN || (HALF == 1 && j < 4 + Q::RUN) ? part : add(total[m], part);
        }
      }
    }, std::make_integer_sequence<int, 8>());
    if constexpr (Q::OFFSET != 0 && !OFFSET_FIRST) {
      const Words offsets = HALF < 0 ? steps.offsets : every_pair(Q::OFFSET << (HALF == 1 ? 16 : 0));
      for (int m = 0; m < P; m++) total[m] = sub(total[m], dot(offsets, every_pair(x[m][g[m]].halves)));
    }
  }
};
