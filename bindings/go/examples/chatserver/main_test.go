package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
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
	s, err := newServer(loaded, "demo")
	if err != nil {
		t.Fatal(err)
	}
	web := httptest.NewServer(s.handler([]string{"https://allowed.example"}))
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
		request, _ := http.NewRequestWithContext(ctx, "POST", web.URL+"/v1/chat/completions", strings.NewReader(body))
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

// ask posts a chat completion and gives its answer.
func ask(t *testing.T, web *httptest.Server, body string) (int, map[string]any) {
	t.Helper()
	response, err := http.Post(web.URL+"/v1/chat/completions", "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	out := map[string]any{}
	if err := json.NewDecoder(response.Body).Decode(&out); err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, out
}

// What the server does not do is refused with the name of the parameter, and nothing runs for it.
func TestRefusals(t *testing.T) {
	s, web := serve(t)
	before, err := s.model.Metrics()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ more, param, code string }{
		{`"n":2`, "n", "unsupported_value"},
		{`"n":0`, "n", "unsupported_value"},
		{`"response_format":{"type":"json_schema"}`, "response_format", "unsupported_value"},
		{`"response_format":{"type":"json_schema","json_schema":{"name":"a","schema":{"not":{}}}}`, "response_format", ""},
		{`"response_format":{"type":"xml"}`, "response_format", "unsupported_value"},
		{`"tool_choice":"required"`, "tool_choice", ""},
		{`"tool_choice":"always"`, "tool_choice", ""},
		{`"tool_choice":{"type":"function","function":{"name":"f"}}`, "tool_choice", ""},
		{`"parallel_tool_calls":false`, "parallel_tool_calls", "unsupported_value"},
		{`"modalities":["text","audio"]`, "modalities", "unsupported_value"},
		{`"functions":[]`, "functions", "unsupported_parameter"},
		{`"function_call":"auto"`, "function_call", "unsupported_parameter"},
		{`"prediction":{}`, "prediction", "unsupported_parameter"},
		{`"stream_options":{"include_usage":true}`, "stream_options", ""},
		{`"top_logprobs":2`, "top_logprobs", ""},
		{`"logprobs":true,"top_logprobs":21`, "top_logprobs", ""},
		{`"logit_bias":{"a":1}`, "logit_bias", ""},
		{`"logit_bias":{"1":101}`, "logit_bias", ""},
	} {
		status, body := ask(t, web, `{"model":"demo","max_tokens":1,"messages":[{"role":"user","content":"Hi"}],`+c.more+`}`)
		failed, _ := body["error"].(map[string]any)
		if status != http.StatusBadRequest || failed["type"] != "invalid_request_error" || failed["param"] != c.param || failed["message"] == "" {
			t.Errorf("%s: %d %v", c.more, status, body)
		}
		if code, _ := failed["code"].(string); code != c.code {
			t.Errorf("%s: code %q", c.more, code)
		}
	}
	after, err := s.model.Metrics()
	if err != nil {
		t.Fatal(err)
	}
	if after.GeneratedTokens != before.GeneratedTokens {
		t.Errorf("%+v", after)
	}
	// Neutral values of the same parameters are none of that.
	for _, more := range []string{`"n":1`, `"n":null`, `"response_format":{"type":"text"}`, `"response_format":null`,
		`"response_format":{"type":"json_object"}`, `"tool_choice":"auto"`, `"tool_choice":"none"`,
		`"tool_choice":null`, `"parallel_tool_calls":true`, `"modalities":["text"]`, `"functions":null`, `"logprobs":false`, `"stop":null`,
		`"stream_options":null`, `"seed":-1`, `"logit_bias":{"5":-100}`, `"user":"me"`} {
		if status, body := ask(t, web, `{"model":"demo","max_tokens":1,"messages":[{"role":"user","content":"Hi"}],`+more+`}`); status != http.StatusOK {
			t.Errorf("%s: %d %v", more, status, body)
		}
	}
}

// A bias that the request asks for is heard.
func TestLogitBias(t *testing.T) {
	s, web := serve(t)
	ids, err := s.model.Tokenize("Paris", nil)
	if err != nil {
		t.Fatal(err)
	}
	body := fmt.Sprintf(`{"model":"demo","max_tokens":3,"temperature":0,"messages":[{"role":"user","content":"Hi"}],"logit_bias":{"%d":100},"logprobs":true}`, ids[0])
	status, answer := ask(t, web, body)
	if status != http.StatusOK {
		t.Fatal(answer)
	}
	choice := answer["choices"].([]any)[0].(map[string]any)
	for _, entry := range choice["logprobs"].(map[string]any)["content"].([]any) {
		text, err := s.model.Detokenize(ids[:1], nil)
		if err != nil || entry.(map[string]any)["token"] != text {
			t.Errorf("%v %v", entry, err)
		}
	}
}

