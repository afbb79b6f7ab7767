package mlxrt

// #include "bridge.h"
import "C"

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"time"
)

// ABI is the version of the C surface that this package was compiled with.
const ABI = C.MLXRT_ABI

// ABIVersion is the version of the C surface that the library has.
func ABIVersion() int { return int(C.mlxrt_abi_version()) }

// Version is the library's version, such as "0.1.0".
func Version() string { return C.GoString(C.mlxrt_version()) }

// Device is where the engine computes.
type Device int32

const (
	DeviceAuto Device = C.MLXRT_DEVICE_AUTO // The GPU where there is one, else the CPU.
	DeviceCPU  Device = C.MLXRT_DEVICE_CPU
	DeviceGPU  Device = C.MLXRT_DEVICE_GPU
)

// MemoryLimits say how much memory may be used, for the whole process: nil is unchanged (the default in InitOptions), 0 none,
// and Unlimited unlimited.
type MemoryLimits struct {
	// Bytes that the library may use: what would pass it is refused with ErrOutOfMemory before it is allocated.
	Memory *uint64
	// Bytes of freed buffers kept for reuse, and of keys and values kept of sessions that are gone.
	Cache *uint64
	// Bytes kept resident for the GPU.
	Wired *uint64
}

// InitOptions say how the library starts. nil, and fields at zero, are the defaults.
type InitOptions struct {
	Device Device
	// The most threads for the library's own work on the CPU; 0 is one per physical core.
	CPUThreads int
	// The folder in which mlx.metallib lies; "" is beside the library.
	ResourceDir string
	Limits      MemoryLimits
}

// Init starts the engine, or adds one more user of the one that runs; it owes a Shutdown. Optional, as loading a model starts
// the engine with the defaults.
func Init(options *InitOptions) error {
	var a arguments
	defer a.free()
	opts := C.mlxrt_init_options{struct_size: C.sizeof_mlxrt_init_options}
	if options != nil {
		opts.device = C.int32_t(options.Device)
		opts.cpu_threads = a.count("options.CPUThreads", options.CPUThreads)
		opts.resource_dir = a.optionalPath("options.ResourceDir", options.ResourceDir)
		opts.memory_limit = limit(options.Limits.Memory)
		opts.cache_limit = limit(options.Limits.Cache)
		opts.wired_limit = limit(options.Limits.Wired)
	}
	if a.err != nil {
		return a.err
	}
	return take(C.mlxrt_init(&opts))
}

// Shutdown drops one Init. The engine ends when no Init and no model is left: ErrBusy names what is. With force it ends now, and
// what is still open fails from then on. It waits for the running step until the context's deadline; ErrTimeout: call again.
func Shutdown(ctx context.Context, force bool) error {
	if err := ended(ctx); err != nil {
		return err
	}
	var flags C.uint32_t
	if force {
		flags = C.MLXRT_SHUTDOWN_FORCE
	}
	timeout := remaining(ctx)
	if timeout == 0 {
		timeout = C.MLXRT_FOREVER
	}
	return take(C.mlxrt_shutdown(flags, timeout))
}

// Suspend keeps the engine from the device: running requests pause where they are, and a call that needs the device gives
// ErrSuspended. It waits until the device is idle. After as many Resume the work goes on.
func Suspend(ctx context.Context) error {
	for {
		if err := ended(ctx); err != nil {
			return err
		}
		// In slices, to hear of the context; the library starts nothing new in between.
		err := take(C.mlxrt_suspend(50))
		if !errors.Is(err, ErrTimeout) {
			return err
		}
	}
}

// Resume takes one Suspend back.
func Resume() error { return take(C.mlxrt_resume()) }

// DeviceInfo tells the device that the engine runs on, or would, as JSON.
func DeviceInfo() (json.RawMessage, error) {
	var text *C.char
	var length C.size_t
	if err := take(C.mlxrt_device_info(&text, &length)); err != nil {
		return nil, err
	}
	return json.RawMessage(takeText(text, length)), nil
}

// SetMemoryLimits changes how much memory may be used, for the whole process.
func SetMemoryLimits(limits MemoryLimits) error {
	in := C.mlxrt_memory_limits{
		struct_size:  C.sizeof_mlxrt_memory_limits,
		memory_limit: limit(limits.Memory),
		cache_limit:  limit(limits.Cache),
		wired_limit:  limit(limits.Wired),
	}
	return take(C.mlxrt_memory_set(&in))
}

