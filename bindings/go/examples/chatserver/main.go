// Chatserver answers OpenAI's chat API (/v1/chat/completions, /v1/models) with a local model:
//
//	go run ./examples/chatserver -model path/to/model -listen 127.0.0.1:8080
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log"
	"net/http"
	"path/filepath"
	"time"

	mlxrt "github.com/mlxrt/mlxrt/bindings/go"
)

type server struct {
	model *mlxrt.Model
	name  string
	// Sessions that nobody uses: the next turn of a chat may find there what is computed already.
	idle chan *mlxrt.Session
}

func (s *server) session() (*mlxrt.Session, error) {
	select {
	case session := <-s.idle:
		return session, nil
	default:
		return s.model.NewSession(nil)
	}
}

func (s *server) release(session *mlxrt.Session) {
	select {
	case s.idle <- session:
	default:
		session.Close()
	}
}

// texts is a string or a list of them.
type texts []string

func (t *texts) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '"' {
		b = append(append([]byte("["), b...), ']')
	}
	return json.Unmarshal(b, (*[]string)(t))
}

type request struct {
	Model               string          `json:"model"`
	Messages            json.RawMessage `json:"messages"`
	Tools               json.RawMessage `json:"tools"`
	Stream              bool            `json:"stream"`
	StreamOptions       map[string]bool `json:"stream_options"`
	Stop                texts           `json:"stop"`
	MaxTokens           *int            `json:"max_tokens"`
	MaxCompletionTokens *int            `json:"max_completion_tokens"`
	Temperature         *float64        `json:"temperature"`
	TopP                *float64        `json:"top_p"`
	Seed                *uint64         `json:"seed"`
	PresencePenalty     float64         `json:"presence_penalty"`
	FrequencyPenalty    float64         `json:"frequency_penalty"`
}

type object = map[string]any

// refuse answers with an error in OpenAI's form.
func refuse(w http.ResponseWriter, status int, message string) {
	kind := map[bool]string{true: "invalid_request_error", false: "server_error"}[status < 500]
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(object{"error": object{"message": message, "type": kind, "param": nil, "code": nil}})
}

func fail(w http.ResponseWriter, err error) {
	status := http.StatusInternalServerError
	if errors.Is(err, mlxrt.ErrInvalidArgument) || errors.Is(err, mlxrt.ErrUnsupported) || errors.Is(err, mlxrt.ErrContextFull) {
		status = http.StatusBadRequest
	}
	refuse(w, status, err.Error())
}

func finishReason(stop mlxrt.StopReason) string {
	switch stop {
	case mlxrt.StoppedLength, mlxrt.StoppedContext, mlxrt.StoppedTimeout:
		return "length"
	case mlxrt.StoppedToolCall:
		return "tool_calls"
	}
	return "stop"
}

func usage(r *mlxrt.Result) object {
	return object{"prompt_tokens": r.PromptTokens, "completion_tokens": r.GeneratedTokens,
		"total_tokens": r.PromptTokens + r.GeneratedTokens, "prompt_tokens_details": object{"cached_tokens": r.CachedTokens}}
}

func (s *server) chat(w http.ResponseWriter, r *http.Request) {
	q := request{Messages: json.RawMessage("[]")}
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 16<<20)).Decode(&q); err != nil {
		refuse(w, http.StatusBadRequest, "the body is no request: "+err.Error())
		return
	}
	if q.Model != s.name {
		refuse(w, http.StatusNotFound, fmt.Sprintf("the model %q does not exist", q.Model))
		return
	}
	if q.MaxCompletionTokens != nil {
		q.MaxTokens = q.MaxCompletionTokens
	}
	session, err := s.session()
	if err != nil {
		fail(w, err)
		return
	}
	defer s.release(session)
	// The request's context ends when the client is gone.
	events := session.Generate(r.Context(), mlxrt.Input{MessagesJSON: q.Messages, Tools: q.Tools}, &mlxrt.Options{
		MaxTokens: q.MaxTokens, Temperature: q.Temperature, TopP: q.TopP, Seed: q.Seed, Stop: q.Stop,
		PresencePenalty: q.PresencePenalty, FrequencyPenalty: q.FrequencyPenalty,
	})
	id, now := fmt.Sprintf("chatcmpl-%d", time.Now().UnixNano()), time.Now().Unix()
	answer := func(kind string, choices ...object) object {
		return object{"id": id, "object": kind, "created": now, "model": s.name, "choices": append([]object{}, choices...)}
	}
	if !q.Stream {
		whole, err := mlxrt.Collect(events)
		if err != nil {
			fail(w, err)
			return
		}
		body := answer("chat.completion", object{"index": 0, "logprobs": nil, "finish_reason": finishReason(whole.Result.Stop),
			"message": object{"role": "assistant", "content": whole.Text, "refusal": nil}})
		body["usage"] = usage(whole.Result)
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(body)
		return
	}
	started := false
	send := func(chunk object) {
		data, _ := json.Marshal(chunk)
		fmt.Fprintf(w, "data: %s\n\n", data)
		w.(http.Flusher).Flush()
	}
	delta := func(delta object, finish any) {
		send(answer("chat.completion.chunk", object{"index": 0, "delta": delta, "logprobs": nil, "finish_reason": finish}))
	}
	for event, err := range events {
		switch {
		case err != nil && !started:
			fail(w, err)
			return
		case err != nil:
			send(object{"error": object{"message": err.Error(), "type": "server_error"}})
			return
		case !started:
			started = true
			w.Header().Set("Content-Type", "text/event-stream")
			delta(object{"role": "assistant", "content": ""}, nil)
		}
		if event.Kind == mlxrt.EventText && event.Text != "" {
			delta(object{"content": event.Text}, nil)
		}
		if event.Result != nil {
			delta(object{}, finishReason(event.Result.Stop))
			if q.StreamOptions["include_usage"] {
				last := answer("chat.completion.chunk")
				last["usage"] = usage(event.Result)
				send(last)
			}
		}
	}
	fmt.Fprint(w, "data: [DONE]\n\n")
}

func main() {
	path := flag.String("model", "", "folder of the model, or its id in the local Hugging Face cache")
	listen := flag.String("listen", "127.0.0.1:8080", "address to listen on")
	flag.Parse()
	model, err := mlxrt.Load(context.Background(), *path, nil)
	if err != nil {
		log.Fatal(err)
	}
	s := &server{model: model, name: filepath.Base(*path), idle: make(chan *mlxrt.Session, 4)}
	card := object{"id": s.name, "object": "model", "created": time.Now().Unix(), "owned_by": "local"}
	http.HandleFunc("POST /v1/chat/completions", s.chat)
	http.HandleFunc("GET /v1/models", func(w http.ResponseWriter, r *http.Request) {
		json.NewEncoder(w).Encode(object{"object": "list", "data": []object{card}})
	})
	log.Printf("serving %s at http://%s/v1", s.name, *listen)
	log.Fatal(http.ListenAndServe(*listen, nil))
}
