package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	mlxrt "github.com/mlxrt/mlxrt/bindings/go"
)

func finishReason(stop mlxrt.StopReason) string {
	switch stop {
	case mlxrt.StoppedLength, mlxrt.StoppedContext, mlxrt.StoppedTimeout:
		return "length"
	case mlxrt.StoppedToolCall:
		return "tool_calls"
	}
	return "stop"
}

// callOf is a call in OpenAI's form, where the arguments are the text of their JSON.
func callOf(text string) object {
	var call struct {
		ID, Name  string
		Arguments json.RawMessage
	}
	json.Unmarshal([]byte(text), &call)
	return object{"id": call.ID, "type": "function",
		"function": object{"name": call.Name, "arguments": string(call.Arguments)}}
}

// deltaOf is a piece of a call in OpenAI's form.
func deltaOf(text string) object {
	var delta struct {
		Index               int
		ID, Name, Arguments string
	}
	json.Unmarshal([]byte(text), &delta)
	function := object{"arguments": delta.Arguments}
	out := object{"index": delta.Index, "function": function}
	if delta.ID != "" {
		function["name"] = delta.Name
		out["id"], out["type"] = delta.ID, "function"
	}
	return out
}

func usage(r *mlxrt.Result) object {
	return object{"completion_tokens_details": object{"reasoning_tokens": r.ThinkingTokens},
		"prompt_tokens": r.PromptTokens, "completion_tokens": r.GeneratedTokens,
		"total_tokens": r.PromptTokens + r.GeneratedTokens, "prompt_tokens_details": object{"cached_tokens": r.CachedTokens}}
}

// logprobs is what an event's tokens were as likely as.
func (s *server) logprobs(event mlxrt.Event) []object {
	one := func(token int32, logprob float32) object {
		text, err := s.model.Detokenize([]int32{token}, nil)
		out := object{"token": text, "logprob": max(logprob, -9999), "bytes": nil} // -9999: OpenAI's for what is banned.
		// A token may be a part of a character.
		if err == nil && !strings.ContainsRune(text, utf8.RuneError) {
			bytes := make([]int, len(text))
			for i := range bytes {
				bytes[i] = int(text[i])
			}
			out["bytes"] = bytes
		}
		return out
	}
	out := []object{}
	for i, token := range event.Tokens {
		if i >= len(event.Logprobs) || slices.Contains(s.ends, token) {
			continue
		}
		entry, top := one(token, event.Logprobs[i]), []object{}
		if i < len(event.Top) {
			for _, t := range event.Top[i] {
				top = append(top, one(t.Token, t.Logprob))
			}
		}
		entry["top_logprobs"] = top
		out = append(out, entry)
	}
	return out
}

func (s *server) chat(w http.ResponseWriter, r *http.Request) {
	q := request{Messages: json.RawMessage("[]")}
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 16<<20)).Decode(&q); err != nil {
		problem{status: http.StatusBadRequest, message: "the body is no request: " + err.Error()}.reply(w)
		return
	}
	if q.Model != s.name {
		noModel(q.Model).reply(w)
		return
	}
	refused := q.refused()
	options, wrong := q.options()
	if refused == nil {
		refused = wrong
	}
	if refused != nil {
		refused.reply(w)
		return
	}
	input := q.input()
	prompt, err := s.model.PromptTokens(input)
	if err != nil {
		problemOf(err).reply(w)
		return
	}
	if schema, _ := q.ResponseFormat.grammar(); schema != "" {
		grammar, err := s.model.CompileGrammar(r.Context(), mlxrt.GrammarJSONSchema, schema)
		if err != nil {
			problemOf(err).reply(w)
			return
		}
		defer grammar.Close()
		options.Grammar = grammar
	}
	session, err := s.sessions.take(prompt)
	if err != nil {
		problemOf(err).reply(w)
		return
	}
	defer s.sessions.release(session)

	id, now := fmt.Sprintf("chatcmpl-%d", time.Now().UnixNano()), time.Now().Unix()
	answer := func(kind string, choices ...object) object {
		return object{"id": id, "object": kind, "created": now, "model": s.name, "choices": append([]object{}, choices...)}
	}
	likely := func(entries []object) any {
		if !q.Logprobs {
			return nil
		}
		return object{"content": entries, "refusal": nil}
	}
	withUsage := q.StreamOptions != nil && q.StreamOptions.IncludeUsage
	send := func(chunk object) {
		if _, known := chunk["usage"]; withUsage && !known {
			chunk["usage"] = nil
		}
		data, _ := json.Marshal(chunk)
		fmt.Fprintf(w, "data: %s\n\n", data)
		w.(http.Flusher).Flush()
	}
	delta := func(delta object, logprobs, finish any) {
		send(answer("chat.completion.chunk", object{"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish}))
	}
	started := false
	var text, thinking strings.Builder
	calls := []object{}
	entries := []object{}
	var result *mlxrt.Result
	// The request's context ends when the client is gone.
	for event, err := range session.Generate(r.Context(), input, options) {
		switch {
		case err != nil && !started:
			problemOf(err).reply(w)
			return
		case err != nil:
			send(problemOf(err).body())
			return
		case q.Stream && !started:
			started = true
			w.Header().Set("Content-Type", "text/event-stream")
			delta(object{"role": "assistant", "content": ""}, nil, nil)
		}
		if event.Result != nil {
			result = event.Result
			break
		}
		var now []object
		if q.Logprobs {
			now = s.logprobs(event)
		}
		switch {
		case event.Kind == mlxrt.EventThinking && event.Text != "":
			thinking.WriteString(event.Text)
			if q.Stream {
				delta(object{"reasoning_content": event.Text}, nil, nil)
			}
		case event.Kind == mlxrt.EventToolDelta:
			delta(object{"tool_calls": []object{deltaOf(event.Text)}}, nil, nil)
		case event.Kind == mlxrt.EventToolCall:
			calls = append(calls, callOf(event.Text))
		case event.Kind != mlxrt.EventText || event.Text == "" && len(now) == 0:
		case q.Stream:
			delta(object{"content": event.Text}, likely(now), nil)
		default:
			text.WriteString(event.Text)
			entries = append(entries, now...)
		}
	}
	if q.Stream {
		delta(object{}, nil, finishReason(result.Stop))
		if withUsage {
			last := answer("chat.completion.chunk")
			last["usage"] = usage(result)
			send(last)
		}
		fmt.Fprint(w, "data: [DONE]\n\n")
		return
	}
	message := object{"role": "assistant", "content": text.String(), "refusal": nil}
	if thinking.Len() > 0 {
		message["reasoning_content"] = thinking.String()
	}
	if len(calls) > 0 {
		message["tool_calls"] = calls
		if text.Len() == 0 {
			message["content"] = nil
		}
	}
	body := answer("chat.completion", object{"index": 0, "logprobs": likely(entries), "finish_reason": finishReason(result.Stop),
		"message": message})
	body["usage"] = usage(result)
	reply(w, http.StatusOK, body)
}
