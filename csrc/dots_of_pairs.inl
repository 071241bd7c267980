// Products of a group's codes, the tile's rows with one row of activations, added: pairs of bytes in 16 bits, as many of
// them as fit (layout.h), then 32. Whole numbers, the same in any order.

template <class Q> struct Dot {
  Bytes code[8], size[8];
  Steps<Q, Q::OFFSET> steps;

  ALWAYS_INLINE explicit Dot(At w) : steps(w + Q::CODES) {
    Q::codes(w, code);
    if constexpr (Q::SIGNED)
      for (int j = 0; j < 8; j++) size[j] = magnitude(code[j]);
  }

  ALWAYS_INLINE Ints with(const Group& x) const {
    if constexpr (Q::SIGNED) {
      Ints total = dot(dot_unsigned(size[0], with_sign(four_b(x.codes), code[0])), steps.low);
      for (int j = 1; j < 8; j++) {
        Words products = dot_unsigned(size[j], with_sign(four_b(x.codes + 4 * j), code[j]));
        total = add(total, dot(products, j < 4 ? steps.low : steps.high));
      }
      return total;
    } else if constexpr (Q::OFFSET == 8 && Q::RUN == 8) {  // may run over on the way; what is left after all fits again
      Words products = pair_w(x.minus_8);
      for (int j = 0; j < 8; j++) products = add(products, dot_unsigned(code[j], four_b(x.codes + 4 * j)));
      return dot(products, steps.low);
    } else {
      Ints total = zero_i();
      for (int h = 0; h < 8; h += Q::RUN) {
        Words products = dot_unsigned(code[h], four_b(x.codes + 4 * h));
        for (int j = h + 1; j < h + Q::RUN; j++) products = add(products, dot_unsigned(code[j], four_b(x.codes + 4 * j)));
        Ints part = dot(products, h < 4 ? steps.low : steps.high);
        total = h == 0 ? part : add(total, part);
      }
      if constexpr (Q::OFFSET != 0) total = sub(total, dot(steps.offsets, pair_w(x.halves)));
      return total;
    }
  }
};
