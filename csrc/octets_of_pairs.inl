// Products of a group's octets (octets.h) with P rows of activations, added: pairs of bytes in 16 bits, four of them at most
// 62 times 127, then 32. The same whole numbers as those of octets_of_fours.inl.

template <class Q, int P> struct OctetDots {
  Ints total[P];

  ALWAYS_INLINE OctetDots(At octets, const uint8_t* table, const Group* const* x, const int* g) {
    const Words steps = steps_of_two(octets + OCTET_STEPS), low = evens_twice(steps), high = odds_twice(steps);
    Words products[2][P];
    Ints sums[2][P];
    each_of([&](auto number) __attribute__((always_inline)) {
      constexpr int j = number, half = j % 2;
      Bytes size, sign;  // of entries with signs the size is the entry
      if constexpr (has_shift(Q::TYPE)) sign = octet_code<Q, j>(octets, table), size = magnitude(sign);
      else size = octet_entries<Q, j>(octets, table), sign = either(sign_bytes(octets + (OCTET_SIGNS + 4 * j)), every_byte(1));
      for (int m = 0; m < P; m++) {
        Words two = dot_unsigned(size, with_sign(every_eight(x[m][g[m]].codes + 8 * (j / 2)), sign));
        products[half][m] = j % 4 < 2 ? two : add(products[half][m], two);
        if constexpr (j % 4 >= 2) {
          const Words step = j < 4 ? low : high;
          Ints part = dot(products[half][m], half ? last_twice(step) : first_twice(step));
          sums[half][m] = j < 4 ? part : add(sums[half][m], part);
        }
      }
    }, std::make_integer_sequence<int, 8>());
    for (int m = 0; m < P; m++) total[m] = sums_of_two(sums[0][m], sums[1][m]);
  }
};
