package mlxrt

// #include "bridge.h"
import "C"

import (
	"encoding/json"
	"math"
	"time"
	"unicode/utf8"
)

// Message is one turn of a chat, as OpenAI's chat API has them. For what it lacks there is Input.MessagesJSON.
type Message struct {
	Role    string `json:"role"`
	Content string `json:"content"`
	Name    string `json:"name,omitempty"`
	// What the model thought before its answer.
	ReasoningContent string          `json:"reasoning_content,omitempty"`
	ToolCalls        json.RawMessage `json:"tool_calls,omitempty"`
	ToolCallID       string          `json:"tool_call_id,omitempty"`
}

// System is a message of the system's.
func System(content string) Message { return Message{Role: "system", Content: content} }

// User is a message of the user's.
func User(content string) Message { return Message{Role: "user", Content: content} }

// Assistant is an answer.
func Assistant(content string) Message { return Message{Role: "assistant", Content: content} }

// Input is what goes into a session: exactly one of Text, Tokens, Messages and MessagesJSON; if it is none of them, the empty
// text.
type Input struct {
	// Text that continues the session.
	Text string
	// Token ids that continue the session.
	Tokens []int32
	// The WHOLE history of a chat. What the session already holds of it is not computed again.
	Messages []Message
	// The same as a JSON array.
	MessagesJSON json.RawMessage
	// With messages: a JSON array of tools.
	Tools json.RawMessage
	// With messages: a JSON object for the chat template, such as {"enable_thinking":false}.
	TemplateArgs json.RawMessage
	// With tools, as JSON: "auto", which is the default; "none"; "required", the answer is a call; {"name":"…"}, a call of that
	// tool.
	ToolChoice json.RawMessage

	// Text at token 0 gets no BOS.
	NoBOS bool
	// Text: special tokens are not recognised.
	SpecialAsText bool
	// Messages: special tokens inside content are recognised. By default they never are, so content cannot forge a turn.
	TrustContent bool
	// Messages: do not open the assistant's turn.
	NoGenerationPrompt bool
	// Messages: continue the last one, which must be the assistant's.
	ContinueLast bool
}

// Text is an input that continues the session with text.
func Text(text string) Input { return Input{Text: text} }

// Tokens is an input that continues the session with token ids.
func Tokens(ids ...int32) Input { return Input{Tokens: ids} }

// Chat is an input of messages: the whole history.
func Chat(messages ...Message) Input { return Input{Messages: messages} }

func (in *Input) c(a *arguments) (C.mlxrt_input, error) {
	out := C.mlxrt_input{struct_size: C.sizeof_mlxrt_input}
	for _, flag := range []struct {
		set bool
		bit C.uint32_t
	}{
		{in.NoBOS, C.MLXRT_INPUT_NO_BOS},
		{in.SpecialAsText, C.MLXRT_INPUT_SPECIAL_AS_TEXT},
		{in.TrustContent, C.MLXRT_INPUT_TRUST_CONTENT},
		{in.NoGenerationPrompt, C.MLXRT_INPUT_NO_GENERATION_PROMPT},
		{in.ContinueLast, C.MLXRT_INPUT_CONTINUE_LAST},
	} {
		if flag.set {
			out.flags |= flag.bit
		}
	}
	messages := string(in.MessagesJSON)
	if in.Messages != nil {
		if in.MessagesJSON != nil {
			return out, invalid("input has Messages and MessagesJSON")
		}
		for i, m := range in.Messages {
			// json would replace it silently.
			if !utf8.ValidString(m.Role) || !utf8.ValidString(m.Content) || !utf8.ValidString(m.Name) ||
				!utf8.ValidString(m.ReasoningContent) || !utf8.ValidString(m.ToolCallID) {
				return out, invalid("input.Messages[%d] is not UTF-8", i)
			}
		}
		b, err := json.Marshal(in.Messages)
		if err != nil {
			return out, invalid("input.Messages: %v", err)
		}
		messages = string(b)
	}
	if in.Text != "" || in.Tokens == nil && in.Messages == nil && in.MessagesJSON == nil {
		out.text, out.text_len = a.text(in.Text)
	}
	if len(in.Tokens) > 0 {
		out.tokens, out.token_count = int32s(a, in.Tokens), C.size_t(len(in.Tokens))
	} else if in.Tokens != nil {
		out.tokens = int32s(a, make([]int32, 1))
	}
	if in.Messages != nil || in.MessagesJSON != nil {
		out.messages, out.messages_len = a.text(messages)
	}
	out.tools, out.tools_len = a.optional(string(in.Tools))
	out.template_args, out.template_args_len = a.optional(string(in.TemplateArgs))
	out.tool_choice, out.tool_choice_len = a.optional(string(in.ToolChoice))
	return out, a.err
}

