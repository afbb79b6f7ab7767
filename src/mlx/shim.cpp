#include "shim.h"

#include <exception>

#include "mlx/allocator.h"
#include "mlx/c/array.h"
#include "mlx/c/error.h"
#include "mlx/c/private/array.h"
#include "mlx/c/private/enums.h"
#include "mlx/mlx.h"
#include "mlx/scheduler.h"
#include "mlx/version.h"

namespace mx = mlx::core;

namespace {
// Runs `body`; whatever C++ throws reaches mlx-c's error handler as text, never the caller.
template <typename Body>
int guarded(Body body) {
  try {
    body();
    return 0;
  } catch (const std::exception& error) {
    mlx_error("%s", error.what());
  } catch (...) {
    mlx_error("an exception of an unknown kind");
  }
  return 1;
}
} // namespace

int mlxrt_shim_buffer_new(void** buffer, void** data, size_t bytes) {
  return guarded([&] {
    mx::allocator::Buffer made = mx::allocator::malloc(bytes);
    *buffer = made.ptr();
    *data = made.raw_ptr();
  });
}

void mlxrt_shim_buffer_free(void* buffer) {
  guarded([&] { mx::allocator::free(mx::allocator::Buffer(buffer)); });
}

int mlxrt_shim_buffer_into_array(void* array, void* buffer, const int* shape, int rank, int dtype) {
  return guarded([&] {
    mx::allocator::Buffer owned(buffer);
    try {
      mx::array made(owned, mx::Shape(shape, shape + rank), mlx_dtype_to_cpp(static_cast<mlx_dtype>(dtype)));
      mlx_array_set_(*static_cast<mlx_array*>(array), std::move(made));
    } catch (...) {
      mx::allocator::free(owned);
      throw;
    }
  });
}

void mlxrt_shim_forget_tasks(void) {
  mx::scheduler::Scheduler& scheduler = mx::scheduler::scheduler();
  for (int left = scheduler.n_active_tasks(); left > 0; left--) {
    scheduler.notify_task_completion(mx::Stream(0, mx::Device::cpu));
  }
}

void mlxrt_shim_touch_thread(void) {
  volatile int thrown = std::uncaught_exceptions();
  (void)thrown;
}

#define MLXRT_TEXT_OF(value) #value
#define MLXRT_TEXT(value) MLXRT_TEXT_OF(value)

const char* mlxrt_shim_mlx_version(void) {
  return MLXRT_TEXT(MLX_VERSION_MAJOR) "." MLXRT_TEXT(MLX_VERSION_MINOR) "." MLXRT_TEXT(MLX_VERSION_PATCH);
}
