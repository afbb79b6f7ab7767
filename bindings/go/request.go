package mlxrt

// #include "bridge.h"
import "C"

import (
	"context"
	"errors"
	"io"
	"iter"
	"sync"
	"time"
	"unsafe"
)

// EventKind says what an Event is. Later versions of the library may have more kinds; ignore what you do not know.
type EventKind int32

const (
	EventProgress EventKind = C.MLXRT_EVENT_PROGRESS  // The input is being taken in: Done of Total tokens.
	EventText     EventKind = C.MLXRT_EVENT_TEXT      // A piece of the answer.
	EventThinking EventKind = C.MLXRT_EVENT_THINKING  // A piece of the model's thinking.
	EventToolCall EventKind = C.MLXRT_EVENT_TOOL_CALL // Text is one {"id","name","arguments":{...}}.
	// With Options.ToolDeltas, a piece of a call that is not complete: Text is {"index","arguments"}, at first with "id" and "name".
	// All pieces of arguments together are the text of their JSON. EventToolCall follows, or text, if it was no call.
	EventToolDelta EventKind = C.MLXRT_EVENT_TOOL_DELTA
	EventEnd       EventKind = -1 // The last one: Result says how it ended and what it cost.
)

// Event is a piece of what a generation produces.
type Event struct {
	Kind EventKind
	// Whole code points; may be empty.
	Text string
	// Exactly the tokens that this event completes; those of all events joined are all generated tokens.
	Tokens []int32
	// With Options.Logprobs: one for each token.
	Logprobs []float32
	// With Options.TopLogprobs: the likeliest alternatives for each token.
	Top [][]TokenLogprob
	// EventProgress: tokens taken in, and to take in.
	Done, Total uint64
	// EventEnd, else nil.
	Result *Result
}

// TokenLogprob is a token that the model could have chosen.
type TokenLogprob struct {
	Token   int32
	Logprob float32
}

// StopReason says why a generation ended. Later versions of the library may have more reasons.
type StopReason int32

const (
	StoppedEOS       StopReason = C.MLXRT_STOPPED_EOS       // The model ended its answer.
	StoppedString    StopReason = C.MLXRT_STOPPED_STRING    // A stop string appeared; StopIndex says which.
	StoppedToken     StopReason = C.MLXRT_STOPPED_TOKEN     // A stop token appeared; StopIndex says which.
	StoppedLength    StopReason = C.MLXRT_STOPPED_LENGTH    // MaxTokens were generated.
	StoppedContext   StopReason = C.MLXRT_STOPPED_CONTEXT   // The session's context is full.
	StoppedCallback  StopReason = C.MLXRT_STOPPED_CALLBACK  // Not of requests.
	StoppedCancelled StopReason = C.MLXRT_STOPPED_CANCELLED // A cancel, a Close, or a forced shutdown.
	StoppedTimeout   StopReason = C.MLXRT_STOPPED_TIMEOUT   // Options.Timeout passed.
	StoppedToolCall  StopReason = C.MLXRT_STOPPED_TOOL_CALL // The model called a tool and waits for its answer.
	StoppedGrammar   StopReason = C.MLXRT_STOPPED_GRAMMAR   // The grammar allows nothing more.
	StoppedError     StopReason = C.MLXRT_STOPPED_ERROR     // It failed; the error came with the last event.
)

// Result says how a generation ended and what it cost.
type Result struct {
	Stop      StopReason
	StopIndex int
	// The seed that was used.
	Seed uint64
	// Tokens before the first generated one: what the session held, or the part of it that stays, and the input.
	PromptTokens uint64
	// Of PromptTokens: those not computed now, since the session or a cache had them.
	CachedTokens uint64
	// Tokens delivered, thinking included.
	GeneratedTokens uint64
	ThinkingTokens  uint64
	// Tokens that were guessed, and those of them that were right.
	Drafted, Accepted uint64
	// From the call until the engine began; taking the input in; from the call until the first token (0: there was none);
	// from the first token to the last one; from the call to the end.
	Queue, Prefill, FirstToken, Decode, Total time.Duration
	// The most bytes in use at once during the call, those at its end, and of these the session's keys and values.
	PeakBytes, ActiveBytes, KVBytes uint64
}

// Request is a generation that was submitted. Any goroutine may use it; each event goes to one of them.
type Request struct {
	life
	ctx       context.Context
	canceller *canceller
	stopWatch func() bool
	bell      *bell

	// Held by whoever waits for an event or the end.
	mu     sync.Mutex
	handle *C.mlxrt_request
	wake   *C.mlxrt_go_wake
	last   error // What Next gives from now on.
}

