#include "system.h"

#if defined(_WIN32)
#include <process.h>
#else
#include <unistd.h>
#endif
#if defined(__linux__)
#include <sys/mman.h>
#if defined(__aarch64__)
#include <sys/auxv.h>
#endif
#endif
#if defined(__APPLE__)
#include <sys/sysctl.h>
#endif
#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>

#include <cstdint>
#else
#include <thread>
#endif

namespace trilens {

long process_number() {
#if defined(_WIN32)
  return _getpid();
#else
  return getpid();
#endif
}

void want_huge_pages([[maybe_unused]] void* memory, [[maybe_unused]] size_t bytes) {
#if defined(__linux__)
  madvise(memory, bytes, MADV_HUGEPAGE);
#endif
}

#if defined(__x86_64__)
static bool keeps_registers(uint32_t wanted) {  // of XCR0
  uint32_t a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c >> 27 & 1)) return false;  // OSXSAVE
  asm volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
  return (a & wanted) == wanted;
}

bool has_avx2() {
  uint32_t a, b, c, d;
  if (!keeps_registers(0x06) || !__get_cpuid(1, &a, &b, &c, &d)) return false;
  bool fma = c >> 12 & 1, avx = c >> 28 & 1, f16c = c >> 29 & 1;
  return fma && avx && f16c && __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b >> 5 & 1);
}

bool has_avx512() {
  uint32_t a, b, c, d;
  if (!has_avx2() || !keeps_registers(0xe6) || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  bool f = b >> 16 & 1, dq = b >> 17 & 1, bw = b >> 30 & 1, vl = b >> 31 & 1, vnni = c >> 11 & 1;
  return f && dq && bw && vl && vnni;
}
#else
bool has_avx2() { return false; }
bool has_avx512() { return false; }
#endif

#if defined(__aarch64__) && defined(__linux__)
bool has_dot_products() { return getauxval(AT_HWCAP) >> 20 & 1; }  // HWCAP_ASIMDDP
#elif defined(__aarch64__) && defined(__APPLE__)
bool has_dot_products() {
  int have = 0;
  size_t size = sizeof have;
  return sysctlbyname("hw.optional.arm.FEAT_DotProd", &have, &size, nullptr, 0) == 0 && have;
}
#else
bool has_dot_products() { return false; }
#endif

void pause_briefly() {
#if defined(__x86_64__)
  _mm_pause();
#else
  std::this_thread::yield();
#endif
}

}  // namespace trilens
