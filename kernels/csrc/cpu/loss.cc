#include "loss.h"

#include "vec.h"

#include <cmath>

namespace mix::ISA {
namespace {

constexpr int64_t kPiece = 4096;  // logits whose maximum is taken before their exponentials: they stay in the nearest cache

// log(sum(exp(x))) in one pass over memory: a running maximum, the sum rescaled whenever it grows (Milakov and Gimelshein 2018)
template <typename T>
float log_sum_exp(const T* x, int64_t n) {
  float top = -INFINITY;
  double total = 0;
  for (int64_t first = 0; first < n; first += kPiece) {
    const int64_t count = n - first < kPiece ? n - first : kPiece;
    const T* xs = x + first;
    Vec highest(-INFINITY);
    int64_t i = 0;
    for (; i + Vec::kLanes <= count; i += Vec::kLanes) highest = max(load(xs + i), highest);
    float here = largest(highest);
    for (; i < count; ++i) here = here > to_float(xs[i]) ? here : to_float(xs[i]);
    if (here > top) {
      total = top == -INFINITY ? 0 : total * std::exp(static_cast<double>(top) - here);
      top = here;
    }
    if (top == -INFINITY) continue;  // nothing but -inf so far
    const Vec mid(top);
    Vec part;
    for (i = 0; i + Vec::kLanes <= count; i += Vec::kLanes) part += exp(load(xs + i) - mid);
    total += sum(part);
    for (; i < count; ++i) total += std::exp(to_float(xs[i]) - top);
  }
  return top + static_cast<float>(std::log(total));
}

template <typename T>
void forward(const T* logits, const int64_t* labels, int64_t ignored, int64_t rows, int64_t vocabulary, float* loss, float* lse) {
  parallel_for(rows, rows * vocabulary > 16384, [&](int64_t row) {
    loss[row] = lse[row] = 0;
    if (labels[row] == ignored) return;
    const T* x = logits + row * vocabulary;
    lse[row] = log_sum_exp(x, vocabulary);
    loss[row] = lse[row] - to_float(x[labels[row]]);
  });
}

template <typename T>
void backward(const T* logits, const int64_t* labels, int64_t ignored, int64_t rows, int64_t vocabulary, const float* lse, float scale, T* d_logits) {
  parallel_for(rows, rows * vocabulary > 16384, [&](int64_t row) {
    const T* x = logits + row * vocabulary;
    T* dx = d_logits + row * vocabulary;
    if (labels[row] == ignored) {
      std::memset(static_cast<void*>(dx), 0, vocabulary * sizeof(T));
      return;
    }
    const int64_t label = labels[row];
    const float chosen = to_float(x[label]);  // dx may be x itself
    const Vec mid(lse[row]), s(scale);
    lanes(vocabulary, [&] LANE { put(dx, i, w, exp(at(x, i, w) - mid) * s); });
    dx[label] = from_float<T>((std::exp(chosen - lse[row]) - 1.0f) * scale);
  });
}

}  // namespace

#define DEFINE(T)                                                                                                              \
  void cross_entropy(const T* x, const int64_t* labels, int64_t ignored, int64_t rows, int64_t n, float* loss, float* lse) {   \
    forward(x, labels, ignored, rows, n, loss, lse);                                                                           \
  }                                                                                                                            \
  void cross_entropy_grad(const T* x, const int64_t* labels, int64_t ignored, int64_t rows, int64_t n, const float* lse,       \
                          float scale, T* dx) {                                                                                \
    backward(x, labels, ignored, rows, n, lse, scale, dx);                                                                     \
  }

DEFINE(float)
DEFINE(bf16)

}  // namespace mix::ISA