// MemoryUse tells what the memory of the process's MLX is used for, in bytes.
type MemoryUse struct {
	Active, Cache, Peak uint64
	// Of Active: weights of models, and keys and values of sessions.
	Weights, KV uint64
	// What the library may use.
	Limit uint64
}

// Memory tells what the whole process uses of MLX's memory.
func Memory() (MemoryUse, error) {
	out := C.mlxrt_memory{struct_size: C.sizeof_mlxrt_memory}
	if err := take(C.mlxrt_memory_get(&out)); err != nil {
		return MemoryUse{}, err
	}
	return MemoryUse{
		Active: uint64(out.active_bytes), Cache: uint64(out.cache_bytes), Peak: uint64(out.peak_bytes),
		Weights: uint64(out.weight_bytes), KV: uint64(out.kv_bytes), Limit: uint64(out.limit_bytes),
	}, nil
}

// TrimMemory frees what can be made again. Level 0: buffers kept for reuse. 1: also prefixes kept for new sessions. 2: also the
// keys and values of idle sessions.
func TrimMemory(level int) error {
	if level < 0 || level > math.MaxInt32 {
		return invalid("level is %d", level)
	}
	return take(C.mlxrt_memory_trim(C.int32_t(level)))
}

// Metrics are counters since the start, and the last request that ended.
type Metrics struct {
	RequestsStarted, RequestsRunning, RequestsCompleted, RequestsCancelled, RequestsFailed uint64
	// Of RequestsRunning: those that have not begun.
	RequestsWaiting uint64
	// Tokens of all inputs, of these those that did not have to be computed, and tokens delivered.
	PromptTokens, CachedTokens, GeneratedTokens uint64
	// How long requests that have ended waited before they began, took their inputs in, and generated.
	Queue, Prefill, Decode time.Duration
	// Passes through the model that computed next tokens, and their rows, one for each session that shared the pass: PassRows
	// by Passes is how many tokens a pass gave.
	Passes, PassRows uint64
	// Of the process.
	ActiveBytes, CacheBytes, PeakBytes uint64
	WeightBytes, KVBytes               uint64
	Last                               LastRequest
}

// LastRequest is what the last request that ended cost.
type LastRequest struct {
	PromptTokens, CachedTokens, GeneratedTokens uint64
	Prefill, FirstToken, Decode, Total          time.Duration
	PeakBytes                                   uint64
}

// ProcessMetrics gives the counters of the whole process.
func ProcessMetrics() (Metrics, error) { return metrics(nil) }

// Metrics gives the counters of the model.
func (m *Model) Metrics() (Metrics, error) {
	if err := m.check(); err != nil {
		return Metrics{}, err
	}
	out, err := metrics(m.handle)
	return out, m.blame(err)
}

func metrics(model *C.mlxrt_model) (Metrics, error) {
	d := C.mlxrt_metrics_data{struct_size: C.sizeof_mlxrt_metrics_data}
	if err := take(C.mlxrt_metrics(model, &d)); err != nil {
		return Metrics{}, err
	}
	return Metrics{
		RequestsStarted: uint64(d.requests_started), RequestsRunning: uint64(d.requests_running),
		RequestsCompleted: uint64(d.requests_completed), RequestsCancelled: uint64(d.requests_cancelled),
		RequestsFailed: uint64(d.requests_failed), RequestsWaiting: uint64(d.requests_waiting),
		PromptTokens: uint64(d.prompt_tokens), CachedTokens: uint64(d.cached_tokens),
		GeneratedTokens: uint64(d.generated_tokens),
		Queue:           time.Duration(d.queue_ns),
		Prefill:         time.Duration(d.prefill_ns), Decode: time.Duration(d.decode_ns),
		Passes: uint64(d.passes), PassRows: uint64(d.pass_rows),
		ActiveBytes: uint64(d.active_bytes), CacheBytes: uint64(d.cache_bytes), PeakBytes: uint64(d.peak_bytes),
		WeightBytes: uint64(d.weight_bytes), KVBytes: uint64(d.kv_bytes),
		Last: LastRequest{
			PromptTokens: uint64(d.last_prompt_tokens), CachedTokens: uint64(d.last_cached_tokens),
			GeneratedTokens: uint64(d.last_generated_tokens),
			Prefill:         time.Duration(d.last_prefill_ns), FirstToken: time.Duration(d.last_first_token_ns),
			Decode: time.Duration(d.last_decode_ns), Total: time.Duration(d.last_total_ns),
			PeakBytes: uint64(d.last_peak_bytes),
		},
	}, nil
}
