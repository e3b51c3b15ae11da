// What the registration files share: dtype dispatch, small float copies of weights, shape and dtype inference.
#pragma once

#include "cpu/common.h"
#include "paddle/extension.h"

namespace mix {

using paddle::Tensor;
using Dims = std::vector<int64_t>;
using Type = paddle::DataType;

template <typename T>
const T* in(const Tensor& t) { return static_cast<const T*>(t.data()); }
template <typename T>
T* out(Tensor& t) { return static_cast<T*>(t.data()); }

// body(float{}) or body(bf16{}), by dtype; kernels.choose has refused every other one.
template <typename Body>
void with_type(const Tensor& x, const Body& body) {
  if (x.dtype() == Type::FLOAT32) return body(float{});
  if (x.dtype() == Type::BFLOAT16) return body(bf16{});
  PD_THROW("the native kernels take float32 and bfloat16");
}

// A vector of weights as floats, whatever its dtype: `copy` holds them where they have to be converted. Null when it is empty.
inline const float* floats(const Tensor& t, std::vector<float>& copy) {
  if (t.numel() == 0) return nullptr;
  if (t.dtype() == Type::FLOAT32) return in<float>(t);
  const int64_t n = t.numel();
  const bf16* half = in<bf16>(t);
  copy.resize(n);
  for (int64_t i = 0; i < n; ++i) copy[i] = to_float(half[i]);
  return copy.data();
}

// The same backwards: a new tensor like `t` with these values.
inline Tensor like(const Tensor& t, const float* values) {
  Tensor made = paddle::empty_like(t);
  with_type(t, [&](auto type) {
    using T = decltype(type);
    const int64_t n = t.numel();
    T* to = out<T>(made);
    for (int64_t i = 0; i < n; ++i) to[i] = from_float<T>(values[i]);
  });
  return made;
}

inline std::vector<Dims> same_shape(Dims x) { return {x}; }
inline std::vector<Type> same_type(Type x) { return {x}; }

}  // namespace mix
