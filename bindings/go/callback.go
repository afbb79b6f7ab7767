package mlxrt

// #include "bridge.h"
import "C"

import (
	"context"
	"errors"
	"runtime"
	"runtime/cgo"
	"unsafe"
)

// callback is what a blocking call's progress function does. The library calls it on the thread of that call.
type callback struct {
	ctx      context.Context
	progress func(done, total uint64) error
	train    func(event TrainEvent) error
	every    trainReports

	handle      cgo.Handle
	err         error // What the function returned.
	interrupted bool  // The context ended, and the call is to end for that.
	panicked    bool
	value       any
	exited      bool // runtime.Goexit, as t.FailNow does it.
}

// pointer is what C hands back: the address of a handle, pinned for the call.
func (c *callback) pointer(a *arguments) unsafe.Pointer {
	handle := c.handle
	a.pinner.Pin(&handle)
	return unsafe.Pointer(&handle)
}

// run calls f, unless that is nil, and catches what must not pass through C. A Goexit cannot be caught, so f runs in a goroutine of its own.
func (c *callback) run(f func() error) C.int32_t {
	if c.interrupted = c.ctx.Err() != nil; c.interrupted {
		return C.MLXRT_RETURN_STOP
	}
	if f == nil {
		return C.MLXRT_RETURN_CONTINUE
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		returned := false
		defer func() {
			if !returned {
				c.value = recover()
				c.panicked, c.exited = c.value != nil, c.value == nil
			}
		}()
		c.err = f()
		returned = true
	}()
	<-done
	if c.err != nil || c.panicked || c.exited {
		return C.MLXRT_RETURN_STOP
	}
	if c.interrupted = c.ctx.Err() != nil; c.interrupted {
		return C.MLXRT_RETURN_STOP
	}
	return C.MLXRT_RETURN_CONTINUE
}

//export mlxrtGoProgress
func mlxrtGoProgress(data unsafe.Pointer, done, total C.uint64_t) C.int32_t {
	c := (*(*cgo.Handle)(data)).Value().(*callback)
	if c.progress == nil {
		return c.run(nil)
	}
	return c.run(func() error { return c.progress(uint64(done), uint64(total)) })
}

//export mlxrtGoTrain
func mlxrtGoTrain(data unsafe.Pointer, event *C.mlxrt_train_event) C.int32_t {
	c := (*(*cgo.Handle)(data)).Value().(*callback)
	due, ok := c.every.add(trainEvent(event))
	if !ok || c.train == nil {
		return c.run(nil)
	}
	return c.run(func() error { return c.train(due) })
}

// call makes the blocking call, and sorts out why it ended.
func (c *callback) call(call func() error) error {
	if err := ended(c.ctx); err != nil {
		return err
	}
	c.handle = cgo.NewHandle(c)
	err := call()
	c.handle.Delete()
	switch {
	case c.panicked:
		panic(c.value)
	case c.exited:
		runtime.Goexit()
	case c.err != nil && !errors.Is(c.err, Stop):
		return c.err
	case c.interrupted && (err == nil || errors.Is(err, ErrCancelled)):
		return ended(c.ctx)
	case errors.Is(err, ErrTimeout):
		// Only deadlines of contexts become timeouts, and they end a little later.
		if _, ok := c.ctx.Deadline(); ok {
			<-c.ctx.Done()
			return ended(c.ctx)
		}
	}
	return err
}
