package mlxrt

// #include "bridge.h"
import "C"

import (
	"context"
	"encoding/json"
)

// LoadOptions say how a model is loaded. nil, and fields at zero, are the defaults.
type LoadOptions struct {
	// The most tokens a session may ask for; 0 is the model's own limit.
	Context int
	// The folder of a draft model for speculation; "" is none.
	DraftPath string
	// The folder's files may be links to files outside it, such as weights in a store.
	FollowLinks bool
	// Hears the bytes read of the bytes to read, while the load waits. An error ends the load and is what Load gives.
	Progress func(done, total uint64) error
}

func (o *LoadOptions) c(a *arguments) C.mlxrt_load_options {
	out := C.mlxrt_load_options{struct_size: C.sizeof_mlxrt_load_options}
	if o != nil {
		out.context = a.count("options.Context", o.Context)
		out.draft_path = a.optionalPath("options.DraftPath", o.DraftPath)
		if o.FollowLinks {
			out.flags |= C.MLXRT_LOAD_FOLLOW_LINKS
		}
	}
	return out
}

// Model is a loaded model.
type Model struct {
	life
	handle *C.mlxrt_model
}

// Load loads a model: a folder in mlx-lm's form, or the id of a model that is in the local Hugging Face cache. It starts the
// engine if it does not run. Close it.
func Load(ctx context.Context, path string, options *LoadOptions) (*Model, error) {
	var a arguments
	defer a.free()
	opts := options.c(&a)
	name := a.path("path", path)
	if a.err != nil {
		return nil, a.err
	}
	m := &Model{}
	call := &callback{ctx: ctx}
	if options != nil {
		call.progress = options.Progress
	}
	err := call.call(func() error {
		opts.timeout_ms = remaining(ctx)
		C.mlxrt_go_enable_progress(&opts.progress)
		opts.progress_data = call.pointer(&a)
		return take(C.mlxrt_model_load(name, &opts, &m.handle))
	})
	if err != nil {
		return nil, err
	}
	watch(&m.life, m, "model")
	return m, nil
}

// Close gives the model up. What sessions still need of it lives until the last of them is closed.
func (m *Model) Close() error {
	if m.end() {
		C.mlxrt_model_free(m.handle)
	}
	return nil
}

// ModelInfo tells what a model is. JSON has what the library says, with more keys than there are fields.
type ModelInfo struct {
	ModelType   string  `json:"model_type"`
	Parameters  uint64  `json:"parameters"`
	WeightBytes uint64  `json:"weight_bytes"`
	Context     uint64  `json:"context"`
	VocabSize   int     `json:"vocab_size"`
	EOSTokenIDs []int32 `json:"eos_token_ids"`
	ChatFormat  string  `json:"chat_format"`
	// Of Inspect: for one session as the options want it, and for everything.
	SessionContext uint64 `json:"session_context"`
	KVBytes        uint64 `json:"kv_bytes"`
	EstimatedBytes uint64 `json:"estimated_bytes"`

	JSON json.RawMessage `json:"-"`
}

// Info tells what the model is.
func (m *Model) Info() (ModelInfo, error) {
	if err := m.check(); err != nil {
		return ModelInfo{}, err
	}
	var text *C.char
	var length C.size_t
	if err := take(C.mlxrt_model_info(m.handle, &text, &length)); err != nil {
		return ModelInfo{}, m.blame(err)
	}
	return modelInfo(takeText(text, length))
}

// Inspect tells what a model folder holds and what it would need with these options, without reading its weights.
func Inspect(path string, load *LoadOptions, session *SessionOptions) (ModelInfo, error) {
	var a arguments
	defer a.free()
	loadOptions := load.c(&a)
	sessionOptions, err := session.c(&a)
	name := a.path("path", path)
	if err != nil || a.err != nil {
		return ModelInfo{}, a.err
	}
	var text *C.char
	var length C.size_t
	if err := take(C.mlxrt_model_inspect(name, &loadOptions, &sessionOptions, &text, &length)); err != nil {
		return ModelInfo{}, err
	}
	return modelInfo(takeText(text, length))
}

func modelInfo(text string) (ModelInfo, error) {
	info := ModelInfo{JSON: json.RawMessage(text)}
	err := parse(info.JSON, &info)
	return info, err
}

// parse reads JSON of the library's.
func parse(text json.RawMessage, into any) error {
	if err := json.Unmarshal(text, into); err != nil {
		return &Error{Code: CodeInternal, Message: "the library's JSON: " + err.Error(), causes: []error{err}}
	}
	return nil
}

