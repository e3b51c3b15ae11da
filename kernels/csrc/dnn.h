// What every oneDNN op shares: engine and stream, the table of weight layouts, the cache of made primitives, working memory.
//
// oneDNN comes from Paddle's wheel; it is a C++ library of primitives that are made once for a shape (tens of microseconds to
// milliseconds: code is generated) and executed often. Everything here may be used from several threads.
#pragma once

#include <array>
#include <cstdlib>
#include <deque>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <vector>

#include <omp.h>
#include <dnnl.hpp>

namespace mix {

using Desc = dnnl::memory::desc;
using Dims = dnnl::memory::dims;
using Type = dnnl::memory::data_type;
using Tag = dnnl::memory::format_tag;

// The activations of kernels/linear.py, by position.
enum class Act : int64_t { kNone, kSilu, kGelu, kGeluTanh, kQuickGelu, kGeglu };

inline const dnnl::engine& engine() {
  static const dnnl::engine cpu(dnnl::engine::kind::cpu, 0);
  return cpu;
}

inline dnnl::stream& stream() {
  static thread_local dnnl::stream own(engine());
  return own;
}

// Working memory of the calling thread; what a previous call got may be overwritten.
inline char* arena(size_t bytes) {
  struct Free {
    void operator()(void* p) const { std::free(p); }
  };
  static thread_local std::unique_ptr<void, Free> own;
  static thread_local size_t size = 0;
  if (bytes > size) {
    const size_t whole = (bytes + 4095) / 4096 * 4096;
    own.reset();
    size = 0;
    own.reset(std::aligned_alloc(4096, whole));
    if (!own) throw std::bad_alloc();
    size = whole;
  }
  return static_cast<char*>(own.get());
}

inline size_t aligned(size_t bytes) { return (bytes + 63) / 64 * 64; }

// --- weight layouts ---------------------------------------------------------------------------------------------------------

// How a packed blob is laid out. Ids are handed to Python and stay valid as long as the process.
struct Layout {
  Desc desc;            // (in, out) for linear, (out, in, kh, kw) for convolutions
  Desc plain;           // the weight it came from, as desc's dimensions; its strides say how Paddle stores it
  Dims shape;           // as Paddle's tensor has it
};

class Layouts {
 public:
  int64_t intern(const Layout& layout) {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (size_t i = 0; i < all_.size(); ++i)
      if (all_[i].desc == layout.desc && all_[i].plain == layout.plain && all_[i].shape == layout.shape) return i;
    all_.push_back(layout);
    return static_cast<int64_t>(all_.size()) - 1;
  }
  const Layout& at(int64_t id) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (id < 0 || id >= static_cast<int64_t>(all_.size())) throw std::out_of_range("a packed weight of another process");
    return all_[id];  // a deque never moves its elements
  }

 private:
  std::mutex mutex_;
  std::deque<Layout> all_;
};

inline Layouts& layouts() {
  static Layouts all;
  return all;
}

// --- cache of primitives ----------------------------------------------------------------------------------------------------

// Everything that decides which code runs, as numbers. The number of threads is among it: oneDNN blocks for it.
class Key {
 public:
  template <typename... Numbers>
  explicit Key(Numbers... numbers) {
    add(omp_get_max_threads());
    (add(static_cast<int64_t>(numbers)), ...);
  }
  void add(int64_t number) {
    if (size_ == numbers_.size()) throw std::length_error("primitive key");
    numbers_[size_++] = number;
    hash_ = (hash_ ^ static_cast<uint64_t>(number)) * 0x9E3779B97F4A7C15ull;
    hash_ ^= hash_ >> 29;
  }
  bool operator==(const Key& other) const { return hash_ == other.hash_ && size_ == other.size_ && numbers_ == other.numbers_; }
  struct Hash {
    size_t operator()(const Key& key) const { return key.hash_; }
  };

 private:
  std::array<int64_t, 24> numbers_{};
  size_t size_ = 0;
  uint64_t hash_ = 0xcbf29ce484222325ull;
};

// A primitive and what it wants to be fed.
struct Made {
  dnnl::primitive run;
  Desc src, weights, bias, dst, extra[2], scratch;  // extra: second operands of the binary post-ops
  int extra_args[2] = {0, 0};
  dnnl::reorder weights_in;   // from the caller's layout to `weights`; empty when they are equal
  dnnl::reorder weights_out;  // gradients: from `weights` to the caller's layout
  Desc weights_plain;
};
using MadePtr = std::shared_ptr<const Made>;

