// Types whose codes are rows of a table: 8 columns (or twice 4) of a row are one number, and a sign for each of them.
// The tables come from the gguf package when a matrix needs one (grids.py). A tile of such a type has a half d for each
// row before every 8 groups; what is in a group, `write_octets` says. No group is larger than in the file, but for
// IQ1_M's, which has 6 bits of scales in a byte.
//
// Eight columns of four rows are read at a time: rows 0, 1, 4, 5 or 2, 3, 6, 7, so that neighbouring sums added in pairs
// are those of rows 0 to 7.
#pragma once
#include <cstring>

#include "layout.h"

namespace trilens {

// A group of 32 columns of 8 rows. Columns 8k to 8k + 7 of row r are at k * 8 + octet_row(r).
struct Octets {
  uint16_t index[64];  // in the table; of tables of fours two for each 8 columns
  uint8_t signs[32];   // a bit for each column; of types with a shift all bits or none
  int8_t steps[16];    // of each row, for columns 0 to 15 and 16 to 31
};
constexpr int OCTET_SIGNS = 128, OCTET_STEPS = 160;  // where they are in bytes

constexpr int octet_row(int r) { return (r >> 1 & 1) * 4 + (r >> 2) * 2 + (r & 1); }

constexpr bool of_fours(Type type) { return type == Type::IQ3_XXS || type == Type::IQ3_S; }
// Values are table entries (8 times the grid's, plus 1), less 2 where the sign is set; else entries with signs.
constexpr bool has_shift(Type type) { return type == Type::IQ1_S || type == Type::IQ1_M; }
// value = unit * d * step * code
constexpr float octet_unit(Type type) { return type == Type::IQ3_S ? 1.0f : type == Type::IQ3_XXS ? 0.25f : 0.125f; }

constexpr int octet_bytes(Type type) {
  switch (type) {
    case Type::IQ1_S: return 48;
    case Type::IQ1_M: return 56;
    case Type::IQ2_XXS: return 64;
    case Type::IQ2_XS: return 72;
    case Type::IQ2_S: return 80;
    case Type::IQ3_XXS: return 96;
    case Type::IQ3_S: return 108;
    default: return 0;
  }
}

// Signs of seven columns; the eighth makes their number even.
static inline uint8_t even_signs(unsigned seven) {
  unsigned odd = seven ^ seven >> 4;
  odd ^= odd >> 2;
  odd ^= odd >> 1;
  return (uint8_t)(seven | (odd & 1) << 7);
}

template <Type type> static inline void read_octets(const uint8_t* at, Octets& out) {
  if constexpr (type == Type::IQ2_XS) {
    uint16_t words[32];
    memcpy(words, at, 64);
    for (int i = 0; i < 32; i++) out.index[i] = words[i] & 511;
    for (int i = 0; i < 32; i++) {
      uint16_t seven = words[i] >> 9, odd = seven ^ seven >> 4;
      odd ^= odd >> 2;
      odd ^= odd >> 1;
      out.signs[i] = (uint8_t)(seven | odd << 7);
    }
  } else if constexpr (type == Type::IQ2_XXS || type == Type::IQ3_XXS) {
    constexpr int COUNT = type == Type::IQ2_XXS ? 32 : 64;
    uint32_t words[8];
    memcpy(words, at + COUNT, 32);
    for (int i = 0; i < COUNT; i++) out.index[i] = at[i];
    for (int k = 0; k < 4; k++)
      for (int q = 0; q < 8; q++) out.signs[8 * k + q] = even_signs(words[q] >> (7 * k) & 127);
    for (int r = 0; r < 8; r++) out.steps[2 * r] = out.steps[2 * r + 1] = (int8_t)(2 * (words[octet_row(r)] >> 28) + 1);
  } else if constexpr (type == Type::IQ2_S) {
    for (int k = 0; k < 4; k++)
      for (int q = 0; q < 8; q++) out.index[8 * k + q] = (uint16_t)(at[8 * k + q] | (at[64 + q] >> (2 * k) & 3) << 8);
    memcpy(out.signs, at + 32, 32);
  } else if constexpr (type == Type::IQ3_S) {
    for (int k = 0; k < 4; k++)
      for (int q = 0; q < 8; q++)
        for (int h = 0; h < 2; h++)
          out.index[16 * k + 2 * q + h] = (uint16_t)(at[16 * k + 2 * q + h] | (at[64 + q] >> (2 * k + h) & 1) << 8);
    memcpy(out.signs, at + 72, 32);
    for (int r = 0; r < 8; r++) out.steps[2 * r] = out.steps[2 * r + 1] = (int8_t)(2 * (at[104 + r / 2] >> (r % 2 * 4) & 15) + 1);
  } else if constexpr (type == Type::IQ1_S) {
    uint16_t words[8];
    memcpy(words, at + 32, 16);
    for (int k = 0; k < 4; k++)
      for (int q = 0; q < 8; q++) {
        out.index[8 * k + q] = (uint16_t)(at[8 * k + q] | (words[q] >> (3 * k) & 7) << 8);
        out.signs[8 * k + q] = words[q] >> 15 ? 0xff : 0;
      }
    for (int r = 0; r < 8; r++) out.steps[2 * r] = out.steps[2 * r + 1] = (int8_t)(2 * (words[octet_row(r)] >> 12 & 7) + 1);
  } else {
    static_assert(type == Type::IQ1_M);
    for (int k = 0; k < 4; k++)
      for (int q = 0; q < 8; q++) {
        int four = at[32 + k / 2 * 8 + q] >> (k % 2 * 4);
        out.index[8 * k + q] = (uint16_t)(at[8 * k + q] | (four & 7) << 8);
        out.signs[8 * k + q] = four & 8 ? 0xff : 0;
      }
    for (int r = 0; r < 8; r++)
      for (int h = 0; h < 2; h++) out.steps[2 * r + h] = (int8_t)(2 * (at[48 + r] >> (3 * h) & 7) + 1);
  }
  if constexpr (type == Type::IQ2_XS || type == Type::IQ2_S)  // four bits for 16 columns
    for (int r = 0; r < 8; r++)
      for (int h = 0; h < 2; h++) out.steps[2 * r + h] = (int8_t)(2 * (at[octet_bytes(type) - 8 + r] >> (4 * h) & 15) + 1);
}

// Group g, 0 to 7, of a block of the file: row r's part of a group of a tile.
static inline void write_octets(Type type, const uint8_t* block, int g, int r, uint8_t* at) {
  const int q = octet_row(r);
  auto bytes = [&](const uint8_t* from, uint8_t* to) {  // one for each 8 columns
    for (int k = 0; k < 4; k++) to[8 * k + q] = from[k];
  };
  auto twos = [&](const uint8_t* from) {
    for (int k = 0; k < 4; k++) memcpy(at + 2 * (8 * k + q), from + 2 * k, 2);
  };
  switch (type) {
    case Type::IQ2_XXS:
      bytes(block + 2 + 8 * g, at);
      memcpy(at + 32 + 4 * q, block + 6 + 8 * g, 4);
      break;
    case Type::IQ2_XS:
      twos(block + 2 + 8 * g);
      at[64 + r] = block[66 + g];
      break;
    case Type::IQ2_S:
      bytes(block + 2 + 4 * g, at);
      bytes(block + 34 + 4 * g, at + 32);
      at[64 + q] = block[66 + g];
      at[72 + r] = block[74 + g];
      break;
    case Type::IQ3_XXS:
      twos(block + 2 + 8 * g);
      memcpy(at + 64 + 4 * q, block + 66 + 4 * g, 4);
      break;
    case Type::IQ3_S:
      twos(block + 2 + 8 * g);
      at[64 + q] = block[66 + g];
      bytes(block + 74 + 4 * g, at + 72);
      at[104 + r / 2] = (uint8_t)((at[104 + r / 2] & (r % 2 ? 0x0f : 0xf0)) | (block[106 + g / 2] >> (g % 2 * 4) & 15) << (r % 2 * 4));
      break;
    case Type::IQ1_S:
      bytes(block + 2 + 4 * g, at);
      memcpy(at + 32 + 2 * q, block + 34 + 2 * g, 2);
      break;
    case Type::IQ1_M: {
      bytes(block + 4 * g, at);
      at[32 + q] = block[32 + 2 * g];
      at[40 + q] = block[33 + 2 * g];
      uint16_t scales;
      memcpy(&scales, block + 48 + g / 2 * 2, 2);
      at[48 + r] = (uint8_t)(scales >> (g % 2 * 6) & 63);
      break;
    }
    default: break;
  }
}

// The half that everything in a block is multiplied with.
static inline uint16_t octet_half(Type type, const uint8_t* block) {
  uint16_t h;
  memcpy(&h, block, 2);
  if (type != Type::IQ1_M) return h;
  uint16_t s[4];  // four bits in each of four words
  memcpy(s, block + 48, 8);
  return (uint16_t)(s[0] >> 12 | (s[1] >> 8 & 0xf0) | (s[2] >> 4 & 0xf00) | (s[3] & 0xf000));
}

}  // namespace trilens
