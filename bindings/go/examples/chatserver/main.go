// Chatserver answers OpenAI's chat API with a local model:
//
//	go run ./examples/chatserver -model path/to/model -listen 127.0.0.1:8080
//
// It has /v1/chat/completions, /v1/models, /v1/models/{id}, /health and, in Prometheus' form, /metrics. With -draft a smaller
// model guesses for it; the answers stay the same.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"time"

	mlxrt "github.com/mlxrt/mlxrt/bindings/go"
)

// Chats whose computed keys and values are kept for their next turn.
const keptSessions = 4

type server struct {
	model    *mlxrt.Model
	name     string
	created  int64
	sessions *pool
	// Tokens that end an answer and are no part of its text.
	ends []int32
}

func newServer(model *mlxrt.Model, name string) (*server, error) {
	info, err := model.Info()
	if err != nil {
		return nil, err
	}
	return &server{model: model, name: name, created: time.Now().Unix(), ends: info.EOSTokenIDs,
		sessions: &pool{model: model, limit: keptSessions}}, nil
}

// handler serves everything; browsers of these origins may read it ("*": of all).
func (s *server) handler(origins []string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/chat/completions", s.chat)
	mux.HandleFunc("GET /v1/models", func(w http.ResponseWriter, r *http.Request) {
		reply(w, http.StatusOK, object{"object": "list", "data": []object{s.card()}})
	})
	// An id may have a slash.
	mux.HandleFunc("GET /v1/models/{id...}", func(w http.ResponseWriter, r *http.Request) {
		if id := r.PathValue("id"); id != s.name {
			noModel(id).reply(w)
			return
		}
		reply(w, http.StatusOK, s.card())
	})
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, r *http.Request) {
		if _, err := s.model.Metrics(); err != nil {
			problem{status: http.StatusServiceUnavailable, message: err.Error()}.reply(w)
			return
		}
		reply(w, http.StatusOK, object{"status": "ok"})
	})
	mux.HandleFunc("GET /metrics", s.metrics)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		problem{status: http.StatusNotFound, message: fmt.Sprintf("there is no %s %s", r.Method, r.URL.Path)}.reply(w)
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if origin := r.Header.Get("Origin"); origin != "" && (slices.Contains(origins, "*") || slices.Contains(origins, origin)) {
			header := w.Header()
			header.Set("Access-Control-Allow-Origin", origin)
			header.Add("Vary", "Origin")
			if r.Method == http.MethodOptions && r.Header.Get("Access-Control-Request-Method") != "" {
				header.Set("Access-Control-Allow-Methods", "GET, POST")
				header.Set("Access-Control-Allow-Headers", r.Header.Get("Access-Control-Request-Headers"))
				w.WriteHeader(http.StatusNoContent)
				return
			}
		}
		mux.ServeHTTP(w, r)
	})
}

// metrics tells how the model is used: rows by passes is how many requests shared a step.
func (s *server) metrics(w http.ResponseWriter, r *http.Request) {
	m, err := s.model.Metrics()
	if err != nil {
		problem{status: http.StatusServiceUnavailable, message: err.Error()}.reply(w)
		return
	}
	w.Header().Set("Content-Type", "text/plain; version=0.0.4")
	for _, row := range []struct {
		name, kind, help string
		value            any
	}{
		{"requests_total", "counter", "Requests that came.", m.RequestsStarted},
		{"requests_failed_total", "counter", "Requests that ended with an error.", m.RequestsFailed},
		{"requests_running", "gauge", "Requests that have not ended.", m.RequestsRunning},
		{"requests_waiting", "gauge", "Of those running, such as have not begun.", m.RequestsWaiting},
		{"queue_seconds_total", "counter", "What ended requests waited before they began.", m.Queue.Seconds()},
		{"prompt_tokens_total", "counter", "Tokens of prompts.", m.PromptTokens},
		{"cached_tokens_total", "counter", "Tokens of prompts that did not have to be computed.", m.CachedTokens},
		{"generated_tokens_total", "counter", "Tokens of answers.", m.GeneratedTokens},
		{"passes_total", "counter", "Steps that gave answers their next tokens.", m.Passes},
		{"pass_rows_total", "counter", "Requests that had a part in these steps.", m.PassRows},
		{"active_bytes", "gauge", "Memory in use.", m.ActiveBytes},
		{"kv_bytes", "gauge", "Of that, keys and values of chats.", m.KVBytes},
	} {
		name := "mlxrt_" + row.name
		fmt.Fprintf(w, "# HELP %s %s\n# TYPE %s %s\n%s %v\n", name, row.help, name, row.kind, name, row.value)
	}
}

func (s *server) card() object {
	return object{"id": s.name, "object": "model", "created": s.created, "owned_by": "local"}
}

type object = map[string]any

func reply(w http.ResponseWriter, status int, body object) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(body)
}

func main() {
	path := flag.String("model", "", "folder of the model, or its id in the local Hugging Face cache")
	listen := flag.String("listen", "127.0.0.1:8080", "address to listen on")
	draft := flag.String("draft", "", "folder or id of a draft model: a smaller one with the same tokens")
	cors := flag.String("cors", "", "origins whose pages may use the server, with commas between them, or *; none by default")
	flag.Parse()
	model, err := mlxrt.Load(context.Background(), *path, &mlxrt.LoadOptions{DraftPath: *draft})
	if err != nil {
		log.Fatal(err)
	}
	s, err := newServer(model, filepath.Base(*path))
	if err != nil {
		log.Fatal(err)
	}
	log.Printf("serving %s at http://%s/v1", s.name, *listen)
	log.Fatal(http.ListenAndServe(*listen, s.handler(strings.FieldsFunc(*cors, func(c rune) bool { return c == ',' || c == ' ' }))))
}
