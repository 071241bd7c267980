// Products of a group's codes, the tile's rows with P rows of activations, added: four bytes at a time in 32 bits.
// Whole numbers, the same in any order. Where the processor wants codes without a sign, the others are raised.

constexpr bool SUMS_OF_FOURS = true;

// HALF: 0 and 1 are columns 0 to 15 and 16 to 31 alone.
template <class Q, int P, int HALF = -1> struct Dots {
  Ints total[P];

  // `g`: which group of each row.
  ALWAYS_INLINE Dots(At w, const Group* const* x, const int* g) {
    constexpr int OFFSET = Q::OFFSET + (Q::SIGNED ? RAISED_BY : 0);
    constexpr bool OFFSET_FIRST = OFFSET != 0 && (OFFSET & (OFFSET - 1)) == 0 && !TWO_STEPS<Q>;
    const Steps<Q, OFFSET> steps(w + Q::CODES);
    const Ints low = one_of_two(steps.low), high = one_of_two(steps.high);
    Bytes code[8];
    each_of([&](auto j) __attribute__((always_inline)) {
      code[j] = Q::template code<j>(w);
      if constexpr (Q::SIGNED) code[j] = raised(code[j]);
    }, std::make_integer_sequence<int, 8>());
    for (int m = 0; m < P; m++) {
      const Group& own = x[m][g[m]];
      if constexpr (HALF >= 0) {
        Ints sum = nothing();
        const Fours four = fours(own.codes + 16 * HALF);
        each_of([&](auto j) __attribute__((always_inline)) {
          sum = add_dot_four<j>(sum, code[4 * HALF + j], four);
        }, std::make_integer_sequence<int, 4>());
        total[m] = sub(sum, dot(every_pair(OFFSET << (HALF == 1 ? 16 : 0)), every_pair(own.halves)));
        continue;
      }
      Ints lower = nothing(), upper = nothing();
      if constexpr (OFFSET_FIRST) lower = shifted_left<OFFSET>(every_whole(own.start));
      const Fours left = fours(own.codes), right = fours(own.codes + 16);
      each_of([&](auto j) __attribute__((always_inline)) {
        lower = add_dot_four<j>(lower, code[j], left);
      }, std::make_integer_sequence<int, 4>());
      if constexpr (!TWO_STEPS<Q> && P > 2) upper = lower;
      each_of([&](auto j) __attribute__((always_inline)) {
        upper = add_dot_four<j>(upper, code[4 + j], right);
      }, std::make_integer_sequence<int, 4>());
      if constexpr (TWO_STEPS<Q>) upper = add(mul(lower, low), mul(upper, high));
      else if constexpr (P <= 2) upper = add(lower, upper);
      if constexpr (OFFSET != 0 && !OFFSET_FIRST) upper = sub(upper, dot(steps.offsets, every_pair(own.halves)));
      total[m] = upper;
    }
  }
};
