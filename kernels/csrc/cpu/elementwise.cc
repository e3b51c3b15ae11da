#include "elementwise.h"

#include "vec.h"

namespace mix::ISA {
namespace {

// Where sigmoid is as good as 0 (or 1, for slopes), x must not be huge: 0 times infinity is not what is meant.
Vec bounded(Vec x) { return max(Vec(-128.0f), x); }
Vec between(Vec x) { return min(Vec(128.0f), bounded(x)); }

struct Silu {
  static Vec value(Vec x) { return bounded(x) * sigmoid(x); }
  static Vec slope(Vec x) {
    x = between(x);
    Vec s = sigmoid(x);
    return s * fma(x, Vec(1.0f) - s, Vec(1.0f));
  }
};

struct Gelu {
  static Vec value(Vec x) { return bounded(x) * normal(x).cdf; }
  static Vec slope(Vec x) {
    x = between(x);
    Normal n = normal(x);
    return fma(x, n.pdf, n.cdf);
  }
};

// 0.5 x (1 + tanh z) = x sigmoid(2 z), z = sqrt(2/pi) (x + 0.044715 x^3)
struct GeluTanh {
  static Vec twice_z(Vec x) { return x * fma(x * x, Vec(0.0713548163f), Vec(1.59576912f)); }
  static Vec value(Vec x) { return bounded(x) * sigmoid(twice_z(bounded(x))); }
  static Vec slope(Vec x) {
    x = between(x);
    Vec s = sigmoid(twice_z(x)), dz = fma(x * x, Vec(0.214064449f), Vec(1.59576912f));
    return fma(x * dz, s * (Vec(1.0f) - s), s);
  }
};

struct QuickGelu {
  static Vec value(Vec x) { return bounded(x) * sigmoid(Vec(1.702f) * x); }
  static Vec slope(Vec x) {
    x = between(x);
    Vec s = sigmoid(Vec(1.702f) * x);
    return s * fma(Vec(1.702f) * x, Vec(1.0f) - s, Vec(1.0f));
  }
};

template <typename Body>
void with_act(Act kind, const Body& body) {
  switch (kind) {
    case Act::kSilu: return body(Silu{});
    case Act::kGelu: return body(Gelu{});
    case Act::kGeluTanh: return body(GeluTanh{});
    case Act::kQuickGelu: return body(QuickGelu{});
  }
}

constexpr int64_t kChunk = 16384;  // elements that one thread takes at a time: 64 KiB of floats

// body(first, count) for the chunks of [0, n)
template <typename Body>
void chunks(int64_t n, const Body& body) {
  parallel_for((n + kChunk - 1) / kChunk, true, [&](int64_t c) { body(c * kChunk, n - c * kChunk < kChunk ? n - c * kChunk : kChunk); });
}

template <typename T>
void run_act(Act kind, const T* x, T* y, int64_t n) {
  with_act(kind, [&](auto f) {
    chunks(n, [&](int64_t first, int64_t count) {
      const T* xs = x + first;
      T* ys = y + first;
      lanes(count, [&] LANE { put(ys, i, w, f.value(at(xs, i, w))); });
    });
  });
}

template <typename T>
void run_act_grad(Act kind, const T* x, const T* dy, T* dx, int64_t n) {
  with_act(kind, [&](auto f) {
    chunks(n, [&](int64_t first, int64_t count) {
      const T *xs = x + first, *dys = dy + first;
      T* dxs = dx + first;
      lanes(count, [&] LANE { put(dxs, i, w, at(dys, i, w) * f.slope(at(xs, i, w))); });
    });
  });
}

// body(row, first, count): rows, and pieces of a row where rows are long
template <typename Body>
void row_pieces(int64_t rows, int64_t d, const Body& body) {
  const int64_t pieces = (d + kChunk - 1) / kChunk;
  parallel_for(rows * pieces, rows * d > kChunk, [&](int64_t job) {
    const int64_t first = job % pieces * kChunk;
    body(job / pieces, first, d - first < kChunk ? d - first : kChunk);
  });
}

template <typename T>
void run_glu(Act kind, const Gated<T>& in, T* y) {
  with_act(kind, [&](auto f) {
    row_pieces(in.rows, in.d, [&](int64_t row, int64_t first, int64_t count) {
      const T *value = in.value + row * in.stride + first, *gate = in.gate + row * in.stride + first;
      T* out = y + row * in.d + first;
      lanes(count, [&] LANE { put(out, i, w, at(value, i, w) * f.value(at(gate, i, w))); });
    });
  });
}

template <typename T>
void run_glu_grad(Act kind, const Gated<T>& in, const T* dy, T* d_value, T* d_gate) {
  with_act(kind, [&](auto f) {
    row_pieces(in.rows, in.d, [&](int64_t row, int64_t first, int64_t count) {
      const int64_t wide = row * in.stride + first;
      const T *value = in.value + wide, *gate = in.gate + wide, *up = dy + row * in.d + first;
      T *dv = d_value + wide, *dg = d_gate + wide;
      lanes(count, [&] LANE {
        Vec g = at(gate, i, w), d = at(up, i, w), v = at(value, i, w);
        put(dv, i, w, d * f.value(g));
        put(dg, i, w, d * v * f.slope(g));
      });
    });
  });
}

}  // namespace

#define DEFINE(T)                                                                                                  \
  void act(Act kind, const T* x, T* y, int64_t n) { run_act(kind, x, y, n); }                                      \
  void act_grad(Act kind, const T* x, const T* dy, T* dx, int64_t n) { run_act_grad(kind, x, dy, dx, n); }         \
  void glu(Act kind, const Gated<T>& in, T* y) { run_glu(kind, in, y); }                                           \
  void glu_grad(Act kind, const Gated<T>& in, const T* dy, T* dv, T* dg) { run_glu_grad(kind, in, dy, dv, dg); }

DEFINE(float)
DEFINE(bf16)

}  // namespace mix::ISA
