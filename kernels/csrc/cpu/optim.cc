#include "optim.h"

#include "vec.h"

namespace mix::ISA {
namespace {

template <typename P, typename G>
void step(const Adamw& op, const AdamwPiece& piece) {
  P* param = static_cast<P*>(piece.param);
  const G* grad = static_cast<const G*>(piece.grad);
  float *mean = piece.mean, *square = piece.square;
  const Vec beta1(op.beta1), beta2(op.beta2), rest1(1.0f - op.beta1), rest2(1.0f - op.beta2);
  const Vec eps(op.eps), rate(op.rate), root(op.root), decay(op.decay);
  lanes(piece.count, [&] LANE {
    Vec g = at(grad, i, w);
    Vec m = fma(beta1, at(mean, i, w), rest1 * g), s = fma(beta2, at(square, i, w), rest2 * g * g);
    put(mean, i, w, m);
    put(square, i, w, s);
    put(param, i, w, fma(at(param, i, w), decay, -(rate * m / fma(sqrt(s), root, eps))));
  });
}

}  // namespace

void adamw(const Adamw& op, const AdamwPiece* pieces, int64_t count) {
  parallel_for(count, true, [&](int64_t i) {
    const AdamwPiece& p = pieces[i];
    if (p.param_half)
      p.grad_half ? step<bf16, bf16>(op, p) : step<bf16, float>(op, p);
    else
      p.grad_half ? step<float, bf16>(op, p) : step<float, float>(op, p);
  });
}

}  // namespace mix::ISA
