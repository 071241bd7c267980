// Products of a group's codes, the tile's rows with one row of activations, added: four bytes at a time in 32 bits (VNNI).
// Whole numbers, the same in any order; codes with a sign are read 128 higher.

template <class Q> struct Dot {
  static constexpr int OFFSET = Q::OFFSET + (Q::SIGNED ? 128 : 0);
  static constexpr bool TWO_STEPS = Q::KIND == Scales::STEPS_16 || Q::KIND == Scales::STEPS_16_MIN;
  Bytes code[8];
  Steps<Q, OFFSET> steps;
  Ints low, high;

  ALWAYS_INLINE explicit Dot(At w) : steps(w + Q::CODES), low(one_of_two(steps.low)), high(one_of_two(steps.high)) {
    Q::codes(w, code);
    if constexpr (Q::SIGNED)
      for (int j = 0; j < 8; j++) code[j] = plus_128(code[j]);
  }

  ALWAYS_INLINE Ints with(const Group& x) const {
    Ints total = zero_i(), upper = zero_i();
    for (int j = 0; j < 4; j++) total = add_dot_four(total, code[j], four_b(x.codes + 4 * j));
    for (int j = 4; j < 8; j++) {
      if constexpr (TWO_STEPS) upper = add_dot_four(upper, code[j], four_b(x.codes + 4 * j));
      else total = add_dot_four(total, code[j], four_b(x.codes + 4 * j));
    }
    if constexpr (TWO_STEPS) total = add(mul(total, low), mul(upper, high));
    else if constexpr (Q::STEPS) total = mul(total, low);
    if constexpr (OFFSET != 0) total = sub(total, dot(steps.offsets, pair_w(x.halves)));
    return total;
  }
};
