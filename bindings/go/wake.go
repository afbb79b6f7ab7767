package mlxrt

// #include "bridge.h"
// #include <stdlib.h>
import "C"

import (
	"fmt"
	"os"
	"sync"
	"unsafe"
)

// bell wakes one goroutine that waits for the library: it sleeps in a read, which the network poller watches, and holds no
// thread. A ring that nobody waited for wakes the next one to wait, who looks and waits again.
type bell struct {
	file *os.File
	ring C.int
}

const mostIdleBells = 64

// Bells that nobody uses, for the next requests.
var bells struct {
	sync.Mutex
	idle []*bell
}

func newBell() (*bell, error) {
	bells.Lock()
	defer bells.Unlock()
	if n := len(bells.idle); n > 0 {
		b := bells.idle[n-1]
		bells.idle = bells.idle[:n-1]
		return b, nil
	}
	b := &bell{}
	fd, err := C.mlxrt_go_make_bell(&b.ring)
	if fd < 0 {
		return nil, &Error{Code: CodeIO, Message: "there are too few file descriptors: " + err.Error(), causes: []error{err}}
	}
	b.file = os.NewFile(uintptr(fd), "mlxrt bell")
	return b, nil
}

// release is for when nothing rings it any more.
func (b *bell) release() {
	bells.Lock()
	defer bells.Unlock()
	if len(bells.idle) < mostIdleBells {
		bells.idle = append(bells.idle, b)
		return
	}
	b.file.Close()
	C.mlxrt_go_drop_ring(b.ring)
}

func (b *bell) wait() {
	var rings [64]byte
	if _, err := b.file.Read(rings[:]); err != nil {
		panic(fmt.Sprintf("mlxrt: a bell is gone: %v", err)) // Somebody closed a descriptor that is not theirs.
	}
}

// LogLevel says which lines of the library's log are wanted: those up to it.
type LogLevel int32

const (
	LogError LogLevel = C.MLXRT_LOG_ERROR
	LogWarn  LogLevel = C.MLXRT_LOG_WARN
	LogInfo  LogLevel = C.MLXRT_LOG_INFO
	LogDebug LogLevel = C.MLXRT_LOG_DEBUG
)

var logger struct {
	sync.Mutex
	f    func(level LogLevel, message string)
	bell *bell
}

// SetLog sends the log of the whole process to f, lines up to level; nil is silence, the default. f runs in a goroutine of
// its own, one line after the other, shortly after they were written. Where f is too slow, lines are dropped and counted.
// When SetLog returns, the function before does not run any more; f must not call SetLog.
func SetLog(level LogLevel, f func(level LogLevel, message string)) error {
	logger.Lock()
	defer logger.Unlock()
	if logger.bell == nil {
		b, err := newBell()
		if err != nil {
			return err
		}
		logger.bell = b
		go writeLog(b)
	}
	if f == nil {
		logger.f = nil
		return take(C.mlxrt_go_log(0, logger.bell.ring))
	}
	if level == 0 {
		return invalid("level is 0")
	}
	if err := take(C.mlxrt_go_log(C.int32_t(level), logger.bell.ring)); err != nil {
		return err
	}
	logger.f = f
	return nil
}

func writeLog(b *bell) {
	for {
		b.wait()
		var lost C.uint64_t
		for line := C.mlxrt_go_lines(&lost); line != nil; {
			text := unsafe.Slice((*byte)(unsafe.Add(unsafe.Pointer(line), C.sizeof_mlxrt_go_line)), int(line.len))
			writeLine(LogLevel(line.level), string(text))
			next := line.next
			C.free(unsafe.Pointer(line))
			line = next
		}
		if lost > 0 {
			writeLine(LogWarn, fmt.Sprintf("%d lines of the log were dropped: its function is too slow", lost))
		}
	}
}

func writeLine(level LogLevel, text string) {
	logger.Lock()
	defer logger.Unlock()
	if logger.f != nil {
		logger.f(level, text)
	}
}
