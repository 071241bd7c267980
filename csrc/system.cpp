#include "system.h"

#include <utility>

#if defined(_WIN32)
#include <io.h>
#include <process.h>
#include <windows.h>
#else
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <mutex>
#endif
#if defined(__linux__)
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

#if defined(_WIN32)
// A mapped file cannot be cut there.
MappedFile::MappedFile(int descriptor, size_t bytes, std::string name) : name_(std::move(name)), bytes_(bytes) {
  HANDLE mapping = CreateFileMappingW((HANDLE)_get_osfhandle(descriptor), nullptr, PAGE_READONLY, 0, 0, nullptr);
  if (mapping) {
    data_ = (uint8_t*)MapViewOfFile(mapping, FILE_MAP_READ, 0, 0, bytes);
    CloseHandle(mapping);
  }
  if (!data_) throw FileChanged(name_ + ": cannot be mapped");
}

MappedFile::~MappedFile() { UnmapViewOfFile(data_); }
void MappedFile::check() const {}
bool MappedFile::same() const { return true; }
#else
// What the handler of the signal looks at: where files are mapped, and which of them were cut.
struct MappedRange {
  std::atomic<bool> taken{false};
  std::atomic<uintptr_t> begin{0}, end{0};
  std::atomic<bool> cut{false};
};
static MappedRange mapped_ranges[64];
static struct sigaction other_bus_action;  // what SIGBUS did before

static void on_bus_error(int signal, siginfo_t* info, void* context) {
  int error = errno;
  if (info->si_code > 0)  // of the processor, not sent by somebody
    for (MappedRange& range : mapped_ranges) {
      uintptr_t at = (uintptr_t)info->si_addr, end = range.end;
      if (at < range.begin || at >= end) continue;
      uintptr_t page = at & ~((uintptr_t)sysconf(_SC_PAGESIZE) - 1);
      range.cut = true;
      if (mmap((void*)page, end - page, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED) {
        errno = error;
        return;
      }
    }
  if (other_bus_action.sa_flags & SA_SIGINFO) {
    other_bus_action.sa_sigaction(signal, info, context);
  } else if (other_bus_action.sa_handler != SIG_DFL && other_bus_action.sa_handler != SIG_IGN) {
    other_bus_action.sa_handler(signal);
  } else if (info->si_code > 0 || other_bus_action.sa_handler == SIG_DFL) {
    struct sigaction usual = {};
    usual.sa_handler = SIG_DFL;
    sigaction(signal, &usual, nullptr);
    raise(signal);  // as soon as this returns
  }
  errno = error;
}

static void handle_bus_errors() {
  static std::once_flag once;
  std::call_once(once, [] {
    struct sigaction ours = {};
    ours.sa_sigaction = on_bus_error;
    ours.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigaction(SIGBUS, &ours, &other_bus_action);
  });
}

static bool stamp(int descriptor, size_t& bytes, int64_t (&changed)[2]) {
  struct stat found;
  if (fstat(descriptor, &found) != 0) return false;
  bytes = (size_t)found.st_size;
#if defined(__APPLE__)
  changed[0] = found.st_mtimespec.tv_sec;
  changed[1] = found.st_mtimespec.tv_nsec;
#else
  changed[0] = found.st_mtim.tv_sec;
  changed[1] = found.st_mtim.tv_nsec;
#endif
  return true;
}

MappedFile::MappedFile(int descriptor, size_t bytes, std::string name) : name_(std::move(name)), bytes_(bytes) {
  handle_bus_errors();
  size_t found = 0;
  descriptor_ = dup(descriptor);
  bool there = descriptor_ >= 0 && stamp(descriptor_, found, changed_) && found == bytes && bytes > 0;
  for (int i = 0; there && slot_ < 0 && i < (int)std::size(mapped_ranges); i++)
    if (!mapped_ranges[i].taken.exchange(true)) slot_ = i;
  void* at = slot_ < 0 ? MAP_FAILED : mmap(nullptr, bytes, PROT_READ, MAP_SHARED, descriptor_, 0);
  if (at == MAP_FAILED) {
    std::string why = there && slot_ < 0 ? "too many files are" : strerror(errno);
    if (slot_ >= 0) mapped_ranges[slot_].taken = false;
    if (descriptor_ >= 0) close(descriptor_);
    throw FileChanged(name_ + ": cannot be mapped: " + why);
  }
  data_ = (uint8_t*)at;
  MappedRange& range = mapped_ranges[slot_];
  range.cut = false;
  range.begin = (uintptr_t)at;
  range.end = (uintptr_t)at + bytes;
}

MappedFile::~MappedFile() {
  MappedRange& range = mapped_ranges[slot_];
  range.end = range.begin = 0;
  munmap(data_, bytes_);
  close(descriptor_);
  range.taken = false;
}

bool MappedFile::same() const {
  size_t bytes;
  int64_t changed[2];
  return !mapped_ranges[slot_].cut && stamp(descriptor_, bytes, changed) && bytes == bytes_ &&
         changed[0] == changed_[0] && changed[1] == changed_[1];
}

void MappedFile::check() const {
  if (!same()) throw FileChanged(name_ + ": was changed while it was in use; load the model again");
}
#endif

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
