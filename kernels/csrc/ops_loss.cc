#include "cpu/loss.h"
#include "ops.h"

using namespace mix;

static int64_t kept(const Tensor& labels, int64_t ignored) {
  int64_t count = 0;
  for (int64_t i = 0; i < labels.numel(); ++i) count += in<int64_t>(labels)[i] != ignored;
  return count > 0 ? count : 1;
}

static void check_labels(const Tensor& labels, int64_t vocabulary, int64_t ignored) {
  for (int64_t i = 0; i < labels.numel(); ++i) {
    const int64_t label = in<int64_t>(labels)[i];
    if (label != ignored && (label < 0 || label >= vocabulary))
      PD_THROW("label ", label, " is outside the vocabulary of ", vocabulary, " and is not ignore_index ", ignored);
  }
}

// Mean over the labels that are kept; also each row's logsumexp, which is all the gradient needs.
static std::vector<Tensor> Forward(const Tensor& logits, const Tensor& labels, int64_t ignored) {
  const int64_t rows = logits.shape()[0], vocabulary = logits.shape()[1];
  check_labels(labels, vocabulary, ignored);
  std::vector<float> losses(rows);
  Tensor loss = paddle::empty({}, Type::FLOAT32, logits.place()), lse = paddle::empty({rows}, Type::FLOAT32, logits.place());
  with_type(logits, [&](auto type) {
    using T = decltype(type);
    CALL_KERNEL(cross_entropy, in<T>(logits), in<int64_t>(labels), ignored, rows, vocabulary, losses.data(), out<float>(lse));
  });
  double total = 0;
  for (float one : losses) total += one;
  *out<float>(loss) = static_cast<float>(total / kept(labels, ignored));
  return {loss, lse};
}

static std::vector<Tensor> Backward(const Tensor& logits, const Tensor& labels, const Tensor& lse, const Tensor& d_loss, int64_t ignored) {
  Tensor d_logits = paddle::empty_like(logits);
  const float scale = *in<float>(d_loss) / kept(labels, ignored);
  with_type(logits, [&](auto type) {
    using T = decltype(type);
    CALL_KERNEL(cross_entropy_grad, in<T>(logits), in<int64_t>(labels), ignored, logits.shape()[0], logits.shape()[1], in<float>(lse), scale,
                out<T>(d_logits));
  });
  return {d_logits};
}

// The sum over the labels that are kept; the logits become the gradient of `scale` times that sum, in place, though Paddle is told
// of the sum alone: the caller owns them and looks at nothing else.
static std::vector<Tensor> Consume(const Tensor& logits, const Tensor& labels, int64_t ignored, double scale) {
  const int64_t rows = logits.shape()[0], vocabulary = logits.shape()[1];
  check_labels(labels, vocabulary, ignored);
  std::vector<float> losses(rows), lse(rows);
  with_type(logits, [&](auto type) {
    using T = decltype(type);
    CALL_KERNEL(cross_entropy, in<T>(logits), in<int64_t>(labels), ignored, rows, vocabulary, losses.data(), lse.data());
    CALL_KERNEL(cross_entropy_grad, in<T>(logits), in<int64_t>(labels), ignored, rows, vocabulary, lse.data(), static_cast<float>(scale),
                const_cast<T*>(in<T>(logits)));
  });
  double total = 0;
  for (float one : losses) total += one;
  Tensor sum = paddle::empty({}, Type::FLOAT32, logits.place());
  *out<float>(sum) = static_cast<float>(total);
  return {sum};
}

static std::vector<Dims> Shape(Dims logits, Dims, int64_t) { return {{}, {logits[0]}}; }
static std::vector<Type> DType(Type, Type) { return {Type::FLOAT32, Type::FLOAT32}; }

PD_BUILD_OP(mix_cross_entropy)
    .Inputs({"Logits", "Labels"})
    .Outputs({"Loss", "Lse"})
    .Attrs({"ignored: int64_t"})
    .SetKernelFn(PD_KERNEL(Forward))
    .SetInferShapeFn(PD_INFER_SHAPE(Shape))
    .SetInferDtypeFn(PD_INFER_DTYPE(DType));
PD_BUILD_GRAD_OP(mix_cross_entropy)
    .Inputs({"Logits", "Labels", "Lse", paddle::Grad("Loss")})
    .Outputs({paddle::Grad("Logits")})
    .Attrs({"ignored: int64_t"})
    .SetKernelFn(PD_KERNEL(Backward));
PD_BUILD_OP(mix_cross_entropy_consume)
    .Inputs({"Logits", "Labels"})
    .Outputs({"Sum"})
    .Attrs({"ignored: int64_t", "scale: double"})
    .SetKernelFn(PD_KERNEL(Consume));