// SaveOptions say what Save writes. nil is the model as it is.
type SaveOptions struct {
	// Adapters to fuse into the weights; none leaves them as they are.
	Adapters []*Adapter
	// A number for each adapter that its scale is multiplied by; nil is 1 for each.
	Scales []float32
	// Hears the bytes of weights written of all, while the call waits. An error ends the call and is what Save gives.
	Progress Progress
}

// Save writes the model, with adapters fused in, as a folder that mlx-lm and this library load. Weights are quantised as they
// were. A model that is in the folder is replaced when everything is on the disk, also if it is the one that was loaded.
func (m *Model) Save(ctx context.Context, path string, options *SaveOptions) error {
	if err := m.check(); err != nil {
		return err
	}
	if options == nil {
		options = &SaveOptions{}
	}
	var a arguments
	defer a.free()
	adapters, scales, err := adapterList(&a, options.Adapters, options.Scales)
	if err != nil {
		return err
	}
	count := C.size_t(len(options.Adapters))
	return reading(ctx, path, options.Progress, func(path *C.char, call *C.mlxrt_call_options) error {
		return m.blame(take(C.mlxrt_model_save(m.handle, adapters, scales, count, path, call)))
	})
}

// TokenizeOptions change Tokenize; nil changes nothing.
type TokenizeOptions struct {
	// Add what the tokenizer's post-processor adds (BOS, EOS).
	AddSpecial bool
	// Special tokens written in the text are just text.
	SpecialAsText bool
}

// Tokenize turns text into token ids.
func (m *Model) Tokenize(text string, options *TokenizeOptions) ([]int32, error) {
	if err := m.check(); err != nil {
		return nil, err
	}
	var flags C.uint32_t
	if options != nil && options.AddSpecial {
		flags |= C.MLXRT_TOKENIZE_ADD_SPECIAL
	}
	if options != nil && options.SpecialAsText {
		flags |= C.MLXRT_TOKENIZE_SPECIAL_AS_TEXT
	}
	var a arguments
	defer a.free()
	p, length := a.text(text)
	var ids *C.int32_t
	var count C.size_t
	if err := take(C.mlxrt_tokenize(m.handle, p, length, flags, &ids, &count)); err != nil {
		return nil, m.blame(err)
	}
	return takeInts(ids, count), nil
}

// DetokenizeOptions change Detokenize; nil changes nothing.
type DetokenizeOptions struct {
	// Leave special tokens out of the text.
	SkipSpecial bool
}

// Detokenize turns token ids into text; bytes that are no character come out as U+FFFD.
func (m *Model) Detokenize(ids []int32, options *DetokenizeOptions) (string, error) {
	if err := m.check(); err != nil {
		return "", err
	}
	var flags C.uint32_t
	if options != nil && options.SkipSpecial {
		flags |= C.MLXRT_DETOKENIZE_SKIP_SPECIAL
	}
	var a arguments
	defer a.free()
	var text *C.char
	var length C.size_t
	if err := take(C.mlxrt_detokenize(m.handle, int32s(&a, ids), C.size_t(len(ids)), flags, &text, &length)); err != nil {
		return "", m.blame(err)
	}
	return takeText(text, length), nil
}

// Render writes a conversation as the prompt that the model sees. The input must have messages.
func (m *Model) Render(input Input) (string, error) {
	if err := m.check(); err != nil {
		return "", err
	}
	var a arguments
	defer a.free()
	in, err := input.c(&a)
	if err != nil {
		return "", err
	}
	var text *C.char
	var length C.size_t
	if err := take(C.mlxrt_render(m.handle, &in, &text, &length)); err != nil {
		return "", m.blame(err)
	}
	return takeText(text, length), nil
}

// PromptTokens gives the tokens that a request of a fresh session starts from: the prompt as Generate takes it in. The
// content of messages makes no special tokens, so this is exact where tokenizing what Render gives is not.
func (m *Model) PromptTokens(input Input) ([]int32, error) {
	if err := m.check(); err != nil {
		return nil, err
	}
	var a arguments
	defer a.free()
	in, err := input.c(&a)
	if err != nil {
		return nil, err
	}
	var ids *C.int32_t
	var count C.size_t
	if err := take(C.mlxrt_count_tokens(m.handle, &in, &ids, &count)); err != nil {
		return nil, m.blame(err)
	}
	return takeInts(ids, count), nil
}

// CountTokens says how many tokens PromptTokens gives.
func (m *Model) CountTokens(input Input) (int, error) {
	if err := m.check(); err != nil {
		return 0, err
	}
	var a arguments
	defer a.free()
	in, err := input.c(&a)
	if err != nil {
		return 0, err
	}
	var count C.size_t
	if err := take(C.mlxrt_count_tokens(m.handle, &in, nil, &count)); err != nil {
		return 0, m.blame(err)
	}
	return int(count), nil
}
