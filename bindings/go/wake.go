package mlxrt

// #include "bridge.h"
// #include <stdlib.h>
import "C"

import (
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"unsafe"
)

// Requests that wait for their next event, by id: who is woken. One goroutine for the whole process hears the library's
// bell through the network poller and wakes them, so that no thread waits for any of them.
var (
	waiting    sync.Map // uint64 → chan struct{}
	lastWaiter atomic.Uint64
	startBell  = sync.OnceValue(openBell)
)

func openBell() error {
	fd, err := C.mlxrt_go_open_bell()
	if fd < 0 {
		return &Error{Code: CodeIO, Message: "cannot make a pipe: " + err.Error(), causes: []error{err}}
	}
	go hear(os.NewFile(uintptr(fd), "mlxrt bell"))
	return nil
}

// newWaiter gives an id and the channel on which it is woken.
func newWaiter() (uint64, chan struct{}) {
	id, woken := lastWaiter.Add(1), make(chan struct{}, 1)
	waiting.Store(id, woken)
	return id, woken
}

func hear(bell *os.File) {
	var rings [64]byte
	var ids [64]C.uint64_t
	for {
		if _, err := bell.Read(rings[:]); err != nil {
			panic(fmt.Sprintf("mlxrt: the bell is gone: %v", err)) // Somebody closed a descriptor that is not theirs.
		}
		for full := true; full; {
			count := int(C.mlxrt_go_woken(&ids[0], C.size_t(len(ids))))
			for _, id := range ids[:count] {
				if woken, ok := waiting.Load(uint64(id)); ok {
					select {
					case woken.(chan struct{}) <- struct{}{}:
					default:
					}
				}
			}
			full = count == len(ids)
		}
		takeLines()
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

type logLine struct {
	level LogLevel
	text  string
}

var logger struct {
	sync.Mutex
	f func(level LogLevel, message string)
}

var (
	logLines    = make(chan logLine, 1024)
	startLogger = sync.OnceFunc(func() { go writeLog() })
)

// SetLog sends the log of the whole process to f, lines up to level; nil is silence, the default. f runs in a goroutine of
// its own, one line after the other, shortly after they were written. Where f is too slow, lines are dropped and counted.
// When SetLog returns, the function before does not run any more; f must not call SetLog.
func SetLog(level LogLevel, f func(level LogLevel, message string)) error {
	if err := startBell(); err != nil {
		return err
	}
	logger.Lock()
	defer logger.Unlock()
	if f == nil {
		logger.f = nil
		return take(C.mlxrt_go_log(0))
	}
	if level == 0 {
		return invalid("level is 0")
	}
	if err := take(C.mlxrt_go_log(C.int32_t(level))); err != nil {
		return err
	}
	logger.f = f
	startLogger()
	return nil
}

func writeLog() {
	for line := range logLines {
		writeLine(line)
	}
}

func writeLine(line logLine) {
	logger.Lock()
	defer logger.Unlock()
	if logger.f != nil {
		logger.f(line.level, line.text)
	}
}

// takeLines never waits: the goroutine that calls it wakes everybody else.
func takeLines() {
	var lost C.uint64_t
	line := C.mlxrt_go_lines(&lost)
	dropped := uint64(lost)
	for line != nil {
		text := string(unsafe.Slice((*byte)(unsafe.Add(unsafe.Pointer(line), unsafe.Sizeof(*line))), int(line.len)))
		select {
		case logLines <- logLine{LogLevel(line.level), text}:
		default:
			dropped++
		}
		next := line.next
		C.free(unsafe.Pointer(line))
		line = next
	}
	if dropped > 0 {
		select {
		case logLines <- logLine{LogWarn, fmt.Sprintf("%d lines of the log were dropped: its function is too slow", dropped)}:
		default:
		}
	}
}
