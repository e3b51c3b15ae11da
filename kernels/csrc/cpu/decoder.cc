// A token's way through all layers without leaving the team of threads.
#include "decoder.h"

#include <sched.h>

#include <atomic>

#include "attention.h"
#include "vec.h"

namespace mix::ISA {
namespace {

#define INLINE static inline __attribute__((always_inline))
constexpr float kLog2e = 1.44269504088896341f;
constexpr int64_t kSteps = 14;    // most that a layer has
constexpr int kPatience = 1000;  // looks at a flag before a waiting thread gives its CPU away, some 20 microseconds

// Threads that go through the same steps together. A step is jobs, taken by whoever is free; the next one begins when all of them are
// done. That is no barrier: a thread that was put aside by the system holds up the others by the job in its hands at most, and when it
// comes back it finds that the steps it missed have nothing left to do.
class Team {
 public:
  struct Step {
    std::atomic<int64_t> taken{0}, done{0};
  };
  explicit Team(int64_t steps) : steps_(steps) {
    for (int64_t i = 0; i < steps; ++i) new (&steps_[i]) Step;
  }

  template <typename Body>
  void step(int64_t& index, int64_t jobs, const Body& body) {
    Step& at = steps_[index++];
    for (int64_t job; (job = at.taken.fetch_add(1, std::memory_order_relaxed)) < jobs;) {
      body(job);
      at.done.fetch_add(1, std::memory_order_release);
    }
    for (int look = 0; at.done.load(std::memory_order_acquire) < jobs; ++look) {
      if (look > kPatience) sched_yield();
      _mm_pause();
    }
  }

 private:
  Scratch<Step> steps_;
};

void rms_norm(const float* x, const float* weight, float eps, int64_t n, float* y) {
  Vec square;
  lanes(n, [&] LANE {
    const Vec v = at(x, i, w);
    square = fma(v, v, square);
  });
  const Vec scale(1.0f / __builtin_sqrtf(sum(square) / static_cast<float>(n) + eps));
  lanes(n, [&] LANE { put(y, i, w, at(x, i, w) * scale * at(weight, i, w)); });
}

void turn(float* x, const float* cos, const float* sin, int64_t turned, bool interleaved) {
  const int64_t half = turned / 2;
  if (interleaved) {
    for (int64_t i = 0; i < half; ++i) {
      const float a = x[2 * i], b = x[2 * i + 1];
      x[2 * i] = a * cos[i] - b * sin[i];
      x[2 * i + 1] = b * cos[i] + a * sin[i];
    }
    return;
  }
  lanes(half, [&] LANE {
    const Vec a = at(x, i, w), b = at(x + half, i, w), c = at(cos, i, w), s = at(sin, i, w);
    put(x, i, w, fnma(b, s, a * c));
    put(x + half, i, w, fma(a, s, b * c));
  });
}

INLINE void keep(float* to, const float* from, int64_t n) { std::memcpy(to, from, n * sizeof(float)); }
INLINE void keep(bf16* to, const float* from, int64_t n) {
  lanes(n, [&] LANE { put(to, i, w, at(from, i, w)); });
}

// What is between the matrices, for all rows.
struct Work {
  explicit Work(const Decoder& op)
      : op(op), chunks(quant_chunks(op.rows)), head(decode_width(op.dim)), state(decode_state(op.dim)), each(op.heads / op.groups),
        widest(op.width > op.inner ? op.width : op.inner), normed(op.rows * op.width), q(op.rows * op.heads * op.dim),
        k(op.rows * op.groups * op.dim), v(op.rows * op.groups * op.dim), ready(op.rows * op.heads * head),
        seen(op.rows * op.heads * op.dim), gate(op.rows * op.inner), up(op.rows * op.inner),
        codes(rounded_bytes(op.rows * ((op.heads * op.dim > widest ? op.heads * op.dim : widest) / kBlock + 1))) {
    std::memset(ready.get(), 0, op.rows * op.heads * head * sizeof(float));
  }

  const Decoder& op;
  int64_t chunks, head, state, each, widest;
  Scratch<float> normed, q, k, v, ready, seen, gate, up;
  Scratch<char> codes;