// canceller is what a context holds of a request: not the request, so that one that nobody closes is garbage while its
// context lives.
type canceller struct {
	mu     sync.Mutex
	handle *C.mlxrt_request // nil when it is freed.
}

func (c *canceller) cancel() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.handle != nil {
		C.mlxrt_request_cancel(c.handle)
	}
}

func (c *canceller) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.handle = nil
}

// Submit queues a request on the session, behind those that were submitted before it, and returns at once; tokenising the
// input is done here. When ctx ends, the request does. Close it.
func (s *Session) Submit(ctx context.Context, input Input, options *Options) (*Request, error) {
	if err := ended(ctx); err != nil {
		return nil, err
	}
	if err := s.check(); err != nil {
		return nil, err
	}
	var a arguments
	defer a.free()
	in, err := input.c(&a)
	if err != nil {
		return nil, err
	}
	opts, err := options.c(&a)
	if err != nil {
		return nil, err
	}
	bell, err := newBell()
	if err != nil {
		return nil, err
	}
	r := &Request{ctx: ctx, bell: bell}
	if err := take(C.mlxrt_go_submit(s.handle, &in, &opts, bell.ring, &r.wake, &r.handle)); err != nil {
		bell.release()
		return nil, s.blame(err)
	}
	watch(&r.life, r, "request")
	r.canceller = &canceller{handle: r.handle}
	r.stopWatch = context.AfterFunc(ctx, r.canceller.cancel)
	return r, nil
}

// Next waits for the next event. The last one is of EventEnd, also when the request failed and there is an error with it;
// after it there is io.EOF, or that error again.
func (r *Request) Next() (Event, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.check(); err != nil {
		return Event{}, err
	}
	if r.last != nil {
		return Event{}, r.last
	}
	if r.ctx.Err() != nil {
		return r.finish(true)
	}
	var event *C.mlxrt_event
	for {
		var state C.int32_t
		err := C.mlxrt_go_next(r.handle, r.wake, &event, &state)
		switch {
		case err != nil || state == C.MLXRT_NEXT_DONE:
			C.mlxrt_error_free(err) // The result comes with the same.
			return r.finish(false)
		case state == C.MLXRT_NEXT_EVENT:
			out := eventOf(event)
			C.mlxrt_free(unsafe.Pointer(event))
			return out, nil
		}
		r.bell.wait()
		if r.ctx.Err() != nil {
			return r.finish(true)
		}
	}
}

// finish makes the last event, and what Next gives after it. With interrupted, events may be lost to the context.
func (r *Request) finish(interrupted bool) (Event, error) {
	if interrupted {
		r.canceller.cancel()
	}
	result, err := r.wait()
	if err == nil && interrupted {
		err = ended(r.ctx)
	}
	r.last = err
	if err == nil {
		r.last = io.EOF
	}
	return Event{Kind: EventEnd, Result: result}, err
}

// wait waits for the end, with r.mu held.
func (r *Request) wait() (*Result, error) {
	for {
		var out C.mlxrt_result
		out.struct_size = C.sizeof_mlxrt_result
		err := take(C.mlxrt_go_result(r.handle, r.wake, &out))
		// A request's own time is up as StoppedTimeout, which is no error: this one says that it has not ended.
		if errors.Is(err, ErrTimeout) {
			r.bell.wait()
			continue
		}
		if err == nil && out.stop == C.MLXRT_STOPPED_CANCELLED {
			err = ended(r.ctx)
		}
		return resultOf(&out), err
	}
}

// Result waits for the end, dropping events that nobody has taken.
func (r *Request) Result() (*Result, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.check(); err != nil {
		return nil, err
	}
	return r.wait()
}

// Events gives all events, up to the one of EventEnd. An error comes with the last event. The request stays open.
func (r *Request) Events() iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		for {
			event, err := r.Next()
			if err == io.EOF || !yield(event, err) || err != nil {
				return
			}
		}
	}
}

// Cancel ends the request within one decode step or one chunk of the prompt, as StoppedCancelled. The session stays usable
// and keeps what was made.
func (r *Request) Cancel() { r.canceller.cancel() }

