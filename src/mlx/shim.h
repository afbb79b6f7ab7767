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

// The version of the MLX headers that this was compiled with, such as "0.32.2"; never freed. Any thread.
const char* mlxrt_shim_mlx_version(void);

#ifdef __cplusplus
}
#endif