  QuantLinear<float> product(const DecoderMatrix& m, float* x, float* y, const float* residual = nullptr) const {
    return {m.weight, op.rows, x, m.bias, residual, y};
  }
  Rounded rounded(const DecoderMatrix& m) { return rounded_at(codes.get(), op.rows, m.weight.blocks()); }
  int64_t slot(int64_t row) const {
    const int64_t position = op.lengths[row] - 1;
    return op.table ? op.table[row * op.blocks + position / op.page] * op.page + position % op.page : row * op.page + position;
  }
  int64_t first_key(int64_t row, int64_t window) const {
    const int64_t length = op.lengths[row];
    return window > 0 && length > window ? length - window : 0;
  }
};

// Jobs of a step of products that share their input: runs of tiles, small enough to share them out evenly.
class Products {
 public:
  Products(Work& work, int64_t threads) : work_(work), threads_(threads) {}
  void add(const DecoderMatrix& m, float* x, float* y, const float* residual = nullptr) {
    Part& part = parts_[count_++];
    part.op = work_.product(m, x, y, residual);
    const int64_t tiles = m.weight.tiles(), most = (384 << 10) / (m.weight.tile_bytes() + 1);
    part.size = (tiles + 8 * threads_ - 1) / (8 * threads_);
    if (part.size > most) part.size = most < 1 ? 1 : most;
    part.begin = jobs_;
    jobs_ += (tiles + part.size - 1) / part.size;
  }
  int64_t jobs() const { return jobs_; }
  void run(int64_t job, const Rounded& x) const {
    int64_t i = count_ - 1;
    while (parts_[i].begin > job) --i;
    const Part& part = parts_[i];
    const int64_t first = (job - part.begin) * part.size, tiles = part.op.weight.tiles();
    quant_tiles(part.op, x, first, first + part.size < tiles ? first + part.size : tiles, 0, work_.chunks);
  }

 private:
  struct Part {
    QuantLinear<float> op;
    int64_t size, begin;
  };
  Work& work_;
  int64_t threads_, count_ = 0, jobs_ = 0;
  Part parts_[3];
};

template <typename C>
void place(Work& work, const DecoderLayer& layer, int64_t row) {
  const Decoder& op = work.op;
  const float *cos = op.cos + row * op.turned / 2, *sin = op.sin + row * op.turned / 2;
  for (int64_t h = 0; h < op.heads; ++h) {
    float* q = &work.q[(row * op.heads + h) * op.dim];
    if (layer.q_norm) rms_norm(q, layer.q_norm, op.eps, op.dim, q);
    turn(q, cos, sin, op.turned, op.interleaved);
    float* to = &work.ready[(row * op.heads + h) * work.head];
    const Vec scale(op.scale * kLog2e);
    lanes(op.dim, [&] LANE { put(to, i, w, at(q, i, w) * scale); });
  }
  const int64_t pitch = op.groups * op.dim, slot = work.slot(row);
  for (int64_t g = 0; g < op.groups; ++g) {
    float* k = &work.k[row * pitch + g * op.dim];
    if (layer.k_norm) rms_norm(k, layer.k_norm, op.eps, op.dim, k);
    turn(k, cos, sin, op.turned, op.interleaved);
  }
  keep(static_cast<C*>(layer.keys) + slot * pitch, &work.k[row * pitch], pitch);
  keep(static_cast<C*>(layer.values) + slot * pitch, &work.v[row * pitch], pitch);
}

void gated(Work& work, int64_t row, int64_t from, int64_t to) {
  float *gate = &work.gate[row * work.op.inner + from], *up = &work.up[row * work.op.inner + from];
  lanes(to - from, [&] LANE {
    const Vec g = at(gate, i, w);
    put(gate, i, w, g * sigmoid(g) * at(up, i, w));
  });
}

class Pass {
 public:
  Pass(Work& work, Team& team, int64_t threads, Scratch<float>& states, int64_t most)
      : work_(work), op_(work.op), team_(team), threads_(threads), states_(states), most_(most) {}

  void layer(const DecoderLayer& layer) {
    attention(layer);
    mlp(layer);
  }

 private:
  void norm_rows(const float* weight, int64_t row) {
    rms_norm(op_.x + row * op_.width, weight, op_.eps, op_.width, &work_.normed[row * op_.width]);
  }

  // body(row) for all rows, then the rows rounded for the products that follow
  template <typename Body>
  void rows_then_round(const DecoderMatrix& next, float* x, const Body& body) {
    const Rounded codes = work_.rounded(next);
    const QuantLinear<float> product = work_.product(next, x, nullptr);
    if (op_.rows == 1) {
      team_.step(step_, 1, [&](int64_t) {
        body(0);
        quant_round(product, codes, 0, 0, codes.blocks);
      });
      return;
    }
    team_.step(step_, op_.rows, body);
    team_.step(step_, work_.chunks, [&](int64_t chunk) { quant_round(product, codes, chunk, 0, codes.blocks); });
  }

