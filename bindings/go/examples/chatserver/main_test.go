package main

import (
	"bufio"
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	mlxrt "github.com/mlxrt/mlxrt/bindings/go"
)

const model = "../../../../demo/model"

func serve(t *testing.T) (*server, *httptest.Server) {
	t.Helper()
	if _, err := os.Stat(model); err != nil {
		t.Skipf("%s is not there: this test needs the library's repository", model)
	}
	loaded, err := mlxrt.Load(context.Background(), model, nil)
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
			time.AfterFunc(200*time.Millisecond, cancel)
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
			if time.Since(began) > 5*time.Second {
				t.Fatalf("stream %s: %+v", stream, after)
			}
		}
	}
}
