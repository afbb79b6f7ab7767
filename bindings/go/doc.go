// Package mlxrt runs large language models on Apple's MLX inside a Go program, through the shared library of the same name.
//
//	model, err := mlxrt.Load(ctx, "path/to/model", nil)
//	if err != nil {
//		return err
//	}
//	defer model.Close()
//	session, err := model.NewSession(nil)
//	if err != nil {
//		return err
//	}
//	defer session.Close()
//	for event, err := range session.Generate(ctx, mlxrt.Chat(mlxrt.User("Tell me a story.")), nil) {
//		if err != nil {
//			return err
//		}
//		fmt.Print(event.Text)
//	}
//
// # Contexts
//
// A context that ends, ends the call: before it begins, while it waits behind other requests, while the prompt is taken in,
// or between two tokens. The error then wraps the context's error and is ErrCancelled or ErrTimeout too, and the session
// stays usable. Breaking out of a range over [Session.Generate] cancels the request as well. When the call returns, or the
// loop is left, the request has ended; that takes at most one decode step or one chunk of a prompt.
//
// # Threads
//
// Every method may be called from any goroutine. A generation blocks no thread: its goroutine sleeps until the library
// has something. Load, Train, Save and the reading and writing of adapters hold a thread each while they run. Their callbacks run while
// the call waits for them: a panic or a runtime.Goexit in one ends the call and goes on in its goroutine.
//
// # Options
//
// Options are structs; nil is all defaults. Where 0 means something, the field is a pointer: nil is the default and a
// 0 is 0, so Temperature: mlxrt.Ptr(0.0) is greedy. Other fields at zero are the default.
//
// # Closing
//
// Models, sessions, adapters and requests hold memory that Go does not see: Close them. Any order is good, twice is fine, and
// what is used after Close gives ErrClosed. With MLXRT_GO_DEBUG=1 in the environment, or [SetLeakReports], what the garbage
// collector finds unclosed is reported with the stack that made it.
package mlxrt

/*
#cgo pkg-config: mlxrt
#cgo CFLAGS: -std=gnu11
#cgo noescape mlxrt_go_next
#cgo nocallback mlxrt_go_next
#cgo noescape mlxrt_free
#cgo nocallback mlxrt_free
#include "bridge.h"
*/
import "C"
