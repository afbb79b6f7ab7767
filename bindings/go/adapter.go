package mlxrt

// #include "bridge.h"
import "C"

import (
	"context"
	"encoding/json"
	"unsafe"
)

// AdapterKind is MLXRT_LORA or MLXRT_DORA.
type AdapterKind int32

const (
	LoRA AdapterKind = C.MLXRT_LORA // y = base(x) + scale * ((x A) B).
	DoRA AdapterKind = C.MLXRT_DORA // The same, each row of the adapted weight brought to a learned length.
)

// DType is the type of a tensor's elements.
type DType int32

const (
	F32  DType = C.MLXRT_DTYPE_F32
	F16  DType = C.MLXRT_DTYPE_F16
	BF16 DType = C.MLXRT_DTYPE_BF16
)

// AdapterOptions say how an adapter is made. nil, and fields at nil or zero, are the defaults.
type AdapterOptions struct {
	Kind AdapterKind
	// Columns of A and rows of B; 0 is 8.
	Rank int
	// What (x A) B is multiplied by; nil is 20.
	Scale *float64
	// The share of the input's elements that training leaves out, below 1.
	Dropout float64
	// The last so many blocks; 0 is all.
	Layers int
	// 0 is F32.
	DType DType
	// The same seed gives the same A.
	Seed uint64
	// Names of modules; nil is q_proj and v_proj.
	Keys []string
}

// Adapter is low-rank changes beside one model's weights.
type Adapter struct {
	life
	handle *C.mlxrt_adapter
}

// NewAdapter makes an adapter, which changes nothing until it is trained. Close it.
func (m *Model) NewAdapter(options *AdapterOptions) (*Adapter, error) {
	if err := m.check(); err != nil {
		return nil, err
	}
	var a arguments
	defer a.free()
	opts := C.mlxrt_adapter_options{struct_size: C.sizeof_mlxrt_adapter_options}
	if options != nil {
		opts.kind = C.int32_t(options.Kind)
		opts.rank = a.count("options.Rank", options.Rank)
		opts.scale = float(options.Scale, tiny)
		opts.dropout = C.float(options.Dropout)
		opts.layers = C.int32_t(a.count("options.Layers", options.Layers))
		opts.dtype = C.int32_t(options.DType)
		opts.seed = C.uint64_t(options.Seed)
		keys := make([]*C.char, len(options.Keys))
		for i, key := range options.Keys {
			keys[i] = a.path("options.Keys", key)
		}
		opts.keys, opts.key_count = pin(&a, keys), C.size_t(len(keys))
	}
	if a.err != nil {
		return nil, a.err
	}
	adapter := &Adapter{}
	if err := take(C.mlxrt_adapter_create(m.handle, &opts, &adapter.handle)); err != nil {
		return nil, m.blame(err)
	}
	watch(&adapter.life, adapter, "adapter")
	return adapter, nil
}

// Progress hears the bytes (in a score, the tokens) done of all, while the call waits. An error ends the call and is what it gives.
type Progress func(done, total uint64) error

// LoadAdapter loads an adapter of mlx-lm or PEFT for the model: a folder, or a .safetensors file with its adapter_config.json
// beside it. progress may be nil. Close it.
func (m *Model) LoadAdapter(ctx context.Context, path string, progress Progress) (*Adapter, error) {
	if err := m.check(); err != nil {
		return nil, err
	}
	adapter := &Adapter{}
	err := reading(ctx, path, progress, func(path *C.char, options *C.mlxrt_call_options) error {
		return m.blame(take(C.mlxrt_adapter_load(m.handle, path, options, &adapter.handle)))
	})
	if err != nil {
		return nil, err
	}
	watch(&adapter.life, adapter, "adapter")
	return adapter, nil
}

// reading makes a call that reads or writes files at a path.
func reading(ctx context.Context, path string, progress Progress, f func(*C.char, *C.mlxrt_call_options) error) error {
	var a arguments
	defer a.free()
	name := a.path("path", path)
	if a.err != nil {
		return a.err
	}
	call := &callback{ctx: ctx, progress: progress}
	return call.call(func() error {
		options := C.mlxrt_call_options{struct_size: C.sizeof_mlxrt_call_options, timeout_ms: remaining(ctx)}
		C.mlxrt_go_enable_progress(&options.progress)
		options.progress_data = call.pointer(&a)
		return f(name, &options)
	})
}

