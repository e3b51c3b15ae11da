// Two passes over x. Statistics: per block of rows that fits the cache, a mean and then squared distances from it, for each
// channel; blocks join by Chan's formula in double. Nothing is squared before its mean is off, so no digits are lost.
#include "norm.h"

#include "vec.h"

namespace mix::ISA {
namespace {

constexpr int64_t kBlockBytes = 128 << 10;
constexpr int64_t kPartSize = 32768;  // elements that are worth a job
constexpr int64_t kParts = 32;  // jobs a sample is split into at most; fixed, so that results do not depend on the threads

struct Plan {
  int64_t block, parts;  // rows of a block; blocks go to parts, part p having rows [begin(p), begin(p + 1))
  int64_t rows;
  Plan(const GroupNorm& op, int64_t bytes) : rows(op.rows) {
    block = kBlockBytes / (op.channels * bytes);
    block = block < 1 ? 1 : block > rows ? (rows < 1 ? 1 : rows) : block;
    const int64_t blocks = (rows + block - 1) / block, enough = rows * op.channels / kPartSize;
    parts = blocks < kParts ? blocks : kParts;
    parts = enough < parts ? enough : parts;
    parts = parts < 1 ? 1 : parts;
  }
  int64_t begin(int64_t part) const {
    const int64_t blocks = (rows + block - 1) / block, first = blocks * part / parts * block;
    return first < rows ? first : rows;
  }
};

// total[c] = sum over n rows of f(x[c]), four rows at a time so that the totals are loaded and stored less often
template <typename T, typename F>
inline __attribute__((always_inline)) void sum_over_rows(const T* x, int64_t n, int64_t channels, float* total, const F& f) {
  std::memset(total, 0, channels * sizeof(float));
  int64_t r = 0;
  for (; r + 4 <= n; r += 4) {
    const T *a = x + r * channels, *b = a + channels, *c = b + channels, *d = c + channels;
    lanes(channels, [&] LANE {
      Vec first = f(at(a, i, w), i, w) + f(at(b, i, w), i, w), second = f(at(c, i, w), i, w) + f(at(d, i, w), i, w);
      put(total, i, w, at(total, i, w) + (first + second));
    });
  }
  for (; r < n; ++r) {
    const T* a = x + r * channels;
    lanes(channels, [&] LANE { put(total, i, w, at(total, i, w) + f(at(a, i, w), i, w)); });
  }
}

// mean[c] and m2[c] of the channels of rows [first, last), for one part of one sample
template <typename T>
void part_statistics(const T* x, int64_t channels, const Plan& plan, int64_t part, double* mean, double* m2) {
  Scratch<float> sum(channels), square(channels);
  for (int64_t c = 0; c < channels; ++c) mean[c] = m2[c] = 0;
  const int64_t first = plan.begin(part), last = plan.begin(part + 1);
  for (int64_t row = first; row < last; row += plan.block) {
    const int64_t end = row + plan.block < last ? row + plan.block : last, n = end - row;
    const T* lines = x + row * channels;
    sum_over_rows(lines, n, channels, sum.get(), [&](Vec v, int64_t, int) __attribute__((always_inline)) { return v; });
    const Vec inverse(1.0f / static_cast<float>(n));
    lanes(channels, [&] LANE { put(sum.get(), i, w, at(sum.get(), i, w) * inverse); });
    sum_over_rows(lines, n, channels, square.get(), [&](Vec v, int64_t i, int w) __attribute__((always_inline)) {
      Vec d = v - at(sum.get(), i, w);
      return d * d;
    });
    const double before = static_cast<double>(row - first), share = n / (before + n);
    for (int64_t c = 0; c < channels; ++c) {
      const double delta = sum[c] - mean[c];
      mean[c] += delta * share;
      m2[c] += square[c] + delta * delta * before * share;
    }
  }
}

// Join the parts of one sample into each channel's mean and squared distances, left in those of the first part; then channels
// into groups.
void join(const GroupNorm& op, const Plan& plan, double* mean, double* m2, const float* shift, float* out_mean, float* out_rstd) {
  const int64_t n = op.channels, width = n / op.groups;
  double seen = static_cast<double>(plan.begin(1));
  for (int64_t p = 1; p < plan.parts; ++p) {
    const double more = static_cast<double>(plan.begin(p + 1) - plan.begin(p)), share = more / (seen + more);
    const double *other = mean + p * n, *square = m2 + p * n;
    for (int64_t c = 0; c < n; ++c) {
      const double delta = other[c] - mean[c];
      mean[c] += delta * share;
      m2[c] += square[c] + delta * delta * seen * share;
    }
    seen += more;
  }
  for (int64_t g = 0; g < op.groups; ++g) {
    double centre = 0, spread = 0;
    for (int64_t c = g * width; c < (g + 1) * width; ++c) centre += mean[c] + (shift ? shift[c] : 0.0f);
    centre /= static_cast<double>(width);
    for (int64_t c = g * width; c < (g + 1) * width; ++c) {
      const double delta = mean[c] + (shift ? shift[c] : 0.0f) - centre;
      spread += m2[c] + static_cast<double>(op.rows) * delta * delta;
    }
    out_mean[g] = static_cast<float>(centre);
    out_rstd[g] = static_cast<float>(1.0 / __builtin_sqrt(spread / static_cast<double>(op.rows * width) + op.eps));
  }
}

const float* shift_of(const GroupNorm& op, int64_t b) { return op.shift ? op.shift + b * op.channels : nullptr; }

// x is normalised as (x - centre[c]) * rstd of the group, centre = mean - shift.
void spread_over_channels(const GroupNorm& op, int64_t b, const float* mean, const float* rstd, float* centre, float* scale) {
  const int64_t width = op.channels / op.groups;
  const float* shift = shift_of(op, b);
  for (int64_t g = 0; g < op.groups; ++g)
    for (int64_t c = g * width; c < (g + 1) * width; ++c) {
      centre[c] = mean[b * op.groups + g] - (shift ? shift[c] : 0.0f);
      scale[c] = rstd[b * op.groups + g];
    }
}

template <typename T>
void forward(const GroupNorm& op, const T* x, T* y, float* mean, float* rstd) {
  if (op.batch * op.rows * op.channels == 0) return;
  const Plan plan(op, sizeof(T));
  const int64_t jobs = op.batch * plan.parts, area = op.rows * op.channels;
  const bool worth = op.batch * area > 16384;
  Scratch<double> means(jobs * op.channels), squares(jobs * op.channels);
  parallel_for(jobs, worth, [&](int64_t job) {
    part_statistics(x + job / plan.parts * area, op.channels, plan, job % plan.parts, &means[job * op.channels], &squares[job * op.channels]);
  });
  for (int64_t b = 0; b < op.batch; ++b) {
    const int64_t at_b = b * plan.parts * op.channels;
    join(op, plan, &means[at_b], &squares[at_b], shift_of(op, b), mean + b * op.groups, rstd + b * op.groups);
  }
  parallel_for(jobs, worth, [&](int64_t job) {
    const int64_t b = job / plan.parts, part = job % plan.parts;
    Scratch<float> centre(op.channels), scale(op.channels);
    spread_over_channels(op, b, mean, rstd, centre.get(), scale.get());
    lanes(op.channels, [&] LANE { put(scale.get(), i, w, at(scale.get(), i, w) * at(op.weight, i, w)); });
    for (int64_t r = plan.begin(part); r < plan.begin(part + 1); ++r) {
      const T* line = x + b * area + r * op.channels;
      T* out = y + b * area + r * op.channels;
      const auto normal = [&](int64_t i, int w) __attribute__((always_inline)) {
        return fma(at(line, i, w) - at(centre.get(), i, w), at(scale.get(), i, w), at(op.bias, i, w));
      };
      if (op.silu) {
        lanes(op.channels, [&] LANE {
          Vec h = max(Vec(-128.0f), normal(i, w));
          put(out, i, w, h * sigmoid(h));
        });
      } else {
        lanes(op.channels, [&] LANE { put(out, i, w, normal(i, w)); });
      }
    }
  });
}

struct Channel {  // what one row of the gradient needs, for 16 channels
  Vec xhat, dh;
};

template <typename T>
inline __attribute__((always_inline)) Channel channel(const GroupNorm& op, const T* x, const T* dy, const float* centre, const float* rstd, int64_t i, int w) {
  Vec xhat = (at(x, i, w) - at(centre, i, w)) * at(rstd, i, w), dh = at(dy, i, w);
  if (op.silu) {
    Vec h = min(Vec(128.0f), max(Vec(-128.0f), fma(xhat, at(op.weight, i, w), at(op.bias, i, w))));
    Vec s = sigmoid(h);
    dh = dh * s * fma(h, Vec(1.0f) - s, Vec(1.0f));
  }
  return {xhat, dh};
}

// sums[0..2][c]: of dh, of dh * xhat, of xhat over the rows of one part
template <typename T>
void part_sums(const GroupNorm& op, const Plan& plan, int64_t part, const T* x, const T* dy, const float* centre, const float* rstd, float* sums) {
  const int64_t n = op.channels;
  std::memset(sums, 0, 3 * n * sizeof(float));
  for (int64_t r = plan.begin(part); r < plan.begin(part + 1); ++r) {
    const T *xs = x + r * n, *dys = dy + r * n;
    lanes(n, [&] LANE {
      Channel c = channel(op, xs, dys, centre, rstd, i, w);
      put(sums, i, w, at(sums, i, w) + c.dh);
      put(sums + n, i, w, fma(c.dh, c.xhat, at(sums + n, i, w)));
      put(sums + 2 * n, i, w, at(sums + 2 * n, i, w) + c.xhat);
    });
  }
}

// Sums of one sample's parts into totals[3][c]; then the group's two means of the gradient, for each channel, into c1 and c2.
void group_means(const GroupNorm& op, const Plan& plan, const float* sums, double* totals, float* c1, float* c2) {
  const int64_t n = op.channels, width = n / op.groups;
  for (int64_t k = 0; k < 3 * n; ++k) totals[k] = 0;
  for (int64_t p = 0; p < plan.parts; ++p)
    for (int64_t k = 0; k < 3 * n; ++k) totals[k] += sums[p * 3 * n + k];
  for (int64_t g = 0; g < op.groups; ++g) {
    double first = 0, second = 0;
    for (int64_t c = g * width; c < (g + 1) * width; ++c) {
      first += op.weight[c] * totals[c];
      second += op.weight[c] * totals[n + c];
    }
    for (int64_t c = g * width; c < (g + 1) * width; ++c) {
      c1[c] = static_cast<float>(first / (op.rows * width));
      c2[c] = static_cast<float>(second / (op.rows * width));
    }
  }
}

template <typename T>
void backward(const GroupNorm& op, const T* x, const T* dy, const float* mean, const float* rstd, T* dx, const GroupNormGrads& grads) {
  const int64_t n = op.channels, area = op.rows * n;
  std::memset(grads.weight, 0, n * sizeof(float));
  std::memset(grads.bias, 0, n * sizeof(float));
  if (grads.shift) std::memset(grads.shift, 0, op.batch * n * sizeof(float));
  if (op.batch * area == 0) return;
  const Plan plan(op, 2 * sizeof(T));
  const int64_t jobs = op.batch * plan.parts;
  const bool worth = op.batch * area > 16384;
  Scratch<float> centre(op.batch * n), scale(op.batch * n), sums(jobs * 3 * n), c1(op.batch * n), c2(op.batch * n);
  for (int64_t b = 0; b < op.batch; ++b) spread_over_channels(op, b, mean, rstd, &centre[b * n], &scale[b * n]);
  parallel_for(jobs, worth, [&](int64_t job) {
    const int64_t b = job / plan.parts;
    part_sums(op, plan, job % plan.parts, x + b * area, dy + b * area, &centre[b * n], &scale[b * n], &sums[job * 3 * n]);
  });
  Scratch<double> totals(3 * n);
  for (int64_t b = 0; b < op.batch; ++b) {
    group_means(op, plan, &sums[b * plan.parts * 3 * n], totals.get(), &c1[b * n], &c2[b * n]);
    for (int64_t c = 0; c < n; ++c) {
      grads.bias[c] += static_cast<float>(totals[c]);
      grads.weight[c] += static_cast<float>(totals[n + c]);
      if (grads.shift)  // the sum over the rows of dx as it is written below
        grads.shift[b * n + c] = static_cast<float>(
            scale[b * n + c] * (op.weight[c] * totals[c] - op.rows * static_cast<double>(c1[b * n + c]) - c2[b * n + c] * totals[2 * n + c]));
    }
  }
  parallel_for(jobs, worth, [&](int64_t job) {
    const int64_t b = job / plan.parts, part = job % plan.parts;
    const float *mid = &centre[b * n], *rs = &scale[b * n], *first = &c1[b * n], *second = &c2[b * n];
    for (int64_t r = plan.begin(part); r < plan.begin(part + 1); ++r) {
      const T *xs = x + b * area + r * n, *dys = dy + b * area + r * n;
      T* out = dx + b * area + r * n;
      lanes(n, [&] LANE {
        Channel c = channel(op, xs, dys, mid, rs, i, w);
        Vec inner = fnma(c.xhat, at(second, i, w), fma(c.dh, at(op.weight, i, w), -at(first, i, w)));
        put(out, i, w, inner * at(rs, i, w));
      });
    }
  });
}

}  // namespace

#define DEFINE(T)                                                                                                                \
  void group_norm(const GroupNorm& op, const T* x, T* y, float* mean, float* rstd) { forward(op, x, y, mean, rstd); }            \
  void group_norm_grad(const GroupNorm& op, const T* x, const T* dy, const float* mean, const float* rstd, T* dx,                \
                       const GroupNormGrads& grads) {                                                                            \
    backward(op, x, dy, mean, rstd, dx, grads);                                                                                  \
  }

DEFINE(float)
DEFINE(bf16)

}  // namespace mix::ISA
