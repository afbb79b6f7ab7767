// Chatserver answers OpenAI's chat API with a local model:
//
//	go run ./examples/chatserver -model path/to/model -listen 127.0.0.1:8080
//
// It has /v1/chat/completions, /v1/models, /v1/models/{id} and /health.
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
	cors := flag.String("cors", "", "origins whose pages may use the server, with commas between them, or *; none by default")
	flag.Parse()
	model, err := mlxrt.Load(context.Background(), *path, nil)
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
