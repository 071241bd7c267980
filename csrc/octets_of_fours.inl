// Products of a group's octets (octets.h) with P rows of activations, added: four bytes at a time in 32 bits.
// The same whole numbers as those of octets_of_pairs.inl.

template <class Q, int P> struct OctetDots {
  Ints total[P];

  ALWAYS_INLINE OctetDots(At octets, const uint8_t* table, const Group* const* x, const int* g) {
    const Words steps = steps_of_two(octets + OCTET_STEPS), low = evens_twice(steps), high = odds_twice(steps);
    const Words raises = mul(steps, every_word(RAISED_BY));
    Bytes code[8];
    each_of([&](auto j) __attribute__((always_inline)) { code[j] = raised(octet_code<Q, j>(octets, table)); },
            std::make_integer_sequence<int, 8>());
    for (int m = 0; m < P; m++) {
      const Group& own = x[m][g[m]];
      const Bytes eight[4] = {every_eight(own.codes), every_eight(own.codes + 8), every_eight(own.codes + 16), every_eight(own.codes + 24)};
      Ints sums[2];
      for (int half = 0; half < 2; half++) {
        Ints lower = add_dot(add_dot(nothing(), code[half], eight[0]), code[2 + half], eight[1]);
        Ints upper = add_dot(add_dot(nothing(), code[4 + half], eight[2]), code[6 + half], eight[3]);
        Words of_low = half ? last_twice(low) : first_twice(low), of_high = half ? last_twice(high) : first_twice(high);
        sums[half] = add(mul(lower, one_of_two(of_low)), mul(upper, one_of_two(of_high)));
      }
      total[m] = sums_of_two(sums[0], sums[1]);
      if constexpr (RAISED_BY != 0) total[m] = sub(total[m], dot(raises, every_pair(own.halves)));
    }
  }
};
