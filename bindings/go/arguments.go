package mlxrt

// #include "bridge.h"
import "C"

import (
	"context"
	"math"
	"runtime"
	"time"
	"unsafe"
)

// Ptr makes a pointer to a value, for options: Temperature: mlxrt.Ptr(0.0).
func Ptr[T any](value T) *T { return &value }

// Unlimited is for limits of memory.
const Unlimited = math.MaxUint64

// arguments keeps what C reads during one call where it is. The library copies what it needs.
type arguments struct {
	pinner runtime.Pinner
	err    error
}

func (a *arguments) free() { a.pinner.Unpin() }

// text gives a string as pointer and length; never NULL.
func (a *arguments) text(s string) (*C.char, C.size_t) {
	if s == "" {
		return (*C.char)(unsafe.Pointer(&C.mlxrt_go_empty)), 0
	}
	p := unsafe.StringData(s)
	a.pinner.Pin(p)
	return (*C.char)(unsafe.Pointer(p)), C.size_t(len(s))
}

// optional is NULL for "".
func (a *arguments) optional(s string) (*C.char, C.size_t) {
	if s == "" {
		return nil, 0
	}
	return a.text(s)
}

// path gives a NUL-terminated copy.
func (a *arguments) path(name, s string) *C.char {
	if err := checkText(name, s); err != nil && a.err == nil {
		a.err = err
	}
	b := append([]byte(s), 0)
	a.pinner.Pin(&b[0])
	return (*C.char)(unsafe.Pointer(&b[0]))
}

// optionalPath is NULL for "".
func (a *arguments) optionalPath(name, s string) *C.char {
	if s == "" {
		return nil
	}
	return a.path(name, s)
}

// texts gives strings with their lengths; NULL for none.
func (a *arguments) texts(list []string) (**C.char, *C.size_t) {
	if len(list) == 0 {
		return nil, nil
	}
	pointers, lengths := make([]*C.char, len(list)), make([]C.size_t, len(list))
	for i, s := range list {
		pointers[i], lengths[i] = a.text(s)
	}
	return pin(a, pointers), pin(a, lengths)
}

// pin gives the first element of a slice; NULL for none.
func pin[T any](a *arguments, s []T) *T {
	if len(s) == 0 {
		return nil
	}
	a.pinner.Pin(&s[0])
	return &s[0]
}

func int32s(a *arguments, s []int32) *C.int32_t {
	return (*C.int32_t)(unsafe.Pointer(pin(a, s)))
}

// count is an option that is a number of something: what does not fit is refused.
func (a *arguments) count(name string, n int) C.uint32_t {
	if n < 0 || n >= math.MaxUint32 {
		if a.err == nil {
			a.err = invalid("%s is %d", name, n)
		}
		return 0
	}
	return C.uint32_t(n)
}

// signed is an option whose 0 is the default, and which says "none" with -1: nil is the default, and 0 none.
func (a *arguments) signed(name string, n *int) C.int32_t {
	if n == nil {
		return 0
	}
	if *n == 0 {
		return -1
	}
	if v := a.count(name, *n); v <= math.MaxInt32 {
		return C.int32_t(v)
	}
	if a.err == nil {
		a.err = invalid("%s is %d", name, *n)
	}
	return 0
}

// every is an option "every so many": nil is the default, and 0 never.
func (a *arguments) every(name string, n *int) C.uint32_t {
	if n == nil {
		return 0
	}
	if *n == 0 {
		return math.MaxUint32
	}
	return a.count(name, *n)
}

// float is an option whose 0 is the default: nil is that, and zero stands for a set 0.
func float(f *float64, zero float32) C.float {
	if f == nil {
		return 0
	}
	if *f == 0 {
		return C.float(zero)
	}
	if v := float32(*f); v != 0 {
		return C.float(v)
	}
	// Too small for 32 bits, and not to become the default.
	return C.float(math.Copysign(math.SmallestNonzeroFloat32, *f))
}

// limit is a limit of memory: nil leaves it, and 0 is none.
func limit(bytes *uint64) C.uint64_t {
	switch {
	case bytes == nil:
		return 0
	case *bytes == 0:
		return 1
	}
	return C.uint64_t(*bytes)
}

// milliseconds rounds up; 0 is no limit, and what is too long is none.
func milliseconds(name string, d time.Duration) (C.uint32_t, error) {
	if d < 0 {
		return 0, invalid("%s is %s", name, d)
	}
	ms := (d + time.Millisecond - 1) / time.Millisecond
	if ms >= math.MaxUint32 {
		return 0, nil
	}
	return C.uint32_t(ms), nil
}

// remaining is the time to the context's deadline as an option: 0 for none. It ends after the deadline and not before.
func remaining(ctx context.Context) C.uint32_t {
	deadline, ok := ctx.Deadline()
	if !ok {
		return 0
	}
	ms, _ := milliseconds("", max(time.Until(deadline), 0)+time.Millisecond)
	return ms
}

// takeText copies a buffer that the library handed out, and frees it.
func takeText(text *C.char, length C.size_t) string {
	defer C.mlxrt_free(unsafe.Pointer(text))
	return string(unsafe.Slice((*byte)(unsafe.Pointer(text)), int(length)))
}

func takeInts(ids *C.int32_t, count C.size_t) []int32 {
	defer C.mlxrt_free(unsafe.Pointer(ids))
	return copyOf((*int32)(unsafe.Pointer(ids)), int(count))
}

// copyOf copies an array of C; nil for none.
func copyOf[T any](first *T, count int) []T {
	if first == nil || count == 0 {
		return nil
	}
	return append([]T(nil), unsafe.Slice(first, count)...)
}

func floats(a *arguments, s []float32) *C.float {
	return (*C.float)(unsafe.Pointer(pin(a, s)))
}
