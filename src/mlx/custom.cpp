// An operation of MLX's graph that Rust computes, on the CPU device.
#include "shim.h"

#include <cstring>
#include <exception>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "mlx/allocator.h"
#include "mlx/backend/cpu/encoder.h"
#include "mlx/c/array.h"
#include "mlx/c/error.h"
#include "mlx/c/private/array.h"
#include "mlx/c/private/enums.h"
#include "mlx/c/private/stream.h"
#include "mlx/mlx.h"
#include "mlx/primitives.h"

namespace mx = mlx::core;

namespace {
mlxrt_view view_of(const mx::array& a, void* data) {
  return {data, static_cast<int>(mlx_dtype_to_c(a.dtype())), static_cast<int>(a.ndim()), a.shape().data(),
          a.strides().data()};
}

// A row-major copy of an array of any strides.
void copy_rows(const mx::array& from, char* to, const char* start, size_t axis) {
  const size_t size = from.itemsize();
  const int n = from.shape(axis);
  const int64_t stride = from.strides(axis) * static_cast<int64_t>(size);
  if (axis + 1 == from.ndim()) {
    for (int i = 0; i < n; i++) std::memcpy(to + i * size, start + i * stride, size);
    return;
  }
  size_t inner = size;
  for (size_t next = axis + 1; next < from.ndim(); next++) inner *= from.shape(next);
  for (int i = 0; i < n; i++) copy_rows(from, to + i * inner, start + i * stride, axis + 1);
}

// MLX's allocator gives NULL where there is none.
mx::allocator::Buffer memory(size_t bytes) {
  mx::allocator::Buffer made = mx::allocator::malloc(bytes);
  if (!made.ptr()) throw std::runtime_error("[malloc] Unable to allocate " + std::to_string(bytes) + " bytes.");
  return made;
}

bool has(uint32_t bits, size_t index) {
  return index < 32 && (bits >> index & 1);
}

class Custom : public mx::Primitive {
 public:
  Custom(mx::Stream stream, const mlxrt_custom& op, std::shared_ptr<void> context, std::shared_ptr<void> gradient,
         std::vector<mx::Shape> shapes)
      : Primitive(stream), name_(op.name), run_(op.run), context_(std::move(context)), gradient_(std::move(gradient)),
        strided_(op.strided), written_from_(op.written_from), written_to_(op.written_to), shapes_(std::move(shapes)) {}

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    for (mx::array& out : outputs) out.set_data(memory(out.nbytes()));
    std::vector<bool> copied;
    for (size_t i = 0; i < inputs.size(); i++) {
      const mx::array& in = inputs[i];
      const bool rows = in.ndim() > 0 && (in.strides().back() == 1 || in.shape().back() == 1);
      const bool taken = in.flags().row_contiguous || (has(strided_, i) && rows);
      const bool written = written_from_ <= i && i < written_to_;
      if (written && !in.flags().row_contiguous) {
        throw std::runtime_error(std::string("[") + name_ + "] writes in place, and an array is not row-major");
      }
      copied.push_back(!taken && in.size() > 0);
    }
    // MLX keeps the arrays' memory until everything queued here has run; their shapes and the context are kept by
    // the task itself.
    std::vector<mx::array> ins, outs;
    for (const mx::array& in : inputs) ins.push_back(mx::array::unsafe_weak_copy(in));
    for (const mx::array& out : outputs) outs.push_back(mx::array::unsafe_weak_copy(out));
    mx::cpu::get_command_encoder(stream()).dispatch(
        [run = run_, context = context_, name = name_, ins = std::move(ins), outs = std::move(outs),
         copied = std::move(copied)]() {
          std::vector<std::unique_ptr<char[]>> copies;
          std::vector<std::vector<int64_t>> strides(ins.size());
          std::vector<mlxrt_view> in_views, out_views;
          for (size_t i = 0; i < ins.size(); i++) {
            const mx::array& in = ins[i];
            mlxrt_view view = view_of(in, const_cast<char*>(in.data<char>()));
            if (copied[i]) {
              copies.emplace_back(new char[in.nbytes()]);
              copy_rows(in, copies.back().get(), in.data<char>(), 0);
              view.data = copies.back().get();
            }
            if (copied[i] || in.flags().row_contiguous) {
              // Dimensions of one element may have any stride; these have the plain one.
              strides[i].resize(in.ndim());
              int64_t next = 1;
              for (size_t axis = in.ndim(); axis-- > 0; next *= in.shape(axis)) strides[i][axis] = next;
              view.strides = strides[i].data();
            }
            in_views.push_back(view);
          }
          for (const mx::array& out : outs) {
            out_views.push_back(view_of(out, const_cast<char*>(out.data<char>())));
          }
          char message[256] = "";
          if (run(context.get(), in_views.data(), in_views.size(), out_views.data(), out_views.size(), message,
                  sizeof message) != 0) {
            throw std::runtime_error(std::string("[") + name + "] " + message);
          }
        });
  }

