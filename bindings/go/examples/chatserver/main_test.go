package main

import (
	"bufio"
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	mlxrt "github.com/mlxrt/mlxrt/bindings/go"
)

const model = "../../../../demo/model"

// endless is a folder of the demo model's whose answers do not end before a test is over, however fast the machine is.
func endless(t *testing.T) string {
	t.Helper()
	files, err := os.ReadDir(model)
	if err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	for _, file := range files {
		data, err := os.ReadFile(filepath.Join(model, file.Name()))
		switch file.Name() {
		case "generation_config.json":
			data = []byte(`{"eos_token_id": 0}`)
		case "config.json":
			data = bytes.Replace(data, []byte(`"max_position_embeddings": 2048`), []byte(`"max_position_embeddings": 1048576`), 1)
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(folder, file.Name()), data, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return folder
}

func serve(t *testing.T) (*server, *httptest.Server) {
	t.Helper()
	if _, err := os.Stat(model); err != nil {
		t.Skipf("%s is not there: this test needs the library's repository", model)
	}
	loaded, err := mlxrt.Load(context.Background(), endless(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { loaded.Close() })
	s := &server{model: loaded, name: "demo", idle: make(chan *mlxrt.Session, 4)}
	web := httptest.NewServer(http.HandlerFunc(s.chat))
	t.Cleanup(web.Close)
	return s, web
}

// A client that goes away ends its request.
func TestDisconnect(t *testing.T) {
	s, web := serve(t)
	for _, stream := range []string{"true", "false"} {
		before, err := s.model.Metrics()
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		body := `{"model":"demo","stream":` + stream + `,"messages":[{"role":"user","content":"Tell me a long story."}]}`
		request, _ := http.NewRequestWithContext(ctx, "POST", web.URL, strings.NewReader(body))
		if stream == "true" {
			response, err := http.DefaultClient.Do(request)
			if err != nil {
				t.Fatal(err)
			}
			lines := bufio.NewScanner(response.Body)
			for lines.Scan() && !strings.Contains(lines.Text(), `"content":"`) {
			}
			cancel()
			response.Body.Close()
		} else {
			go func() {
				defer cancel()
				for began := time.Now(); time.Since(began) < 30*time.Second; time.Sleep(time.Millisecond) {
					if now, err := s.model.Metrics(); err != nil || now.RequestsRunning > 0 {
						return
					}
				}
			}()
			if _, err := http.DefaultClient.Do(request); err == nil {
				t.Fatal("the answer came before the client left")
			}
		}
		for began := time.Now(); ; time.Sleep(5 * time.Millisecond) {
			after, err := s.model.Metrics()
			if err != nil {
				t.Fatal(err)
			}
			if after.RequestsCancelled == before.RequestsCancelled+1 && after.RequestsRunning == 0 {
				break
			}
			if time.Since(began) > 30*time.Second {
				t.Fatalf("stream %s: %+v", stream, after)
			}
		}
	}
}