  void multiply(const Products& products, const DecoderMatrix& any) {
    const Rounded codes = work_.rounded(any);
    team_.step(step_, products.jobs(), [&](int64_t job) { products.run(job, codes); });
  }

  void attention(const DecoderLayer& layer) {
    rows_then_round(layer.q, work_.normed.get(), [&](int64_t row) { norm_rows(layer.attn_norm, row); });
    Products qkv(work_, threads_);
    qkv.add(layer.q, work_.normed.get(), work_.q.get());
    qkv.add(layer.k, work_.normed.get(), work_.k.get());
    qkv.add(layer.v, work_.normed.get(), work_.v.get());
    multiply(qkv, layer.q);
    team_.step(step_, op_.rows, [&](int64_t row) {
      op_.cache_bf16 ? place<bf16>(work_, layer, row) : place<float>(work_, layer, row);
    });
    look(layer);
    rows_then_round(layer.o, work_.seen.get(), [&](int64_t row) { join(layer, row); });
    Products o(work_, threads_);
    o.add(layer.o, work_.seen.get(), op_.x, op_.x);
    multiply(o, layer.o);
  }

  // Jobs are (row, group, piece); `most_` pieces are more than any row has.
  void look(const DecoderLayer& layer) {
    Decode a{};
    a.k = layer.keys, a.v = layer.values, a.lengths = op_.lengths, a.table = op_.table;
    a.batch = op_.rows, a.heads = op_.heads, a.groups = op_.groups, a.dim = op_.dim;
    a.keys = op_.page, a.blocks = op_.blocks, a.block_size = op_.page;
    const int64_t step = work_.each * work_.state;
    team_.step(step_, op_.rows * op_.groups * most_, [&](int64_t job) {
      const int64_t piece = job / (op_.rows * op_.groups), pair = job % (op_.rows * op_.groups);
      const int64_t row = pair / op_.groups, group = pair % op_.groups, length = op_.lengths[row];
      const int64_t start = work_.first_key(row, layer.window), first = start + piece * kSplit;
      if (first >= length) return;
      const int64_t last = first + kSplit < length ? first + kSplit : length;
      const float* q = &work_.ready[(row * op_.heads + group * work_.each) * work_.head];
      decode_piece(a, op_.cache_bf16, q, row, group, first, last, &states_[(pair * most_ + piece) * step]);
    });
  }

  void join(const DecoderLayer& layer, int64_t row) {
    const int64_t seen = op_.lengths[row] - work_.first_key(row, layer.window), pieces = (seen + kSplit - 1) / kSplit;
    const int64_t step = work_.each * work_.state;
    for (int64_t h = 0; h < op_.heads; ++h) {
      const int64_t pair = row * op_.groups + h / work_.each;
      const float* states = &states_[pair * most_ * step + h % work_.each * work_.state];
      decode_join(states, pieces, step, op_.dim, &work_.seen[(row * op_.heads + h) * op_.dim]);
    }
  }

  void mlp(const DecoderLayer& layer) {
    rows_then_round(layer.gate, work_.normed.get(), [&](int64_t row) { norm_rows(layer.mlp_norm, row); });
    Products both(work_, threads_);
    both.add(layer.gate, work_.normed.get(), work_.gate.get());
    both.add(layer.up, work_.normed.get(), work_.up.get());
    multiply(both, layer.gate);
    rows_then_round(layer.down, work_.gate.get(), [&](int64_t row) { gated(work_, row, 0, op_.inner); });
    Products down(work_, threads_);
    down.add(layer.down, work_.gate.get(), op_.x, op_.x);
    multiply(down, layer.down);
  }

  Work& work_;
  const Decoder& op_;
  Team& team_;
  int64_t threads_;
  Scratch<float>& states_;
  int64_t most_, step_ = 0;
};

}  // namespace

void decoder(const Decoder& op) {
  Work work(op);
  int64_t most = 1;
  for (int64_t row = 0; row < op.rows; ++row) {
    const int64_t pieces = (op.lengths[row] + kSplit - 1) / kSplit;
    most = pieces > most ? pieces : most;
  }
  Scratch<float> states(op.rows * op.heads * most * work.state);
  Team team(op.count * kSteps);
#pragma omp parallel
  {
    Pass pass(work, team, omp_get_num_threads(), states, most);
    for (int64_t i = 0; i < op.count; ++i) pass.layer(op.layers[i]);
  }
}

}  // namespace mix::ISA
