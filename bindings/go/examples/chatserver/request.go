package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	mlxrt "github.com/mlxrt/mlxrt/bindings/go"
)

// texts is a string or a list of them.
type texts []string

func (t *texts) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '"' {
		b = append(append([]byte("["), b...), ']')
	}
	return json.Unmarshal(b, (*[]string)(t))
}

// request is the body of a chat completion: what the server does, and below it what it refuses.
type request struct {
	Model               string             `json:"model"`
	Messages            json.RawMessage    `json:"messages"`
	Tools               json.RawMessage    `json:"tools"`
	ToolChoice          json.RawMessage    `json:"tool_choice"`
	Stream              bool               `json:"stream"`
	StreamOptions       *streamOptions     `json:"stream_options"`
	Stop                texts              `json:"stop"`
	MaxTokens           *int               `json:"max_tokens"`
	MaxCompletionTokens *int               `json:"max_completion_tokens"`
	Temperature         *float64           `json:"temperature"`
	TopP                *float64           `json:"top_p"`
	Seed                *int64             `json:"seed"`
	PresencePenalty     float64            `json:"presence_penalty"`
	FrequencyPenalty    float64            `json:"frequency_penalty"`
	LogitBias           map[string]float32 `json:"logit_bias"`
	Logprobs            bool               `json:"logprobs"`
	TopLogprobs         *int               `json:"top_logprobs"`

	ResponseFormat *responseFormat `json:"response_format"`

	N                 *int            `json:"n"`
	ParallelToolCalls *bool           `json:"parallel_tool_calls"`
	Modalities        []string        `json:"modalities"`
	Functions         json.RawMessage `json:"functions"`
	FunctionCall      json.RawMessage `json:"function_call"`
	Audio             json.RawMessage `json:"audio"`
	Prediction        json.RawMessage `json:"prediction"`
	WebSearchOptions  json.RawMessage `json:"web_search_options"`
}

type responseFormat struct {
	Type       string `json:"type"`
	JSONSchema struct {
		Schema json.RawMessage `json:"schema"`
	} `json:"json_schema"`
}

// grammar is what an answer in this form must match; ok is false for a form that the server does not know.
func (f *responseFormat) grammar() (source string, ok bool) {
	switch {
	case f == nil || f.Type == "text":
		return "", true
	case f.Type == "json_object":
		return `{"type": "object"}`, true
	case f.Type == "json_schema" && given(f.JSONSchema.Schema):
		return string(f.JSONSchema.Schema), true
	}
	return "", false
}

type streamOptions struct {
	IncludeUsage bool `json:"include_usage"`
}

// problem is an error in OpenAI's form.
type problem struct {
	status               int
	message, param, code string
}

func (p problem) reply(w http.ResponseWriter) { reply(w, p.status, p.body()) }

func (p problem) body() object {
	kind := "invalid_request_error"
	if p.status >= 500 {
		kind = "server_error"
	}
	or := func(text string) any {
		if text == "" {
			return nil
		}
		return text
	}
	return object{"error": object{"message": p.message, "type": kind, "param": or(p.param), "code": or(p.code)}}
}

func noModel(id string) problem {
	return problem{http.StatusNotFound, fmt.Sprintf("the model %q does not exist", id), "model", "model_not_found"}
}

// problemOf is an error of the library's.
func problemOf(err error) problem {
	p := problem{status: http.StatusInternalServerError, message: err.Error()}
	switch {
	case errors.Is(err, mlxrt.ErrContextFull):
		p.status, p.param, p.code = http.StatusBadRequest, "messages", "context_length_exceeded"
	case errors.Is(err, mlxrt.ErrBadGrammar):
		p.status, p.param = http.StatusBadRequest, "response_format"
		if strings.Contains(p.message, "input.tools") {
			p.param = "tools"
		}
	case errors.Is(err, mlxrt.ErrInvalidArgument), errors.Is(err, mlxrt.ErrUnsupported):
		p.status = http.StatusBadRequest
		if strings.Contains(p.message, "input.tool_choice") {
			p.param = "tool_choice"
		}
	case errors.Is(err, mlxrt.ErrOutOfMemory), errors.Is(err, mlxrt.ErrBusy), errors.Is(err, mlxrt.ErrSuspended):
		p.status = http.StatusServiceUnavailable
	}
	return p
}