// Options say how to generate. nil, and fields at nil or zero, are the defaults: the model's own where its
// generation_config.json has them.
type Options struct {
	// The most tokens to generate; nil is until the model ends or the context is full, 0 only takes the input in.
	MaxTokens *int
	// For the whole request, queueing included; 0 is no limit. Its end is StoppedTimeout, which is no error.
	Timeout time.Duration

	// 0 is greedy: always the most likely token.
	Temperature *float64
	// The smallest set of likely tokens with this probability, up to 1, which is off; 0 is the likeliest token alone.
	TopP *float64
	// Tokens at least this share of the likeliest one's probability; 0 is off.
	MinP *float64
	// The so many likeliest tokens; 0 is off.
	TopK *int
	// Probability with which the likeliest tokens are left out; 0 is off.
	XTCProbability *float64
	// With XTCProbability: tokens above this probability are left out, but for the least likely of them; nil is 0.1.
	XTCThreshold *float64
	// Divides the logits of tokens seen, greater than 0; 1 is off.
	RepetitionPenalty *float64
	// Taken from the logits of tokens seen, -2 to 2; and per occurrence.
	PresencePenalty, FrequencyPenalty float64
	// How many of the latest tokens the penalties look at; nil is 20, 0 none, negative all.
	PenaltyWindow *int
	// The same seed gives the same text; nil is a random one, which the result reports. (C has no seed 0: it is another
	// fixed number there, which the result reports.)
	Seed *uint64

	// Strings that end the generation; none of their bytes is ever delivered.
	Stop []string
	// Tokens that end the generation, besides the model's own.
	StopTokens []int32
	// What is added to the logits of tokens; math.Inf(-1) bans one.
	Bias map[int32]float32

	// What the answer must match; nil is anything.
	Grammar *Grammar

	// Log-probabilities of the model's own distribution; and so many alternatives for each token.
	Logprobs    bool
	TopLogprobs int
	// The most tokens of thinking; nil is no limit, 0 no thinking.
	ThinkingBudget *int
	// Tokens that are guessed at a time from what came before, which changes no answer; 0 is none, nil as many as pay.
	DraftTokens *int
	// An event of progress every so many tokens taken in; 0 is none.
	ProgressTokens int
	// Higher first where requests wait for the device; equals take turns, and nobody starves.
	Priority int32

	// Do not stop at an end-of-sequence token.
	IgnoreEOS bool
	// Events without text.
	TokensOnly bool
	// Reuse nothing that was computed before, by this session or by another one.
	NoPrefixCache bool
	// The defaults are neutral (temperature 1), not what the model's generation_config.json says.
	NoModelDefaults bool
	// No channels: everything is an event of text, markers included.
	RawText bool
	// With Input.Tools: the arguments of every call obey the schema of its tool.
	StrictTools bool
	// Events of calls while their arguments come.
	ToolDeltas bool
}

const (
	// Stands for a set 0 where C's 0 is the default, and any number above 0 is allowed.
	tiny = 1e-30
	// Stands for the seed 0.
	seedZero = 0x6d6c787274000000
)

