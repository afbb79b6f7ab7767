package mlxrt_test

import (
	"context"
	"errors"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	mlxrt "github.com/mlxrt/mlxrt/bindings/go"
)

var codes = map[string]error{
	"INVALID_ARGUMENT": mlxrt.ErrInvalidArgument,
	"INVALID_HANDLE":   mlxrt.ErrInvalidHandle,
	"NOT_FOUND":        mlxrt.ErrNotFound,
	"IO":               mlxrt.ErrIO,
	"BAD_MODEL":        mlxrt.ErrBadModel,
	"INCOMPATIBLE":     mlxrt.ErrIncompatible,
	"UNSUPPORTED":      mlxrt.ErrUnsupported,
	"OUT_OF_MEMORY":    mlxrt.ErrOutOfMemory,
	"CONTEXT_FULL":     mlxrt.ErrContextFull,
	"BUSY":             mlxrt.ErrBusy,
	"CANCELLED":        mlxrt.ErrCancelled,
	"TIMEOUT":          mlxrt.ErrTimeout,
	"SUSPENDED":        mlxrt.ErrSuspended,
	"DEVICE":           mlxrt.ErrDevice,
	"RESOURCES":        mlxrt.ErrResources,
	"BAD_GRAMMAR":      mlxrt.ErrBadGrammar,
	"REENTRANT":        mlxrt.ErrReentrant,
	"FORKED":           mlxrt.ErrForked,
	"INTERNAL":         mlxrt.ErrInternal,
}

func header(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../include/mlxrt.h")
	if err != nil {
		t.Skip("the library's header is not there: this test needs its repository")
	}
	return string(text)
}

// Every code of the header has its error, and is the code of that one alone.
func TestEveryCodeHasItsError(t *testing.T) {
	names := regexp.MustCompile(`(?m)^#define MLXRT_E_(\w+) \d+$`).FindAllStringSubmatch(header(t), -1)
	if len(names) != len(codes) {
		t.Errorf("the header has %d codes, this package %d", len(names), len(codes))
	}
	for _, match := range names {
		want, ok := codes[match[1]]
		if !ok {
			t.Errorf("%s has no error", match[1])
			continue
		}
		var e *mlxrt.Error
		if !errors.As(want, &e) || e.Code.String() != match[1] {
			t.Errorf("the error of %s says %v", match[1], want)
			continue
		}
		err := error(&mlxrt.Error{Code: e.Code, Message: "why"})
		for name, other := range codes {
			if errors.Is(err, other) != (name == match[1]) {
				t.Errorf("errors.Is(%v, %v) is %v", err, other, errors.Is(err, other))
			}
		}
		if text := err.Error(); text != "mlxrt: "+match[1]+": why" {
			t.Error(text)
		}
	}
	if got := mlxrt.Code(999).String(); got != "UNKNOWN(999)" {
		t.Error(got)
	}
}

// Every function of the header is called somewhere.
func TestEveryFunctionIsReachable(t *testing.T) {
	files, err := filepath.Glob("*.[gch]*")
	if err != nil {
		t.Fatal(err)
	}
	var source strings.Builder
	for _, file := range files {
		if text, err := os.ReadFile(file); err == nil && !strings.HasSuffix(file, "_test.go") {
			source.Write(text)
		}
	}
	// Go has requests instead of the one and links instead of the other.
	instead := []string{"mlxrt_generate", "mlxrt_get_api"}
	functions := regexp.MustCompile(`(?m)^(?:MLXRT_MUST_USE )?[\w ]+[ *](?:MLXRT_NULLABLE |MLXRT_NONNULL )?(mlxrt_\w+)\(`)
	found := functions.FindAllStringSubmatch(header(t), -1)
	if len(found) < 40 {
		t.Fatalf("only %d functions are found in the header", len(found))
	}
	for _, match := range found {
		used := regexp.MustCompile(`\b` + match[1] + `\(`).MatchString(source.String())
		if !used && !slices.Contains(instead, match[1]) {
			t.Errorf("%s is not reachable from Go", match[1])
		}
	}
}

