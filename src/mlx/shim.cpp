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

#ifdef __linux__
namespace mlx::core::cu {
// In MLX's wheels for CUDA only: elsewhere it is null.
class CommandEncoder;
__attribute__((weak, visibility("default"))) CommandEncoder& get_command_encoder(Stream stream);
} // namespace mlx::core::cu
#endif

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

int mlxrt_shim_device_data(const void* array, int stays, void** data) {
  return guarded([&] {
    const mx::array& of = mlx_array_get_(*static_cast<const mlx_array*>(array));
    *data = nullptr;
    if (of.status() == mx::array::Status::unscheduled || !of.flags().row_contiguous || of.size() == 0) {
      return;
    }
    if (stays) {
      // In memory that the host sees, too: MLX moves it there when the host first asks for it.
      const_cast<mx::array&>(of).buffer().raw_ptr();
    }
    // A buffer of CUDA's allocator: its first member is the address.
    char* start = *static_cast<char* const*>(of.buffer().ptr());
    *data = start + of.offset();
  });
}

int mlxrt_shim_cuda_stream(void* stream, void** cuda) {
  return guarded([&] {
    *cuda = nullptr;
#ifdef __linux__
    if (stream == nullptr || mx::cu::get_command_encoder == nullptr) {
      return;
    }
    const mx::Stream& of = *static_cast<const mx::Stream*>(stream);
    if (of.device != mx::Device::gpu) {
      return;
    }
    // Its first members are a reference to the device and the handle of the stream (0.32.2, the version that
    // `refuse_other_version` compares with).
    void* const* encoder = reinterpret_cast<void* const*>(&mx::cu::get_command_encoder(of));
    *cuda = encoder[1];
#endif
  });
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
