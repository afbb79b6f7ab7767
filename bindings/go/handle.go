package mlxrt

import (
	"errors"
	"fmt"
	"log"
	"os"
	"runtime"
	"sync/atomic"
)

// life is what closing means for every kind of object. The handle itself is an id that the library checks, so a call that
// races with Close is refused by the library and needs no lock here.
type life struct {
	what    string
	closed  atomic.Bool
	cleanup atomic.Pointer[runtime.Cleanup]
}

var leakReports atomic.Pointer[func(report string)]

func init() {
	if v := os.Getenv("MLXRT_GO_DEBUG"); v != "" && v != "0" {
		SetLeakReports(func(report string) { log.Print(report) })
	}
}

// SetLeakReports has f told of objects made from now on that are garbage and were never closed; nil is nobody, the default.
// It is for debugging: each object then remembers the stack that made it. f runs in a goroutine of the runtime's, and must
// not block.
func SetLeakReports(f func(report string)) {
	if f == nil {
		leakReports.Store(nil)
		return
	}
	leakReports.Store(&f)
}

// watch reports owner as a leak when it is collected before end.
func watch[T any](l *life, owner *T, what string) {
	l.what = what
	if leakReports.Load() == nil {
		return
	}
	stack := make([]byte, 4096)
	stack = stack[:runtime.Stack(stack, false)]
	cleanup := runtime.AddCleanup(owner, func(stack []byte) {
		if f := leakReports.Load(); f != nil {
			(*f)(fmt.Sprintf("mlxrt: a %s was never closed; made by:\n%s", what, stack))
		}
	}, stack)
	l.cleanup.Store(&cleanup)
}

// end says whether this is the first close.
func (l *life) end() bool {
	if l.closed.Swap(true) {
		return false
	}
	if cleanup := l.cleanup.Load(); cleanup != nil {
		cleanup.Stop()
	}
	return true
}

// check is ErrClosed after Close.
func (l *life) check() error {
	if l.closed.Load() {
		return closedError("the " + l.what)
	}
	return nil
}

// blame tells ErrClosed of an error that a Close beside the call has made.
func (l *life) blame(err error) error {
	if err != nil && l.closed.Load() && errors.Is(err, ErrInvalidHandle) {
		return closedError("the " + l.what)
	}
	return err
}