func (o *Options) c(a *arguments) (C.mlxrt_generate_options, error) {
	out := C.mlxrt_generate_options{struct_size: C.sizeof_mlxrt_generate_options}
	if o == nil {
		return out, nil
	}
	greedy := o.Temperature != nil && *o.Temperature == 0
	prefillOnly := o.MaxTokens != nil && *o.MaxTokens == 0
	for _, flag := range []struct {
		set bool
		bit C.uint32_t
	}{
		{greedy, C.MLXRT_GEN_GREEDY},
		{prefillOnly, C.MLXRT_GEN_PREFILL_ONLY},
		{o.IgnoreEOS, C.MLXRT_GEN_IGNORE_EOS},
		{o.TokensOnly, C.MLXRT_GEN_TOKENS_ONLY},
		{o.NoPrefixCache, C.MLXRT_GEN_NO_PREFIX_CACHE},
		{o.NoModelDefaults, C.MLXRT_GEN_NO_MODEL_DEFAULTS},
		{o.Logprobs || o.TopLogprobs != 0, C.MLXRT_GEN_LOGPROBS},
		{o.RawText, C.MLXRT_GEN_RAW_TEXT},
		{o.StrictTools, C.MLXRT_GEN_STRICT_TOOLS},
		{o.ToolDeltas, C.MLXRT_GEN_TOOL_DELTAS},
	} {
		if flag.set {
			out.flags |= flag.bit
		}
	}
	if o.MaxTokens != nil {
		out.max_tokens = a.count("options.MaxTokens", *o.MaxTokens)
	}
	var err error
	if out.timeout_ms, err = milliseconds("options.Timeout", o.Timeout); err != nil {
		return out, err
	}
	if !greedy {
		out.temperature = float(o.Temperature, 0)
	}
	out.top_p = float(o.TopP, tiny)
	out.min_p = float(o.MinP, -1)
	out.top_k = a.signed("options.TopK", o.TopK)
	out.xtc_probability = float(o.XTCProbability, -1)
	out.xtc_threshold = float(o.XTCThreshold, tiny)
	if o.RepetitionPenalty != nil && *o.RepetitionPenalty == 0 {
		return out, invalid("options.RepetitionPenalty is 0; it must be greater than 0, and 1 is off")
	}
	out.repetition_penalty = float(o.RepetitionPenalty, 0)
	out.presence_penalty = C.float(o.PresencePenalty)
	out.frequency_penalty = C.float(o.FrequencyPenalty)
	switch w := o.PenaltyWindow; {
	case w == nil:
	case *w < 0:
		out.penalty_window = math.MaxUint32
	case *w == 0: // Penalties that look at nothing.
		out.repetition_penalty, out.presence_penalty, out.frequency_penalty = 1, 0, 0
	default:
		out.penalty_window = a.count("options.PenaltyWindow", *w)
	}
	if o.Seed != nil {
		out.seed = C.uint64_t(*o.Seed)
		if *o.Seed == 0 {
			out.seed = seedZero
		}
	}
	out.stop, out.stop_lens = a.texts(o.Stop)
	out.stop_count = C.size_t(len(o.Stop))
	out.stop_tokens, out.stop_token_count = int32s(a, o.StopTokens), C.size_t(len(o.StopTokens))
	if len(o.Bias) > 0 {
		tokens, values := make([]C.int32_t, 0, len(o.Bias)), make([]C.float, 0, len(o.Bias))
		for token, value := range o.Bias {
			tokens, values = append(tokens, C.int32_t(token)), append(values, C.float(value))
		}
		out.bias_tokens, out.bias_values = pin(a, tokens), pin(a, values)
		out.bias_count = C.size_t(len(tokens))
	}
	if o.Grammar != nil {
		if err := o.Grammar.check(); err != nil {
			return out, err
		}
		out.grammar = o.Grammar.handle
	}
	out.top_logprobs = a.count("options.TopLogprobs", o.TopLogprobs)
	out.thinking_budget = a.signed("options.ThinkingBudget", o.ThinkingBudget)
	out.draft_tokens = a.signed("options.DraftTokens", o.DraftTokens)
	out.progress_tokens = a.count("options.ProgressTokens", o.ProgressTokens)
	out.priority = C.int32_t(o.Priority)
	return out, a.err
}