// refused says what of the request the server does not do; nil is nothing.
func (q *request) refused() *problem {
	not := func(param, code, format string, args ...any) *problem {
		return &problem{http.StatusBadRequest, fmt.Sprintf(format, args...), param, code}
	}
	if q.N != nil && *q.N != 1 {
		return not("n", "unsupported_value", "n is %d: one answer at a time is all that this server gives", *q.N)
	}
	if _, ok := q.ResponseFormat.grammar(); !ok {
		return not("response_format", "unsupported_value", "response_format %q: it must be \"text\", \"json_object\", or \"json_schema\" with a schema", q.ResponseFormat.Type)
	}
	if p := q.ParallelToolCalls; p != nil && !*p {
		return not("parallel_tool_calls", "unsupported_value", "parallel_tool_calls cannot be turned off")
	}
	if slices.ContainsFunc(q.Modalities, func(m string) bool { return m != "text" }) {
		return not("modalities", "unsupported_value", "modalities other than \"text\" are not supported")
	}
	for param, value := range map[string]json.RawMessage{"functions": q.Functions, "function_call": q.FunctionCall, "audio": q.Audio,
		"prediction": q.Prediction, "web_search_options": q.WebSearchOptions} {
		if given(value) {
			return not(param, "unsupported_parameter", "%s is not supported", param)
		}
	}
	if q.StreamOptions != nil && !q.Stream {
		return not("stream_options", "", "stream_options goes with \"stream\": true")
	}
	if t := q.TopLogprobs; t != nil && (*t < 0 || *t > 20) {
		return not("top_logprobs", "", "top_logprobs is %d: it must be from 0 to 20", *t)
	}
	if q.TopLogprobs != nil && !q.Logprobs {
		return not("top_logprobs", "", "top_logprobs goes with \"logprobs\": true")
	}
	return nil
}

func given(value json.RawMessage) bool { return len(value) > 0 && !bytes.Equal(value, []byte("null")) }

func (q *request) input() mlxrt.Input {
	input := mlxrt.Input{MessagesJSON: q.Messages}
	if given(q.Tools) {
		input.Tools = q.Tools
	}
	if given(q.ToolChoice) {
		input.ToolChoice = q.ToolChoice
	}
	return input
}

// strict is whether a tool asks for arguments that obey its schema; all of them do then.
func (q *request) strict() bool {
	var tools []struct{ Function struct{ Strict bool } }
	return json.Unmarshal(q.Tools, &tools) == nil &&
		slices.ContainsFunc(tools, func(t struct{ Function struct{ Strict bool } }) bool { return t.Function.Strict })
}

func (q *request) options() (*mlxrt.Options, *problem) {
	o := &mlxrt.Options{MaxTokens: q.MaxTokens, Temperature: q.Temperature, TopP: q.TopP, Stop: q.Stop,
		PresencePenalty: q.PresencePenalty, FrequencyPenalty: q.FrequencyPenalty, Logprobs: q.Logprobs,
		StrictTools: q.strict(), ToolDeltas: q.Stream}
	if q.MaxCompletionTokens != nil {
		o.MaxTokens = q.MaxCompletionTokens
	}
	if q.Seed != nil {
		o.Seed = mlxrt.Ptr(uint64(*q.Seed))
	}
	if q.TopLogprobs != nil {
		o.TopLogprobs = *q.TopLogprobs
	}
	for text, value := range q.LogitBias {
		token, err := strconv.ParseInt(text, 10, 32)
		if err != nil || value < -100 || value > 100 {
			return nil, &problem{http.StatusBadRequest, "logit_bias has token ids and numbers from -100 to 100", "logit_bias", ""}
		}
		if o.Bias == nil {
			o.Bias = map[int32]float32{}
		}
		o.Bias[int32(token)] = value
	}
	return o, nil
}