// What can be brought about without breaking a device.
func TestErrors(t *testing.T) {
	ctx := context.Background()
	model, session := load(t), newSession(t, &mlxrt.SessionOptions{Context: 2048})
	broken := t.TempDir()
	os.WriteFile(filepath.Join(broken, "config.json"), []byte("{"), 0o600)
	file := filepath.Join(broken, "config.json")
	other := must(mlxrt.Load(ctx, path(t, fixture), nil))(t)
	defer other.Close()
	adapter := must(other.NewAdapter(nil))(t)
	defer adapter.Close()

	complete := func(input mlxrt.Input, options *mlxrt.Options) error {
		_, err := session.Complete(ctx, input, options)
		return err
	}
	loading := func(path string, options *mlxrt.LoadOptions) error {
		_, err := mlxrt.Load(ctx, path, options)
		return err
	}
	for name, test := range map[string]struct {
		err  error
		want error
		says string
	}{
		"no model":          {loading("no/such/model", nil), mlxrt.ErrNotFound, "no/such/model"},
		"NUL in a path":     {loading("a\x00b", nil), mlxrt.ErrInvalidArgument, "path"},
		"broken config":     {loading(broken, nil), mlxrt.ErrBadModel, "config.json"},
		"save in a file":    {adapter.Save(ctx, filepath.Join(file, "adapter"), nil), mlxrt.ErrIO, "config.json"},
		"stopped load":      {loading(fixture, &mlxrt.LoadOptions{Progress: func(_, _ uint64) error { return mlxrt.Stop }}), mlxrt.ErrCancelled, "progress"},
		"not UTF-8":         {complete(mlxrt.Text("\xff"), nil), mlxrt.ErrInvalidArgument, "input.text"},
		"message not UTF-8": {complete(mlxrt.Chat(mlxrt.User("\xff")), nil), mlxrt.ErrInvalidArgument, "Messages[0]"},
		"two inputs":        {complete(mlxrt.Input{Text: "a", Tokens: []int32{5}}, nil), mlxrt.ErrInvalidArgument, "exactly one"},
		"two messages":      {complete(mlxrt.Input{MessagesJSON: []byte("[]"), Messages: []mlxrt.Message{}}, nil), mlxrt.ErrInvalidArgument, "Messages"},
		"bad JSON":          {complete(mlxrt.Input{MessagesJSON: []byte("[")}, nil), mlxrt.ErrInvalidArgument, "messages"},
		"token":             {complete(mlxrt.Tokens(-1), nil), mlxrt.ErrInvalidArgument, "-1"},
		"MaxTokens":         {complete(mlxrt.Text("a"), &mlxrt.Options{MaxTokens: mlxrt.Ptr(-1)}), mlxrt.ErrInvalidArgument, "MaxTokens"},
		"Timeout":           {complete(mlxrt.Text("a"), &mlxrt.Options{Timeout: -1}), mlxrt.ErrInvalidArgument, "Timeout"},
		"Temperature":       {complete(mlxrt.Text("a"), &mlxrt.Options{Temperature: mlxrt.Ptr(-1.0)}), mlxrt.ErrInvalidArgument, "temperature"},
		"NaN":               {complete(mlxrt.Text("a"), &mlxrt.Options{TopP: mlxrt.Ptr(math.NaN())}), mlxrt.ErrInvalidArgument, "top_p"},
		"RepetitionPenalty": {complete(mlxrt.Text("a"), &mlxrt.Options{RepetitionPenalty: mlxrt.Ptr(0.0)}), mlxrt.ErrInvalidArgument, "RepetitionPenalty"},
		"TopK":              {complete(mlxrt.Text("a"), &mlxrt.Options{TopK: mlxrt.Ptr(math.MaxUint32 - 1)}), mlxrt.ErrInvalidArgument, "TopK"},
		"too long":          {complete(mlxrt.Tokens(make([]int32, 5000)...), nil), mlxrt.ErrContextFull, "5000"},
		"another model's":   {session.Apply(adapter), mlxrt.ErrIncompatible, "model"},
		"twice":             {other1(t, other, adapter), mlxrt.ErrInvalidArgument, ""},
		"nil adapter":       {session.Apply(nil...), nil, ""},
		"a nil adapter":     {session.Apply((*mlxrt.Adapter)(nil)), mlxrt.ErrInvalidArgument, "adapters[0]"},
		"scales":            {session.ApplyScaled(nil, []float32{1}), mlxrt.ErrInvalidArgument, "scales"},
		"no message yet":    {must2(newSession(t, nil).Message()), mlxrt.ErrNotFound, ""},
		"trim":              {mlxrt.TrimMemory(7), mlxrt.ErrUnsupported, "7"},
		"trim below":        {mlxrt.TrimMemory(-1), mlxrt.ErrInvalidArgument, "-1"},
		"zero model":        {must2((&mlxrt.Model{}).Info()), mlxrt.ErrInvalidHandle, ""},
		"shutdown":          {mlxrt.Shutdown(ctx, false), mlxrt.ErrBusy, "model"},
		"device":            {mlxrt.Init(&mlxrt.InitOptions{Device: 9}), mlxrt.ErrUnsupported, "device"},
		"dtype":             {adapter.SetBytes("x", 9, nil, nil), nil, ""},
		"detokenize":        {must2(model.Detokenize([]int32{1 << 30}, nil)), mlxrt.ErrInvalidArgument, "1073741824"},
	} {
		if name == "nil adapter" {
			if test.err != nil {
				t.Errorf("%s: %v", name, test.err)
			}
			continue
		}
		if test.err == nil || test.want != nil && !errors.Is(test.err, test.want) || !strings.Contains(test.err.Error(), test.says) {
			t.Errorf("%s: %v", name, test.err)
		}
	}
	none := mlxrt.MemoryLimits{Memory: mlxrt.Ptr(uint64(0))}
	if err := mlxrt.SetMemoryLimits(none); err != nil {
		t.Fatal(err)
	}
	err := complete(mlxrt.Text("Hello"), greedy(2))
	if err2 := mlxrt.SetMemoryLimits(mlxrt.MemoryLimits{Memory: mlxrt.Ptr(uint64(mlxrt.Unlimited))}); err2 != nil {
		t.Fatal(err2)
	}
	wantErr(t, err, mlxrt.ErrOutOfMemory)
	usable(t, session)
}