  void eval_gpu(const std::vector<mx::array>&, std::vector<mx::array>&) override {
    throw std::runtime_error(std::string("[") + name_ + "] runs on the CPU device only");
  }

  std::vector<mx::array> jvp(const std::vector<mx::array>&, const std::vector<mx::array>&,
                             const std::vector<int>&) override {
    throw no_gradient();
  }

  std::vector<mx::array> vjp(const std::vector<mx::array>& inputs, const std::vector<mx::array>& cotangents,
                             const std::vector<int>& wanted, const std::vector<mx::array>&) override {
    if (!gradient_ || cotangents.size() != 1 || wanted != std::vector<int>{0}) throw no_gradient();
    std::vector<mx::array> from = inputs;
    from[0] = cotangents[0];
    mlxrt_custom op{};
    op.name = name_;
    op.run = run_;
    std::vector<mx::Shape> shapes{inputs[0].shape()};
    auto primitive = std::make_shared<Custom>(stream(), op, gradient_, nullptr, std::move(shapes));
    return {mx::array(inputs[0].shape(), inputs[0].dtype(), primitive, std::move(from))};
  }

  std::pair<std::vector<mx::array>, std::vector<int>> vmap(const std::vector<mx::array>&,
                                                           const std::vector<int>&) override {
    throw std::runtime_error(std::string("[") + name_ + "] cannot be mapped over an axis");
  }

  const char* name() const override {
    return name_;
  }

  std::vector<mx::Shape> output_shapes(const std::vector<mx::array>&) override {
    return shapes_;
  }

 private:
  std::runtime_error no_gradient() const {
    return std::runtime_error(std::string("[") + name_ + "] has no gradient: training computes with MLX's own operations");
  }

  const char* name_;
  mlxrt_run run_;
  std::shared_ptr<void> context_;
  std::shared_ptr<void> gradient_;
  uint32_t strided_;
  size_t written_from_;
  size_t written_to_;
  std::vector<mx::Shape> shapes_;
};
} // namespace

int mlxrt_shim_custom(const mlxrt_custom* op, const void* inputs, size_t count, void* outputs, void* stream) {
  try {
    std::shared_ptr<void> context(op->context, op->free);
    std::shared_ptr<void> gradient;
    if (op->gradient) gradient.reset(op->gradient, op->free);
    const mlx_array* ins = static_cast<const mlx_array*>(inputs);
    mlx_array* outs = static_cast<mlx_array*>(outputs);
    std::vector<mx::array> arrays;
    for (size_t i = 0; i < count; i++) arrays.push_back(mlx_array_get_(ins[i]));
    std::vector<mx::Shape> shapes;
    std::vector<mx::Dtype> dtypes;
    for (size_t i = 0; i < op->outputs; i++) {
      const mlxrt_view& out = op->views[i];
      shapes.emplace_back(out.shape, out.shape + out.rank);
      dtypes.push_back(mlx_dtype_to_cpp(static_cast<mlx_dtype>(out.dtype)));
    }
    mx::Stream on = mlx_stream_get_(mlx_stream{stream});
    auto primitive = std::make_shared<Custom>(on, *op, std::move(context), std::move(gradient), shapes);
    auto made = mx::array::make_arrays(shapes, dtypes, primitive, arrays);
    for (size_t i = 0; i < made.size(); i++) mlx_array_set_(outs[i], std::move(made[i]));
    return 0;
  } catch (const std::exception& error) {
    mlx_error("%s", error.what());
  } catch (...) {
    mlx_error("an exception of an unknown kind");
  }
  return 1;
}
