// What every CPU kernel needs: the instruction set it is compiled for, dispatch by cpuid, bf16, threads.
//
// A file in csrc/cpu is compiled once per instruction set with -DISA=<name>; it defines its functions in namespace mix::ISA.
// DECLARE_KERNEL in its header declares them for every set, CALL_KERNEL picks the best one that this CPU has.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <omp.h>

namespace mix {

enum class Isa { kAvx2, kAvx512, kAvx512Bf16, kNone };

// The best set that this CPU has, or a smaller one that MIXSTUDIO_ISA names (avx2, avx512): tests reach every set that way.
inline Isa isa() {
  static const Isa best = [] {
    const char* wish = std::getenv("MIXSTUDIO_ISA");
    const bool no_bf16 = wish && std::strcmp(wish, "avx512") == 0, no_avx512 = wish && std::strcmp(wish, "avx2") == 0;
    __builtin_cpu_init();
    if (!no_avx512 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni"))
      return !no_bf16 && __builtin_cpu_supports("avx512bf16") ? Isa::kAvx512Bf16 : Isa::kAvx512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c")) return Isa::kAvx2;
    return Isa::kNone;
  }();
  return best;
}

// bf16 is the upper half of a float.
struct bf16 {
  uint16_t bits;
};
static_assert(sizeof(bf16) == 2, "bf16 is two bytes");

inline float to_float(bf16 v) {
  uint32_t wide = static_cast<uint32_t>(v.bits) << 16;
  float out;
  std::memcpy(&out, &wide, 4);
  return out;
}
inline float to_float(float v) { return v; }

inline bf16 to_bf16(float v) {  // round to nearest even, NaN stays NaN
  uint32_t bits;
  std::memcpy(&bits, &v, 4);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return {static_cast<uint16_t>((bits >> 16) | 0x40)};
  return {static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1)) >> 16)};
}
template <typename T>
inline T from_float(float v);
template <>
inline float from_float<float>(float v) { return v; }
template <>
inline bf16 from_float<bf16>(float v) { return to_bf16(v); }

// body(i) for i in [0, n), split evenly over the OpenMP threads; serial when the work is small.
template <typename Body>
inline void parallel_for(int64_t n, bool worth, const Body& body) {
#pragma omp parallel for schedule(static) if (worth && n > 1)
  for (int64_t i = 0; i < n; ++i) body(i);
}

}  // namespace mix

#define DECLARE_KERNEL(result, name, ...)            \
  namespace mix {                                    \
  namespace avx2 { result name(__VA_ARGS__); }       \
  namespace avx512 { result name(__VA_ARGS__); }     \
  namespace avx512bf16 { result name(__VA_ARGS__); } \
  }

// CALL_KERNEL(silu, x, y, n): the function of the best instruction set here.
#define CALL_KERNEL(name, ...)                                                       \
  (mix::isa() == mix::Isa::kAvx512Bf16 ? mix::avx512bf16::name(__VA_ARGS__)          \
   : mix::isa() == mix::Isa::kAvx512   ? mix::avx512::name(__VA_ARGS__)              \
                                       : mix::avx2::name(__VA_ARGS__))
