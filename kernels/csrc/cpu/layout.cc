#include "layout.h"

#include "vec.h"

namespace mix::ISA {
namespace {

constexpr int64_t kSmall = 16384;  // elements below which one thread does it

template <typename T>
void copy(T* to, const T* from, int64_t n) {
  std::memcpy(static_cast<void*>(to), from, n * sizeof(T));
}

template <typename T>
void run_add(const T* a, const T* b, T* y, int64_t n) {
  parallel_for((n + kSmall - 1) / kSmall, true, [&](int64_t chunk) {
    const int64_t first = chunk * kSmall, count = n - first < kSmall ? n - first : kSmall;
    const T *as = a + first, *bs = b + first;
    T* ys = y + first;
    lanes(count, [&] LANE { put(ys, i, w, at(as, i, w) + at(bs, i, w)); });
  });
}

template <typename T>
void run_join(const T* a, const T* b, T* y, int64_t rows, int64_t a_width, int64_t b_width) {
  const int64_t width = a_width + b_width;
  parallel_for(rows, rows * width > kSmall, [&](int64_t row) {
    copy(y + row * width, a + row * a_width, a_width);
    copy(y + row * width + a_width, b + row * b_width, b_width);
  });
}

template <typename T>
void run_part(const T* y, T* a, T* b, int64_t rows, int64_t a_width, int64_t b_width) {
  const int64_t width = a_width + b_width;
  parallel_for(rows, rows * width > kSmall, [&](int64_t row) {
    copy(a + row * a_width, y + row * width, a_width);
    copy(b + row * b_width, y + row * width + a_width, b_width);
  });
}

template <typename T>
void run_upsample(const Upsample& op, const T* x, T* y) {
  const int64_t line = op.width * op.channels;
  parallel_for(op.batch * op.height, op.batch * op.height * line > kSmall, [&](int64_t row) {
    const T* from = x + row * line;
    T* to = y + row * 4 * line;
    for (int64_t i = 0; i < op.width; ++i)
      for (int64_t twice = 0; twice < 2; ++twice) copy(to + (2 * i + twice) * op.channels, from + i * op.channels, op.channels);
    copy(to + 2 * line, to, 2 * line);
  });
}

template <typename T>
void run_upsample_grad(const Upsample& op, const T* dy, T* dx) {
  const int64_t line = op.width * op.channels;
  parallel_for(op.batch * op.height, op.batch * op.height * line > kSmall, [&](int64_t row) {
    for (int64_t x = 0; x < op.width; ++x) {
      const T *upper = dy + row * 4 * line + 2 * x * op.channels, *lower = upper + 2 * line;
      T* to = dx + row * line + x * op.channels;
      lanes(op.channels, [&] LANE {
        Vec left = at(upper, i, w) + at(lower, i, w), right = at(upper + op.channels, i, w) + at(lower + op.channels, i, w);
        put(to, i, w, left + right);
      });
    }
  });
}

}  // namespace

#define DEFINE(T)                                                                                                         \
  void add(const T* a, const T* b, T* y, int64_t n) { run_add(a, b, y, n); }                                              \
  void join(const T* a, const T* b, T* y, int64_t rows, int64_t aw, int64_t bw) { run_join(a, b, y, rows, aw, bw); }      \
  void part(const T* y, T* a, T* b, int64_t rows, int64_t aw, int64_t bw) { run_part(y, a, b, rows, aw, bw); }            \
  void upsample(const Upsample& op, const T* x, T* y) { run_upsample(op, x, y); }                                         \
  void upsample_grad(const Upsample& op, const T* dy, T* dx) { run_upsample_grad(op, dy, dx); }

DEFINE(float)
DEFINE(bf16)

}  // namespace mix::ISA