func must2[T any](_ T, err error) error { return err }

// other1 applies an adapter twice.
func other1(t *testing.T, model *mlxrt.Model, adapter *mlxrt.Adapter) error {
	session := must(model.NewSession(nil))(t)
	defer session.Close()
	return session.Apply(adapter, adapter)
}

func TestUseAfterClose(t *testing.T) {
	ctx := context.Background()
	model := must(mlxrt.Load(ctx, path(t, fixture), nil))(t)
	session := must(model.NewSession(nil))(t)
	adapter := must(model.NewAdapter(nil))(t)
	request := must(session.Submit(ctx, mlxrt.Tokens(5, 6), greedy(3)))(t)
	for range 2 {
		for _, object := range []interface{ Close() error }{model, request, adapter, session} {
			if err := object.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
	request.Cancel()
	session.Cancel()
	live := newSession(t, nil)
	for name, err := range map[string]error{
		"Model.Info":          must2(model.Info()),
		"Model.NewSession":    must2(model.NewSession(nil)),
		"Model.NewAdapter":    must2(model.NewAdapter(nil)),
		"Model.LoadAdapter":   must2(model.LoadAdapter(ctx, "x", nil)),
		"Model.Embed":         must2(model.Embed(ctx, []string{"x"}, nil)),
		"Model.Tokenize":      must2(model.Tokenize("x", nil)),
		"Model.Detokenize":    must2(model.Detokenize(nil, nil)),
		"Model.Render":        must2(model.Render(mlxrt.Chat())),
		"Model.CountTokens":   must2(model.CountTokens(mlxrt.Text("x"))),
		"Model.PromptTokens":  must2(model.PromptTokens(mlxrt.Text("x"))),
		"Model.Metrics":       must2(model.Metrics()),
		"Model.Train":         model.Train(ctx, adapter, mlxrt.TrainOptions{}, nil),
		"Train's adapter":     load(t).Train(ctx, adapter, mlxrt.TrainOptions{}, nil),
		"Session.Submit":      must2(session.Submit(ctx, mlxrt.Text("x"), nil)),
		"Session.Complete":    must2(session.Complete(ctx, mlxrt.Text("x"), nil)),
		"Session.Info":        must2(session.Info()),
		"Session.Tokens":      must2(session.Tokens()),
		"Session.Message":     must2(session.Message()),
		"Session.MessageJSON": must2(session.MessageJSON()),
		"Session.Apply":       session.Apply(),
		"Apply's adapter":     live.Apply(adapter),
		"Request.Next":        must2(request.Next()),
		"Request.Result":      must2(request.Result()),
		"Adapter.Info":        must2(adapter.Info()),
		"Adapter.Get":         must2(adapter.Get("x")),
		"Adapter.Set":         adapter.Set("x", mlxrt.Tensor{}),
		"Adapter.Save":        adapter.Save(ctx, t.TempDir(), nil),
	} {
		if !errors.Is(err, mlxrt.ErrClosed) || !errors.Is(err, mlxrt.ErrInvalidHandle) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for event, err := range session.Generate(ctx, mlxrt.Text("x"), nil) {
		if !errors.Is(err, mlxrt.ErrClosed) || event.Kind != mlxrt.EventEnd {
			t.Errorf("Generate: %+v, %v", event, err)
		}
	}
}

// What is closed while others use it ends them; nothing hangs and nothing crashes.
func TestCloseBesideUse(t *testing.T) {
	folder := endless(t)
	for i := range 30 {
		model := must(mlxrt.Load(context.Background(), folder, nil))(t)
		session := must(model.NewSession(nil))(t)
		request := must(session.Submit(context.Background(), mlxrt.Tokens(5), never))(t)
		var group sync.WaitGroup
		group.Add(4)
		go func() {
			defer group.Done()
			answer, err := session.Complete(context.Background(), mlxrt.Tokens(6), never)
			if err != nil && !errors.Is(err, mlxrt.ErrInvalidHandle) {
				t.Error(err)
			}
			if err == nil && answer.Result.Stop != mlxrt.StoppedCancelled {
				t.Errorf("%+v", answer.Result)
			}
		}()
		go func() {
			defer group.Done()
			for _, err := range request.Events() {
				if err != nil && !errors.Is(err, mlxrt.ErrClosed) {
					t.Error(err)
				}
			}
		}()
		go func() {
			defer group.Done()
			for {
				if _, err := session.Info(); err != nil {
					wantErr(t, err, mlxrt.ErrInvalidHandle)
					return
				}
				time.Sleep(time.Microsecond)
			}
		}()
		go func() {
			defer group.Done()
			time.Sleep(time.Duration(i) * 100 * time.Microsecond)
			if i%2 == 0 {
				model.Close()
			}
			session.Close()
			request.Close()
			model.Close()
		}()
		group.Wait()
	}
}