// Close cancels the request and gives it up. It waits for goroutines that are in Next or Result.
func (r *Request) Close() error {
	if !r.end() {
		return nil
	}
	r.stopWatch()
	r.canceller.cancel()
	r.canceller.forget()
	r.mu.Lock()
	defer r.mu.Unlock()
	C.mlxrt_go_request_free(r.handle, r.wake)
	r.bell.release()
	return nil
}

// Generate runs one request on the session, and gives what it produces: a range over it submits the request, and leaving the
// loop cancels it and waits for its end. The last event is of EventEnd and has the Result; an error comes with the last event.
// Requests of one session run one after the other, so the loop's body must not wait for another one of the same session: this one
// waits for its reader once it is some tokens ahead. What was made until then is in the session, also where the loop was left
// before it came.
func (s *Session) Generate(ctx context.Context, input Input, options *Options) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		r, err := s.Submit(ctx, input, options)
		if err != nil {
			yield(Event{Kind: EventEnd}, err)
			return
		}
		defer func() {
			r.Cancel()
			r.Result()
			r.Close()
		}()
		r.Events()(yield)
	}
}

// Answer is what a whole generation produced.
type Answer struct {
	Text     string
	Thinking string
	// One {"id","name","arguments":{...}} each.
	ToolCalls []string
	Tokens    []int32
	Result    *Result
}

// Complete runs one request to its end. With an error there is what was produced before it.
func (s *Session) Complete(ctx context.Context, input Input, options *Options) (*Answer, error) {
	return Collect(s.Generate(ctx, input, options))
}

// Collect joins the events of a generation. With an error there is what was produced before it.
func Collect(events iter.Seq2[Event, error]) (*Answer, error) {
	var text, thinking []byte
	answer := &Answer{}
	var failed error
	for event, err := range events {
		failed = err
		answer.Tokens = append(answer.Tokens, event.Tokens...)
		switch event.Kind {
		case EventText:
			text = append(text, event.Text...)
		case EventThinking:
			thinking = append(thinking, event.Text...)
		case EventToolCall:
			answer.ToolCalls = append(answer.ToolCalls, event.Text)
		case EventEnd:
			answer.Result = event.Result
		}
	}
	answer.Text, answer.Thinking = string(text), string(thinking)
	return answer, failed
}

func eventOf(e *C.mlxrt_event) Event {
	out := Event{
		Kind:     EventKind(e.kind),
		Text:     string(unsafe.Slice((*byte)(unsafe.Pointer(e.text)), int(e.text_len))),
		Tokens:   copyOf((*int32)(unsafe.Pointer(e.tokens)), int(e.token_count)),
		Logprobs: copyOf((*float32)(unsafe.Pointer(e.logprobs)), int(e.token_count)),
		Done:     uint64(e.done),
		Total:    uint64(e.total),
	}
	if n := int(e.top_count); n > 0 && e.top_tokens != nil && e.top_logprobs != nil {
		tokens := unsafe.Slice((*int32)(unsafe.Pointer(e.top_tokens)), n*len(out.Tokens))
		logprobs := unsafe.Slice((*float32)(unsafe.Pointer(e.top_logprobs)), n*len(out.Tokens))
		if e.logprobs == nil {
			out.Logprobs = nil
		}
		for range out.Tokens {
			top := make([]TokenLogprob, n)
			for i := range top {
				top[i] = TokenLogprob{tokens[i], logprobs[i]}
			}
			out.Top = append(out.Top, top)
			tokens, logprobs = tokens[n:], logprobs[n:]
		}
	}
	return out
}

func resultOf(r *C.mlxrt_result) *Result {
	return &Result{
		Stop:            StopReason(r.stop),
		StopIndex:       int(r.stop_index),
		Seed:            uint64(r.seed),
		PromptTokens:    uint64(r.prompt_tokens),
		CachedTokens:    uint64(r.cached_tokens),
		GeneratedTokens: uint64(r.generated_tokens),
		ThinkingTokens:  uint64(r.thinking_tokens),
		Drafted:         uint64(r.drafted),
		Accepted:        uint64(r.accepted),
		Queue:           time.Duration(r.queue_ns),
		Prefill:         time.Duration(r.prefill_ns),
		FirstToken:      time.Duration(r.first_token_ns),
		Decode:          time.Duration(r.decode_ns),
		Total:           time.Duration(r.total_ns),
		PeakBytes:       uint64(r.peak_bytes),
		ActiveBytes:     uint64(r.active_bytes),
		KVBytes:         uint64(r.kv_bytes),
	}
}
