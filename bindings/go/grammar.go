package mlxrt

// #include "bridge.h"
import "C"

import "context"

// GrammarKind is what a grammar is written in.
type GrammarKind int32

const (
	GrammarJSON       GrammarKind = C.MLXRT_GRAMMAR_JSON        // Any JSON object or list; the source is empty.
	GrammarJSONSchema GrammarKind = C.MLXRT_GRAMMAR_JSON_SCHEMA // A JSON schema.
	GrammarRegex      GrammarKind = C.MLXRT_GRAMMAR_REGEX       // A regular expression that the whole answer matches.
	GrammarLark       GrammarKind = C.MLXRT_GRAMMAR_LARK        // A context-free grammar in Lark's syntax.
)

// Grammar is what answers of one model must match: Options.Grammar. Any number of requests follow one at once.
type Grammar struct {
	life
	handle *C.mlxrt_grammar
}

// CompileGrammar compiles a grammar for the model's tokens. What cannot be followed is ErrBadGrammar, and the error names it.
// Close it.
func (m *Model) CompileGrammar(ctx context.Context, kind GrammarKind, source string) (*Grammar, error) {
	if err := m.check(); err != nil {
		return nil, err
	}
	var a arguments
	defer a.free()
	text, length := a.text(source)
	grammar := &Grammar{}
	call := &callback{ctx: ctx}
	err := call.call(func() error {
		options := C.mlxrt_call_options{struct_size: C.sizeof_mlxrt_call_options, timeout_ms: remaining(ctx)}
		C.mlxrt_go_enable_progress(&options.progress)
		options.progress_data = call.pointer(&a)
		return m.blame(take(C.mlxrt_grammar_compile(m.handle, C.int32_t(kind), text, length, &options, &grammar.handle)))
	})
	if err != nil {
		return nil, err
	}
	watch(&grammar.life, grammar, "grammar")
	return grammar, nil
}

// Close gives the grammar up. Requests that follow it go on.
func (g *Grammar) Close() error {
	if g.end() {
		C.mlxrt_grammar_free(g.handle)
	}
	return nil
}