class Cache {
 public:
  template <typename Make>
  MadePtr get(const Key& key, const Make& make) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      const auto found = all_.find(key);
      if (found != all_.end()) return found->second;
    }
    MadePtr made = std::make_shared<const Made>(make());  // outside the lock: generating code takes a while
    const std::lock_guard<std::mutex> lock(mutex_);
    if (all_.size() >= kLimit) all_.clear();
    return all_.emplace(key, made).first->second;
  }

 private:
  static constexpr size_t kLimit = 2048;  // a few hundred shapes are usual; decoding makes one per length of a growing input
  std::mutex mutex_;
  std::unordered_map<Key, MadePtr, Key::Hash> all_;
};

inline Cache& cache() {
  static Cache all;
  return all;
}

// --- pieces -----------------------------------------------------------------------------------------------------------------

inline void append(dnnl::post_ops& ops, Act act) {
  switch (act) {
    case Act::kSilu: return ops.append_eltwise(dnnl::algorithm::eltwise_swish, 1.f, 0.f);
    case Act::kGelu: return ops.append_eltwise(dnnl::algorithm::eltwise_gelu_erf, 0.f, 0.f);
    case Act::kGeluTanh: return ops.append_eltwise(dnnl::algorithm::eltwise_gelu_tanh, 0.f, 0.f);
    case Act::kQuickGelu: return ops.append_eltwise(dnnl::algorithm::eltwise_swish, 1.702f, 0.f);
    default: return;
  }
}

// act, then times `gate`, then plus `residual`; both of dst's shape. Returns the attributes and notes the operands in `made`.
inline dnnl::primitive_attr attributes(Made& made, const Desc& dst, Act act, bool gate, bool residual) {
  dnnl::post_ops ops;
  append(ops, act);
  int filled = 0;
  const auto operand = [&](dnnl::algorithm how) {
    made.extra[filled] = dst;
    made.extra_args[filled++] = DNNL_ARG_ATTR_MULTIPLE_POST_OP(ops.len()) | DNNL_ARG_SRC_1;
    ops.append_binary(how, dst);
  };
  if (gate) operand(dnnl::algorithm::binary_mul);
  if (residual) operand(dnnl::algorithm::binary_add);
  dnnl::primitive_attr attr;
  attr.set_post_ops(ops);
  attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  return attr;
}

inline dnnl::reorder reorder(const Desc& from, const Desc& to) {
  return dnnl::reorder(dnnl::reorder::primitive_desc(engine(), from, engine(), to));
}

inline dnnl::memory at(const Desc& desc, const void* data) { return dnnl::memory(desc, engine(), const_cast<void*>(data)); }

// Reorder now, with working memory of oneDNN's own.
inline void copy(const Desc& from, const void* source, const Desc& to, void* target) {
  auto in = at(from, source), out = at(to, target);
  reorder(from, to).execute(stream(), in, out);
}

// Pointers of one call; null where the primitive has no such argument.
struct Data {
  const void *src = nullptr, *weights = nullptr, *bias = nullptr, *extra[2] = {nullptr, nullptr};
  void* dst = nullptr;
};

// Run a forward primitive: weights into the wanted layout first if they are in another.
inline void execute(const Made& made, const Data& data) {
  const size_t scratch = aligned(made.scratch.get_size());
  const bool moves = static_cast<bool>(made.weights_in);
  char* work = arena(scratch + (moves ? made.weights.get_size() : 0));
  const void* weights = data.weights;
  if (moves) {
    auto in = at(made.weights_plain, weights), out = at(made.weights, work + scratch);
    made.weights_in.execute(stream(), in, out);
    weights = work + scratch;
  }
  std::unordered_map<int, dnnl::memory> args{{DNNL_ARG_SRC, at(made.src, data.src)},
                                             {DNNL_ARG_WEIGHTS, at(made.weights, weights)},
                                             {DNNL_ARG_DST, at(made.dst, data.dst)},
                                             {DNNL_ARG_SCRATCHPAD, at(made.scratch, work)}};
  if (data.bias) args.emplace(DNNL_ARG_BIAS, at(made.bias, data.bias));
  for (int i = 0; i < 2; ++i)
    if (data.extra[i]) args.emplace(made.extra_args[i], at(made.extra[i], data.extra[i]));
  made.run.execute(stream(), args);
}

}  // namespace mix
