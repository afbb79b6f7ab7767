package mlxrt

// #include "bridge.h"
import "C"

import (
	"context"
	"encoding/json"
	"unsafe"
)

// SessionOptions say what a session is like. nil, and fields at zero, are the defaults.
type SessionOptions struct {
	// The most tokens the session holds; 0 is the model's limit.
	Context int
	// Keep keys and values of only so many of the latest tokens; 0 is of all.
	Window int
	// With Window: the first tokens that are never dropped; nil is 4, 0 none.
	Keep *int
	// Bits per cached key and value, 4 or 8, and values per group; 0 is unquantised, and the default.
	KVBits, KVGroupSize int
	// Bytes of keys and values that this session may use; 0 is what the budget has left.
	KVLimit uint64
}

func (o *SessionOptions) c(a *arguments) (C.mlxrt_session_options, error) {
	out := C.mlxrt_session_options{struct_size: C.sizeof_mlxrt_session_options}
	if o == nil {
		return out, nil
	}
	out.context = a.count("options.Context", o.Context)
	out.window = a.count("options.Window", o.Window)
	out.keep = a.signed("options.Keep", o.Keep)
	out.kv_bits = a.count("options.KVBits", o.KVBits)
	out.kv_group_size = a.count("options.KVGroupSize", o.KVGroupSize)
	out.kv_limit = C.uint64_t(o.KVLimit)
	return out, a.err
}

// Session is a conversation or text in progress on one model. Requests of one session run one after the other, those of
// several beside each other.
type Session struct {
	life
	handle *C.mlxrt_session
}

// NewSession starts a session. It holds no memory to speak of before its first request, and keeps what it needs of the model
// alive. Close it.
func (m *Model) NewSession(options *SessionOptions) (*Session, error) {
	if err := m.check(); err != nil {
		return nil, err
	}
	var a arguments
	defer a.free()
	opts, err := options.c(&a)
	if err != nil {
		return nil, err
	}
	s := &Session{}
	if err := take(C.mlxrt_session_create(m.handle, &opts, &s.handle)); err != nil {
		return nil, m.blame(err)
	}
	watch(&s.life, s, "session")
	return s, nil
}

// Close gives the session up. A request that runs on it ends as StoppedCancelled.
func (s *Session) Close() error {
	if s.end() {
		C.mlxrt_session_free(s.handle)
	}
	return nil
}

// SessionInfo tells where a session is.
type SessionInfo struct {
	// Tokens that the session holds, and can hold.
	Tokens, Context uint64
	// Tokens whose keys and values are computed, and the bytes of these.
	KVTokens, KVBytes uint64
	// A request runs on it.
	Busy bool
	// Adapters applied.
	Adapters int
}

// Info tells where the session is.
func (s *Session) Info() (SessionInfo, error) {
	if err := s.check(); err != nil {
		return SessionInfo{}, err
	}
	out := C.mlxrt_session_state{struct_size: C.sizeof_mlxrt_session_state}
	if err := take(C.mlxrt_session_info(s.handle, &out)); err != nil {
		return SessionInfo{}, s.blame(err)
	}
	return SessionInfo{
		Tokens: uint64(out.tokens), Context: uint64(out.context),
		KVTokens: uint64(out.kv_tokens), KVBytes: uint64(out.kv_bytes),
		Busy: out.busy != 0, Adapters: int(out.adapters),
	}, nil
}

// Tokens gives the tokens that the session holds: its ledger.
func (s *Session) Tokens() ([]int32, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	var ids *C.int32_t
	var count C.size_t
	if err := take(C.mlxrt_session_tokens(s.handle, &ids, &count)); err != nil {
		return nil, s.blame(err)
	}
	return takeInts(ids, count), nil
}

// MessageJSON gives the last answer in the form that Input.MessagesJSON takes. ErrNotFound when there is none yet.
func (s *Session) MessageJSON() (json.RawMessage, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	var text *C.char
	var length C.size_t
	if err := take(C.mlxrt_session_message(s.handle, &text, &length)); err != nil {
		return nil, s.blame(err)
	}
	return json.RawMessage(takeText(text, length)), nil
}

// Message gives the last answer, to be appended to the messages of the next turn. ErrNotFound when there is none yet.
func (s *Session) Message() (Message, error) {
	var message Message
	text, err := s.MessageJSON()
	if err == nil {
		err = parse(text, &message)
	}
	return message, err
}

// Fork makes a session of its own with the same tokens, options and adapters. What is computed is shared until one of the two
// goes on, so that a fork costs no more than its tokens, however long the session is. ErrBusy while a request of the session
// runs or waits. Close both, in any order.
func (s *Session) Fork() (*Session, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	fork := &Session{}
	if err := take(C.mlxrt_session_fork(s.handle, nil, &fork.handle)); err != nil {
		return nil, s.blame(err)
	}
	watch(&fork.life, fork, "session")
	return fork, nil
}

