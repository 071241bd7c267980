// Small floats in plain C++. Halves are rounded to the nearest, ties to even: bit for bit what F16C does.
#pragma once
#include <bit>
#include <cstdint>

namespace trilens {

static inline float bf16_to_float(uint16_t h) { return std::bit_cast<float>((uint32_t)h << 16); }

static inline float f16_to_float(uint16_t h) {
  uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = h >> 10 & 31, fraction = h & 0x3ff;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000 | fraction << 13 | (fraction ? 0x400000 : 0));
  if (exponent == 0) {
    float tiny = (float)fraction * 0x1p-24f;  // exact
    return sign ? -tiny : tiny;
  }
  return std::bit_cast<float>(sign | (exponent + 112) << 23 | fraction << 13);
}

// An 8-bit float without a sign: four bits of exponent, three of mantissa.
static inline float e4m3_to_float(uint8_t b) { return std::bit_cast<float>((uint32_t)b << 20) * 0x1p120f; }

static inline uint16_t float_to_f16(float x) {
  uint32_t bits = std::bit_cast<uint32_t>(x), sign = bits >> 16 & 0x8000, size = bits & 0x7fffffff;
  if (size > 0x7f800000) return (uint16_t)(sign | 0x7e00 | (size >> 13 & 0x3ff));
  if (size >= 0x477ff000) return (uint16_t)(sign | 0x7c00);  // rounds to infinity
  if (size < 0x38800000) {                                   // below the smallest normal half
    // Adding 0.5 puts the last bit of a subnormal half at the last bit of the float, so that the addition rounds.
    float shifted = std::bit_cast<float>(size) + 0.5f;
    return (uint16_t)(sign | (std::bit_cast<uint32_t>(shifted) - 0x3f000000));
  }
  uint32_t odd = size >> 13 & 1;
  return (uint16_t)(sign | ((size - 0x38000000 + 0xfff + odd) >> 13));
}

}  // namespace trilens
