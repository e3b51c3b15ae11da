#include "elementwise.h"

#include <cmath>

namespace mix::ISA {

template <typename T>
static void silu(const T* x, T* y, int64_t n) {
#pragma omp parallel for simd if (n > 16384)
  for (int64_t i = 0; i < n; ++i) {
    float v = to_float(x[i]);
    y[i] = from_float<T>(v / (1.0f + std::exp(-v)));
  }
}

void silu_f32(const float* x, float* y, int64_t n) { silu(x, y, n); }
void silu_bf16(const bf16* x, bf16* y, int64_t n) { silu(x, y, n); }

}  // namespace mix::ISA
