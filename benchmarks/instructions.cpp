// One product of random weights, for benchmarks/instructions.py, which counts the instructions that it takes.
//
//   instructions KERNELS TYPE ROWS TIMES
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "../csrc/kernel_sets.h"

using namespace trilens;

constexpr int OUTPUTS = 16, COLUMNS = 512;

int main(int, char** given) {
  const Kernels* kernels = nullptr;
  for (const Kernels* k : kernel_sets())
    if (!strcmp(k->name, given[1])) kernels = k;
  int type = 0;
  while (type < (int)Type::COUNT && strcmp(layout((Type)type).name, given[2])) type++;
  if (!kernels || type == (int)Type::COUNT) return 1;
  const int rows = atoi(given[3]), times = atoi(given[4]);
  Matrix m{(Type)type, 1, OUTPUTS, COLUMNS, nullptr};
  std::vector<uint8_t> weights(m.bytes() + 4096, 0x11);
  m.data = weights.data();
  std::vector<float> x(rows * COLUMNS, 0.5f), y(rows * OUTPUTS);
  std::vector<Group> groups(rows * COLUMNS / 32);
  for (int row = 0; row < rows; row++) kernels->quantise(x.data() + row * COLUMNS, COLUMNS, row, {groups.data(), COLUMNS / 32, false}, 0);
  Activations a{x.data(), COLUMNS, groups.data(), COLUMNS / 32, false};
  for (int i = 0; i < times; i++) kernels->product(m, 0, 0, m.tiles(), a, rows, y.data(), OUTPUTS);
  return y[0] == 12345.0f;  // so that nobody leaves the product out
}
