#include <cmath>

#include "cpu/optim.h"
#include "ops.h"

using namespace mix;

constexpr int64_t kPiece = 1 << 16;  // elements a thread takes at a time

static void cut(const Tensor& param, const Tensor& grad, const Tensor& mean, const Tensor& square, std::vector<AdamwPiece>& pieces) {
  const bool param_half = param.dtype() == Type::BFLOAT16, grad_half = grad.dtype() == Type::BFLOAT16;
  char* p = static_cast<char*>(const_cast<void*>(param.data()));
  const char* g = static_cast<const char*>(grad.data());
  float *m = const_cast<float*>(in<float>(mean)), *s = const_cast<float*>(in<float>(square));
  for (int64_t first = 0; first < param.numel(); first += kPiece)
    pieces.push_back({p + first * (param_half ? 2 : 4), g + first * (grad_half ? 2 : 4), m + first, s + first,
                      std::min(kPiece, param.numel() - first), param_half, grad_half});
}

// In place, though Paddle is told of no output but a token: its inplace ops refuse parameters that want a gradient, even where
// none is recorded. The caller raises the tensors' versions.
static std::vector<Tensor> Step(const std::vector<Tensor>& params, const std::vector<Tensor>& grads, const std::vector<Tensor>& means,
                                const std::vector<Tensor>& squares, int64_t step, double lr, double beta1, double beta2, double eps,
                                double weight_decay) {
  std::vector<AdamwPiece> pieces;
  for (size_t i = 0; i < params.size(); ++i) cut(params[i], grads[i], means[i], squares[i], pieces);
  const Adamw op{static_cast<float>(beta1),
                 static_cast<float>(beta2),
                 static_cast<float>(eps),
                 static_cast<float>(lr / (1 - std::pow(beta1, static_cast<double>(step)))),
                 static_cast<float>(1 / std::sqrt(1 - std::pow(beta2, static_cast<double>(step)))),
                 static_cast<float>(1 - lr * weight_decay)};
  CALL_KERNEL(adamw, op, pieces.data(), static_cast<int64_t>(pieces.size()));
  return {paddle::empty({0}, Type::FLOAT32, paddle::CPUPlace())};
}

PD_BUILD_OP(mix_adamw)
    .Inputs({paddle::Vec("Params"), paddle::Vec("Grads"), paddle::Vec("Means"), paddle::Vec("Squares")})
    .Outputs({"Token"})
    .Attrs({"step: int64_t", "lr: double", "beta1: double", "beta2: double", "eps: double", "weight_decay: double"})
    .SetKernelFn(PD_KERNEL(Step));