// A chat finds what was computed for it, whichever other chats there were since.
func TestSessions(t *testing.T) {
	s, web := serve(t)
	turn := func(history *[]map[string]string, question string) (cached, prompt float64) {
		t.Helper()
		*history = append(*history, map[string]string{"role": "user", "content": question})
		messages, _ := json.Marshal(*history)
		status, answer := ask(t, web, fmt.Sprintf(`{"model":"demo","max_tokens":4,"temperature":0,"messages":%s}`, messages))
		if status != http.StatusOK {
			t.Fatal(answer)
		}
		content := answer["choices"].([]any)[0].(map[string]any)["message"].(map[string]any)["content"].(string)
		*history = append(*history, map[string]string{"role": "assistant", "content": content})
		usage := answer["usage"].(map[string]any)
		return usage["prompt_tokens_details"].(map[string]any)["cached_tokens"].(float64), usage["prompt_tokens"].(float64)
	}
	long := strings.Repeat("of mice and men ", 10)
	chats := make([][]map[string]string, keptSessions)
	for i := range chats {
		turn(&chats[i], fmt.Sprintf("%d: %s", i, long))
	}
	if n := len(s.sessions.idle); n != keptSessions {
		t.Fatalf("%d sessions are kept", n)
	}
	// Not in the order in which they were left.
	for _, i := range []int{1, 3, 0, 2} {
		before := len(s.sessions.idle)
		if cached, prompt := turn(&chats[i], "And then?"); cached < 40 || cached >= prompt {
			t.Errorf("chat %d: %v of %v tokens are known", i, cached, prompt)
		}
		if len(s.sessions.idle) != before {
			t.Errorf("%d sessions", len(s.sessions.idle))
		}
	}
	// One more than are kept: the chat that waited longest, 1, gives way, and no other.
	var more []map[string]string
	turn(&more, "x: "+long)
	for _, i := range []int{2, 0, 3} {
		if cached, prompt := turn(&chats[i], "And then?"); cached < 40 {
			t.Errorf("chat %d: %v of %v tokens are known", i, cached, prompt)
		}
	}
	if n := len(s.sessions.idle); n != keptSessions {
		t.Errorf("%d sessions are kept", n)
	}
}

func TestMetricsTellWhatWasDone(t *testing.T) {
	_, web := serve(t)
	var messages []map[string]string
	messages = append(messages, map[string]string{"role": "user", "content": "What is the capital of France?"})
	body, _ := json.Marshal(map[string]any{"model": "demo", "messages": messages})
	answer, err := http.Post(web.URL+"/v1/chat/completions", "application/json", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	response, err := http.Get(web.URL + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, _ := io.ReadAll(response.Body)
	values := map[string]float64{}
	for _, line := range strings.Split(strings.TrimSpace(string(text)), "\n") {
		if strings.HasPrefix(line, "#") {
			continue
		}
		var name string
		var value float64
		if n, err := fmt.Sscan(line, &name, &value); n != 2 || err != nil {
			t.Errorf("a line that Prometheus cannot read: %q", line)
		}
		values[name] = value
	}
	if kind := response.Header.Get("Content-Type"); !strings.HasPrefix(kind, "text/plain") {
		t.Errorf("Content-Type is %s", kind)
	}
	for _, name := range []string{"mlxrt_requests_total", "mlxrt_generated_tokens_total", "mlxrt_passes_total", "mlxrt_pass_rows_total"} {
		if values[name] < 1 {
			t.Errorf("%s is %v", name, values[name])
		}
	}
	if values["mlxrt_requests_failed_total"] != 0 || values["mlxrt_requests_running"] != 0 {
		t.Errorf("%v", values)
	}
}

func TestRoutes(t *testing.T) {
	_, web := serve(t)
	call := func(method, path string, headers map[string]string) (*http.Response, map[string]any) {
		t.Helper()
		request, _ := http.NewRequest(method, web.URL+path, nil)
		for name, value := range headers {
			request.Header.Set(name, value)
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		out := map[string]any{}
		json.NewDecoder(response.Body).Decode(&out)
		return response, out
	}
	for _, c := range []struct {
		method, path string
		status       int
		key, value   string
	}{
		{"GET", "/health", 200, "status", "ok"},
		{"GET", "/v1/models", 200, "object", "list"},
		{"GET", "/v1/models/demo", 200, "id", "demo"},
		{"GET", "/v1/models/another", 404, "", ""},
		{"GET", "/v1/models/some/another", 404, "", ""},
		{"GET", "/v1/chat/completions", 404, "", ""},
		{"POST", "/v1/completions", 404, "", ""},
	} {
		response, body := call(c.method, c.path, nil)
		if response.StatusCode != c.status || response.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%s %s: %d %v", c.method, c.path, response.StatusCode, response.Header)
		}
		if c.key != "" && body[c.key] != c.value {
			t.Errorf("%s %s: %v", c.method, c.path, body)
		}
		if failed, _ := body["error"].(map[string]any); c.status == 404 && failed["type"] != "invalid_request_error" {
			t.Errorf("%s %s: %v", c.method, c.path, body)
		}
	}

	// Pages of other origins read nothing, unless they are allowed.
	const allowed, origin = "Access-Control-Allow-Origin", "https://allowed.example"
	preflight := map[string]string{"Origin": origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}
	response, _ := call("OPTIONS", "/v1/chat/completions", preflight)
	if response.StatusCode != 204 || response.Header.Get(allowed) != origin || response.Header.Get("Access-Control-Allow-Headers") != "authorization,content-type" {
		t.Errorf("%d %v", response.StatusCode, response.Header)
	}
	if response, _ := call("GET", "/v1/models", map[string]string{"Origin": origin}); response.Header.Get(allowed) != origin {
		t.Errorf("%v", response.Header)
	}
	preflight["Origin"] = "https://another.example"
	if response, _ := call("OPTIONS", "/v1/chat/completions", preflight); response.StatusCode != 404 || response.Header.Get(allowed) != "" {
		t.Errorf("%d %v", response.StatusCode, response.Header)
	}
	if response, _ := call("GET", "/v1/models", map[string]string{"Origin": "https://another.example"}); response.Header.Get(allowed) != "" {
		t.Errorf("%v", response.Header)
	}
}