// adapterList gives adapters and their scales, which are nil or as many, to C.
func adapterList(a *arguments, adapters []*Adapter, scales []float32) (**C.mlxrt_adapter, *C.float, error) {
	if scales != nil && len(scales) != len(adapters) {
		return nil, nil, invalid("there are %d adapters and %d scales", len(adapters), len(scales))
	}
	handles := make([]*C.mlxrt_adapter, len(adapters))
	for i, adapter := range adapters {
		if adapter == nil {
			return nil, nil, invalid("adapters[%d] is nil", i)
		}
		if err := adapter.check(); err != nil {
			return nil, nil, err
		}
		handles[i] = adapter.handle
	}
	return pin(a, handles), floats(a, scales), nil
}

// Close gives the adapter up. Sessions that it is applied to, and requests, keep what they need of it.
func (a *Adapter) Close() error {
	if a.end() {
		C.mlxrt_adapter_free(a.handle)
	}
	return nil
}

// Save writes a folder in mlx-lm's format. What was there is replaced only when everything is on the disk. progress may be nil.
func (a *Adapter) Save(ctx context.Context, path string, progress Progress) error {
	if err := a.check(); err != nil {
		return err
	}
	return reading(ctx, path, progress, func(path *C.char, options *C.mlxrt_call_options) error {
		return a.blame(take(C.mlxrt_adapter_save(a.handle, path, options)))
	})
}

// AdapterInfo tells what an adapter is. JSON has what the library says.
type AdapterInfo struct {
	Kind       string  `json:"kind"`
	Format     string  `json:"format"`
	Rank       int     `json:"rank"`
	Scale      float64 `json:"scale"`
	Dropout    float64 `json:"dropout"`
	Parameters uint64  `json:"parameters"`
	Bytes      uint64  `json:"bytes"`

	JSON json.RawMessage `json:"-"`
}

// Info tells what the adapter is.
func (a *Adapter) Info() (AdapterInfo, error) {
	if err := a.check(); err != nil {
		return AdapterInfo{}, err
	}
	var text *C.char
	var length C.size_t
	if err := take(C.mlxrt_adapter_info(a.handle, &text, &length)); err != nil {
		return AdapterInfo{}, a.blame(err)
	}
	info := AdapterInfo{JSON: json.RawMessage(takeText(text, length))}
	err := parse(info.JSON, &info)
	return info, err
}

// Tensor is a row-major array of 32-bit floats.
type Tensor struct {
	Shape []int
	Data  []float32
}

// Get gives a copy of one tensor, by its name in the info's JSON, such as "model.layers.0.self_attn.q_proj.lora_a".
func (a *Adapter) Get(name string) (Tensor, error) {
	if err := a.check(); err != nil {
		return Tensor{}, err
	}
	var args arguments
	defer args.free()
	key := args.path("name", name)
	if args.err != nil {
		return Tensor{}, args.err
	}
	out := C.mlxrt_tensor{struct_size: C.sizeof_mlxrt_tensor}
	if err := take(C.mlxrt_adapter_get(a.handle, key, &out)); err != nil {
		return Tensor{}, a.blame(err)
	}
	return takeTensor(&out), nil
}

// takeTensor copies a tensor that the library handed out, and frees it.
func takeTensor(out *C.mlxrt_tensor) Tensor {
	defer C.mlxrt_free(out.data)
	tensor := Tensor{Shape: make([]int, out.rank), Data: copyOf((*float32)(out.data), int(out.bytes/4))}
	for i := range tensor.Shape {
		tensor.Shape[i] = int(out.shape[i])
	}
	return tensor
}

// Set replaces one tensor, from the next request on: of the same shape, and finite.
func (a *Adapter) Set(name string, tensor Tensor) error {
	bytes := unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(tensor.Data))), 4*len(tensor.Data))
	return a.SetBytes(name, F32, tensor.Shape, bytes)
}

// SetBytes is Set for elements of any DType, in the machine's byte order.
func (a *Adapter) SetBytes(name string, dtype DType, shape []int, data []byte) error {
	if err := a.check(); err != nil {
		return err
	}
	var args arguments
	defer args.free()
	key := args.path("name", name)
	if args.err != nil {
		return args.err
	}
	in := C.mlxrt_tensor_view{struct_size: C.sizeof_mlxrt_tensor_view, dtype: C.int32_t(dtype)}
	if len(shape) > len(in.shape) {
		return invalid("the tensor has %d dimensions; there are at most %d", len(shape), len(in.shape))
	}
	in.rank = C.uint32_t(len(shape))
	for i, size := range shape {
		if size < 0 {
			return invalid("the tensor's shape has %d", size)
		}
		in.shape[i] = C.uint64_t(size)
	}
	in.data, in.bytes = unsafe.Pointer(pin(&args, data)), C.uint64_t(len(data))
	return a.blame(take(C.mlxrt_adapter_set(a.handle, key, &in)))
}
