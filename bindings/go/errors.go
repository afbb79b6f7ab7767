package mlxrt

// #include "bridge.h"
import "C"

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// Code says what kind of error it is: MLXRT_E_* in C.
type Code int32

// The codes. A later version of the library may have more.
const (
	CodeInvalidArgument Code = C.MLXRT_E_INVALID_ARGUMENT
	CodeInvalidHandle   Code = C.MLXRT_E_INVALID_HANDLE
	CodeNotFound        Code = C.MLXRT_E_NOT_FOUND
	CodeIO              Code = C.MLXRT_E_IO
	CodeBadModel        Code = C.MLXRT_E_BAD_MODEL
	CodeIncompatible    Code = C.MLXRT_E_INCOMPATIBLE
	CodeUnsupported     Code = C.MLXRT_E_UNSUPPORTED
	CodeOutOfMemory     Code = C.MLXRT_E_OUT_OF_MEMORY
	CodeContextFull     Code = C.MLXRT_E_CONTEXT_FULL
	CodeBusy            Code = C.MLXRT_E_BUSY
	CodeCancelled       Code = C.MLXRT_E_CANCELLED
	CodeTimeout         Code = C.MLXRT_E_TIMEOUT
	CodeSuspended       Code = C.MLXRT_E_SUSPENDED
	CodeDevice          Code = C.MLXRT_E_DEVICE
	CodeResources       Code = C.MLXRT_E_RESOURCES
	CodeBadGrammar      Code = C.MLXRT_E_BAD_GRAMMAR
	CodeReentrant       Code = C.MLXRT_E_REENTRANT
	CodeForked          Code = C.MLXRT_E_FORKED
	CodeInternal        Code = C.MLXRT_E_INTERNAL
)

// String gives the code's name, such as "INVALID_ARGUMENT".
func (c Code) String() string {
	if name := C.GoString(C.mlxrt_code_name(C.int32_t(c))); name != "UNKNOWN" {
		return name
	}
	return fmt.Sprintf("UNKNOWN(%d)", int32(c))
}

// For errors.Is, one for each code: errors.Is(err, mlxrt.ErrBusy).
var (
	ErrInvalidArgument error = &Error{Code: CodeInvalidArgument}
	ErrInvalidHandle   error = &Error{Code: CodeInvalidHandle}
	ErrNotFound        error = &Error{Code: CodeNotFound}
	ErrIO              error = &Error{Code: CodeIO}
	ErrBadModel        error = &Error{Code: CodeBadModel}
	ErrIncompatible    error = &Error{Code: CodeIncompatible}
	ErrUnsupported     error = &Error{Code: CodeUnsupported}
	ErrOutOfMemory     error = &Error{Code: CodeOutOfMemory}
	ErrContextFull     error = &Error{Code: CodeContextFull}
	ErrBusy            error = &Error{Code: CodeBusy}
	ErrCancelled       error = &Error{Code: CodeCancelled}
	ErrTimeout         error = &Error{Code: CodeTimeout}
	ErrSuspended       error = &Error{Code: CodeSuspended}
	ErrDevice          error = &Error{Code: CodeDevice}
	ErrResources       error = &Error{Code: CodeResources}
	ErrBadGrammar      error = &Error{Code: CodeBadGrammar}
	ErrReentrant       error = &Error{Code: CodeReentrant}
	ErrForked          error = &Error{Code: CodeForked}
	ErrInternal        error = &Error{Code: CodeInternal}
)

// ErrClosed is wrapped by what a method of a closed object gives; such an error is an ErrInvalidHandle too.
var ErrClosed error = &Error{Code: CodeInvalidHandle, Message: "closed"}

// Stop, returned by a progress callback, ends the call that it is told of without an error from a training, and with
// ErrCancelled from a load.
var Stop = errors.New("mlxrt: stop")

// Error is what the library refuses or fails with.
type Error struct {
	Code    Code
	Message string // One sentence that names the file, key or argument.
	causes  []error
}

func (e *Error) Error() string {
	if e.Message == "" {
		return "mlxrt: " + e.Code.String()
	}
	return "mlxrt: " + e.Code.String() + ": " + e.Message
}

// Is makes errors.Is(err, mlxrt.ErrBusy) compare codes.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Message == "" && t.Code == e.Code
}

// Unwrap gives the context's error and its cause, where a context ended the call, and ErrClosed after Close.
func (e *Error) Unwrap() []error { return e.causes }

// take makes a Go error of one of C's, and frees that.
func take(e *C.mlxrt_error) error {
	if e == nil {
		return nil
	}
	err := &Error{Code: Code(C.mlxrt_error_code(e)), Message: C.GoString(C.mlxrt_error_message(e))}
	C.mlxrt_error_free(e)
	return err
}

func invalid(format string, args ...any) error {
	return &Error{Code: CodeInvalidArgument, Message: fmt.Sprintf(format, args...)}
}

func closedError(what string) error {
	return &Error{Code: CodeInvalidHandle, Message: what + " is closed", causes: []error{ErrClosed}}
}

// ended is the error of a call that its context ended; nil while the context lives.
func ended(ctx context.Context) error {
	err := ctx.Err()
	if err == nil {
		return nil
	}
	causes := []error{err}
	if cause := context.Cause(ctx); cause != err {
		causes = append(causes, cause)
	}
	code := CodeCancelled
	if errors.Is(err, context.DeadlineExceeded) {
		code = CodeTimeout
	}
	return &Error{Code: code, Message: err.Error(), causes: causes}
}

// checkText refuses what cannot be a C string.
func checkText(name, s string) error {
	if i := strings.IndexByte(s, 0); i >= 0 {
		return invalid("%s has a NUL byte at %d", name, i)
	}
	return nil
}
