// Layer norm, RMS norm (both over the last axis) and rotary embedding: one row at a time, which stays in the cache.
#include "norm.h"

#include "vec.h"

namespace mix::ISA {
namespace {

constexpr int64_t kParts = 64;  // jobs for the weight gradients; fixed, so that results do not depend on the threads

template <typename T>
void normalise(const RowNorm& op, const T* x, T* y, float* mean, float* rstd) {
  const int64_t n = op.channels;
  parallel_for(op.rows, op.rows * n > 16384, [&](int64_t row) {
    const T* xs = x + row * n;
    T* ys = y + row * n;
    Vec total, square;
    float centre = 0;
    if (op.centre) {
      lanes(n, [&] LANE { total += at(xs, i, w); });
      centre = sum(total) / static_cast<float>(n);
    }
    const Vec mid(centre);
    int64_t i = 0;
    for (; i + Vec::kLanes <= n; i += Vec::kLanes) {
      Vec d = load(xs + i) - mid;
      square = fma(d, d, square);
    }
    float spread = sum(square);
    for (; i < n; ++i) spread += (to_float(xs[i]) - centre) * (to_float(xs[i]) - centre);
    const float scale = 1.0f / __builtin_sqrtf(spread / static_cast<float>(n) + op.eps);
    if (op.centre) mean[row] = centre;
    rstd[row] = scale;
    const Vec s(scale);
    if (op.weight && op.bias) {
      lanes(n, [&] LANE { put(ys, i, w, fma((at(xs, i, w) - mid) * s, at(op.weight, i, w), at(op.bias, i, w))); });
    } else {
      lanes(n, [&] LANE {
        Vec h = (at(xs, i, w) - mid) * s;
        if (op.weight) h = h * at(op.weight, i, w);
        put(ys, i, w, op.bias ? h + at(op.bias, i, w) : h);
      });
    }
  });
}

// dx = rstd (g - mean(g) - xhat mean(g xhat)), g = dy weight; RMS norm has no mean(g). Also adds dy xhat and dy to the sums.
template <typename T>
void row_gradient(const RowNorm& op, const T* xs, const T* dys, float centre, float scale, T* dxs, float* d_weight, float* d_bias) {
  const int64_t n = op.channels;
  const Vec mid(centre), s(scale);
  Vec first, second;
  lanes(n, [&] LANE {
    Vec xhat = (at(xs, i, w) - mid) * s, dy = at(dys, i, w), g = op.weight ? dy * at(op.weight, i, w) : dy;
    first += g;  // dy is 0 beyond the end of a row, so a partial register adds nothing
    second = fma(g, xhat, second);
    if (d_weight) put(d_weight, i, w, fma(dy, xhat, at(d_weight, i, w)));
    if (d_bias) put(d_bias, i, w, at(d_bias, i, w) + dy);
  });
  const Vec a(op.centre ? sum(first) / static_cast<float>(n) : 0.0f), b(sum(second) / static_cast<float>(n));
  lanes(n, [&] LANE {
    Vec xhat = (at(xs, i, w) - mid) * s, g = op.weight ? at(dys, i, w) * at(op.weight, i, w) : at(dys, i, w);
    put(dxs, i, w, (g - a - xhat * b) * s);
  });
}

template <typename T>
void gradient(const RowNorm& op, const T* x, const T* dy, const float* mean, const float* rstd, T* dx, float* d_weight, float* d_bias) {
  const int64_t n = op.channels, parts = op.rows < kParts ? (op.rows < 1 ? 1 : op.rows) : kParts;
  Scratch<float> sums(parts * 2 * n);
  std::memset(sums.get(), 0, parts * 2 * n * sizeof(float));
  parallel_for(parts, op.rows * n > 16384, [&](int64_t part) {
    float* mine = &sums[part * 2 * n];
    for (int64_t row = op.rows * part / parts; row < op.rows * (part + 1) / parts; ++row)
      row_gradient(op, x + row * n, dy + row * n, op.centre ? mean[row] : 0.0f, rstd[row], dx + row * n, d_weight ? mine : nullptr,
                   d_bias ? mine + n : nullptr);
  });
  for (int k = 0; k < 2; ++k) {
    float* total = k == 0 ? d_weight : d_bias;
    if (total == nullptr) continue;
    std::memset(total, 0, n * sizeof(float));
    for (int64_t part = 0; part < parts; ++part) {
      const float* mine = &sums[(part * 2 + k) * n];
      lanes(n, [&] LANE { put(total, i, w, at(total, i, w) + at(mine, i, w)); });
    }
  }
}

// ---- rope

template <typename T>
void turn_halves(const T* x, T* y, const float* cos, const float* sin, int64_t half, Vec direction) {
  lanes(half, [&] LANE {
    Vec a = at(x, i, w), b = at(x + half, i, w), c = at(cos, i, w), s = at(sin, i, w) * direction;
    put(y, i, w, fnma(b, s, a * c));
    put(y + half, i, w, fma(a, s, b * c));
  });
}

// Adjacent pairs: y = x cos + swapped(x) sin, with cos doubled and sin doubled and signed (-s, s) beforehand.
template <typename T>
void turn_pairs(const T* x, T* y, const float* cos, const float* sin, int64_t width) {
  lanes(width, [&] LANE {
    Vec v = at(x, i, w);
    put(y, i, w, fma(swap_pairs(v), at(sin, i, w), v * at(cos, i, w)));
  });
}

template <typename T>
void turn(const Rope& op, const T* x, T* y) {
  const int64_t half = op.width / 2;
  parallel_for(op.batch * op.length, op.batch * op.length * op.heads * op.width > 16384, [&](int64_t token) {
    const int64_t angle = (op.per_batch ? token : token % op.length) * half;
    const float *cos = op.cos + angle, *sin = op.sin + angle;
    const int64_t first = token * op.heads * op.width;
    if (!op.interleaved) {
      for (int64_t h = 0; h < op.heads; ++h)
        turn_halves(x + first + h * op.width, y + first + h * op.width, cos, sin, half, Vec(op.direction));
      return;
    }
    Scratch<float> twice(2 * op.width);
    float *c = twice.get(), *s = c + op.width;
    for (int64_t i = 0; i < half; ++i) {
      c[2 * i] = c[2 * i + 1] = cos[i];
      s[2 * i] = -op.direction * sin[i];
      s[2 * i + 1] = op.direction * sin[i];
    }
    for (int64_t h = 0; h < op.heads; ++h) turn_pairs(x + first + h * op.width, y + first + h * op.width, c, s, op.width);
  });
}

}  // namespace

#define DEFINE(T)                                                                                                            \
  void row_norm(const RowNorm& op, const T* x, T* y, float* mean, float* rstd) { normalise(op, x, y, mean, rstd); }          \
  void row_norm_grad(const RowNorm& op, const T* x, const T* dy, const float* mean, const float* rstd, T* dx, float* dw,     \
                     float* db) {                                                                                            \
    gradient(op, x, dy, mean, rstd, dx, dw, db);                                                                             \
  }                                                                                                                          \
  void rope(const Rope& op, const T* x, T* y) { turn(op, x, y); }

DEFINE(float)
DEFINE(bf16)

}  // namespace mix::ISA