// Truncate keeps the first n tokens, as Tokens gives them, and forgets the rest, the last answer too. The next request goes on
// from there. ErrInvalidArgument when the session holds fewer, ErrBusy while a request of it runs or waits.
func (s *Session) Truncate(n int) error {
	if err := s.check(); err != nil {
		return err
	}
	if n < 0 {
		return invalid("n is %d", n)
	}
	return s.blame(take(C.mlxrt_session_truncate(s.handle, C.size_t(n))))
}

// Save writes the session to a file, whole or not at all: its tokens, its last answer, its options, which adapters are applied to
// it, and what is computed with these. mlx-lm 0.32 reads the file as a prompt cache. No request of the session begins meanwhile.
// progress may be nil. ErrBusy while a request of the session runs or waits.
func (s *Session) Save(ctx context.Context, path string, progress Progress) error {
	if err := s.check(); err != nil {
		return err
	}
	return reading(ctx, path, progress, func(path *C.char, options *C.mlxrt_call_options) error {
		return s.blame(take(C.mlxrt_session_save(s.handle, path, options)))
	})
}

// LoadSession makes a session of a file that Session.Save wrote, or save_prompt_cache of mlx-lm with the tokens in its metadata. It
// goes on as the one that was saved would have. Adapters that were applied to that one must be loaded: they are found by their
// weights. ErrIncompatible names what is not the model's, ErrBadModel a file that is damaged. progress may be nil. Close it.
func (m *Model) LoadSession(ctx context.Context, path string, progress Progress) (*Session, error) {
	if err := m.check(); err != nil {
		return nil, err
	}
	session := &Session{}
	err := reading(ctx, path, progress, func(path *C.char, options *C.mlxrt_call_options) error {
		return m.blame(take(C.mlxrt_session_load(m.handle, path, options, &session.handle)))
	})
	if err != nil {
		return nil, err
	}
	watch(&session.life, session, "session")
	return session, nil
}

// Score gives the log-probability of each token of target: what the model said of it after the session's tokens, those of
// prefix, and the target's before it. Text and tokens as a prefix follow the session's, messages stand in their place, and nil
// is nothing; a target is text or tokens. The session stays as it is. progress, which may be nil, hears of tokens.
func (s *Session) Score(ctx context.Context, prefix *Input, target Input, progress Progress) ([]float32, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	var a arguments
	defer a.free()
	var before *C.mlxrt_input
	if prefix != nil {
		in, err := prefix.c(&a)
		if err != nil {
			return nil, err
		}
		before = pin(&a, []C.mlxrt_input{in})
	}
	scored, err := target.c(&a)
	if err != nil {
		return nil, err
	}
	var logprobs *C.float
	var count C.size_t
	call := &callback{ctx: ctx, progress: progress}
	err = call.call(func() error {
		options := C.mlxrt_call_options{struct_size: C.sizeof_mlxrt_call_options, timeout_ms: remaining(ctx)}
		C.mlxrt_go_enable_progress(&options.progress)
		options.progress_data = call.pointer(&a)
		return s.blame(take(C.mlxrt_score(s.handle, before, &scored, &options, &logprobs, &count)))
	})
	// Also when a context has ended that the library did not hear of any more.
	defer C.mlxrt_free(unsafe.Pointer(logprobs))
	if err != nil {
		return nil, err
	}
	return copyOf((*float32)(unsafe.Pointer(logprobs)), int(count)), nil
}

// InspectAttention gives the keys that a layer's attention looks at, behind the rotary embedding: [kv_heads, tokens, head_dim], of
// the first of Tokens that are computed. ErrUnsupported when the layer has no keys, ErrNotFound when nothing is computed.
func (s *Session) InspectAttention(layer int) (Tensor, error) {
	if err := s.check(); err != nil {
		return Tensor{}, err
	}
	var a arguments
	number := a.count("layer", layer)
	if a.err != nil {
		return Tensor{}, a.err
	}
	out := C.mlxrt_tensor{struct_size: C.sizeof_mlxrt_tensor}
	if err := take(C.mlxrt_inspect_attention(s.handle, number, &out)); err != nil {
		return Tensor{}, s.blame(err)
	}
	return takeTensor(&out), nil
}

// Cancel ends what runs on the session now, as StoppedCancelled; a later request is not touched. It does nothing after Close.
func (s *Session) Cancel() {
	if s.check() == nil {
		C.mlxrt_session_cancel(s.handle)
	}
}

// Apply sets the adapters of the session, from the next request on: none, one, or several, whose changes add up.
func (s *Session) Apply(adapters ...*Adapter) error { return s.ApplyScaled(adapters, nil) }

// ApplyScaled is Apply with a number for each adapter that its scale is multiplied by; nil is 1 for each.
func (s *Session) ApplyScaled(adapters []*Adapter, scales []float32) error {
	if err := s.check(); err != nil {
		return err
	}
	var a arguments
	defer a.free()
	handles, values, err := adapterList(&a, adapters, scales)
	if err != nil {
		return err
	}
	return s.blame(take(C.mlxrt_apply_adapter(s.handle, handles, values, C.size_t(len(adapters)))))
}
