// What src/mlx needs of MLX and mlx-c does not offer. Plain C; every function returns 0, or 1 after mlx-c's error handler ran.
#pragma once
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// Memory of MLX's own allocator that the host can write: *data points into it. The buffer is freed by
// mlxrt_shim_buffer_free or becomes the array's by mlxrt_shim_buffer_into_array. Any thread.
int mlxrt_shim_buffer_new(void** buffer, void** data, size_t bytes);
void mlxrt_shim_buffer_free(void* buffer);
// `array` is a mlx_array*; the shape is i32 sizes, `dtype` mlx-c's number. Takes the buffer, also when it fails.
int mlxrt_shim_buffer_into_array(void* array, void* buffer, const int* shape, int rank, int dtype);

// Counts no task of MLX's scheduler as running. Of MLX 0.32.2: where a queue reports an error of its stream while a task is
// put in, the task was counted and never runs, and when eleven are counted every evaluation waits for one of them, for ever.
// To be called after an error, when the caller's streams have come to rest. Tasks of another user of MLX in the process are
// then counted too low, and no more of its work waits for it. Any thread.
void mlxrt_shim_forget_tasks(void);

// `array` is a mlx_array*: where its first element is in the memory of an NVIDIA GPU, perhaps not yet computed. NULL where nobody has
// asked for it to be computed, or it is not row-major. `stays`: of one that is computed, to be where it is as long as it lives; else it moves
// when the host reads it. Only where mlxrt_shim_cuda_stream gave a stream, on the thread of that.
int mlxrt_shim_device_data(const void* array, int stays, void** data);

// `stream` is a mlx_stream's ctx: the CUDA stream (a CUstream) that MLX launches its work on, or NULL where it is not a GPU's or MLX
// does not compute with CUDA. On the stream's thread.
int mlxrt_shim_cuda_stream(void* stream, void** cuda);

// Makes what C++ keeps of exceptions for this thread now, while there is memory: where there is none when the first is thrown,
// the dynamic linker ends the process.
void mlxrt_shim_touch_thread(void);

// The version of the MLX headers that this was compiled with, such as "0.32.2"; never freed. Any thread.
const char* mlxrt_shim_mlx_version(void);

// An array in memory as `mlxrt_run` gets it; strides in elements.
typedef struct mlxrt_view {
  void* data;
  int dtype;
  int rank;
  const int* shape;
  const int64_t* strides;
} mlxrt_view;

// Computes all outputs, which are row-major and hold nothing yet, from the inputs; both may have no elements. On a
// thread of MLX's. 0, or another number and why in `message`, of `size` bytes.
typedef int (*mlxrt_run)(
    void* context, const mlxrt_view* inputs, size_t n, const mlxrt_view* outputs, size_t m, char* message, size_t size);

// An operation that Rust computes. It takes the contexts, also when it fails, and frees each on any thread.
typedef struct mlxrt_custom {
  const char* name; // lives for ever
  mlxrt_run run;
  void* context;
  // NULL, or the context that `run` computes the gradient by input 0 with: from that by the only output, in the place of
  // input 0, and from the other inputs.
  void* gradient;
  void (*free)(void* context);
  const mlxrt_view* views; // of the outputs; shapes and types count
  size_t outputs;
  uint32_t strided; // bit i: input i may have any strides but 1 in its last dimension; the others come row-major
  // From the first of these inputs on, before the second: the operation also writes them, in place; they must be row-major.
  size_t written_from, written_to;
} mlxrt_custom;

// Queues it: `inputs` and `outputs` are lists of mlx_array, `stream` is a mlx_stream's ctx, on the CPU device.
int mlxrt_shim_custom(const mlxrt_custom* op, const void* inputs, size_t count, void* outputs, void* stream);

#ifdef __cplusplus
}
#endif
