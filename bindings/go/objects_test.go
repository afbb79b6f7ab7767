package mlxrt_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	mlxrt "github.com/mlxrt/mlxrt/bindings/go"
)

func TestTokens(t *testing.T) {
	model := load(t)
	for _, text := range []string{"", "Hello, world", "one  two\nthree"} {
		ids := must(model.Tokenize(text, nil))(t)
		if back := must(model.Detokenize(ids, nil))(t); back != text {
			t.Errorf("%q became %v and %q", text, ids, back)
		}
	}
	if plain, text := must(model.Tokenize("<|im_end|>", nil))(t), must(model.Tokenize("<|im_end|>", &mlxrt.TokenizeOptions{SpecialAsText: true}))(t); slices.Equal(plain, text) {
		t.Errorf("%v, as text %v", plain, text)
	}
}

func TestInfo(t *testing.T) {
	model, session := load(t), newSession(t, &mlxrt.SessionOptions{Context: 64, Window: 32, Keep: mlxrt.Ptr(0)})
	info := must(model.Info())(t)
	inspected := must(mlxrt.Inspect(fixture, &mlxrt.LoadOptions{Context: 128}, &mlxrt.SessionOptions{Context: 64}))(t)
	if info.ModelType != "qwen3" || info.Parameters == 0 || info.VocabSize == 0 || len(info.JSON) == 0 || info.ChatFormat == "" {
		t.Errorf("%+v", info)
	}
	if inspected.Parameters != info.Parameters || inspected.SessionContext != 64 || inspected.EstimatedBytes == 0 {
		t.Errorf("%+v", inspected)
	}
	if state := must(session.Info())(t); state.Context != 64 || state.Tokens != 0 {
		t.Errorf("%+v", state)
	}
	usable(t, session)
	if state := must(session.Info())(t); state.Tokens != 6 || state.KVTokens == 0 || state.KVBytes == 0 {
		t.Errorf("%+v", state)
	}
	metrics, process := must(model.Metrics())(t), must(mlxrt.ProcessMetrics())(t)
	if metrics.RequestsStarted == 0 || metrics.Last.GeneratedTokens != 3 || process.RequestsStarted < metrics.RequestsStarted || process.WeightBytes == 0 {
		t.Errorf("%+v, %+v", metrics, process)
	}
	if metrics.RequestsWaiting != 0 || metrics.Queue <= 0 || process.Queue < metrics.Queue || metrics.Passes == 0 || process.PassRows < process.Passes {
		t.Errorf("%+v, %+v", metrics, process)
	}
	memory := must(mlxrt.Memory())(t)
	if memory.Active == 0 || memory.Weights == 0 || memory.Peak < memory.Active {
		t.Errorf("%+v", memory)
	}
	if err := mlxrt.TrimMemory(2); err != nil {
		t.Error(err)
	}
	if device := must(mlxrt.DeviceInfo())(t); !strings.Contains(string(device), `"device"`) {
		t.Errorf("%s", device)
	}
	if mlxrt.Version() == "" || mlxrt.ABIVersion() < mlxrt.ABI {
		t.Errorf("%s, %d", mlxrt.Version(), mlxrt.ABIVersion())
	}
	if err := mlxrt.Init(nil); err != nil {
		t.Error(err)
	}
	wantErr(t, mlxrt.Shutdown(context.Background(), false), mlxrt.ErrBusy)
}

func TestEmbed(t *testing.T) {
	ctx := context.Background()
	model := load(t)
	texts := []string{"the rain in the other town", "no", "the rain in the other town"}
	told := uint64(0)
	options := &mlxrt.EmbedOptions{Pooling: mlxrt.PoolingMean, Normalize: true, Progress: func(done, total uint64) error {
		told = done
		return nil
	}}
	rows := must(model.Embed(ctx, texts, options))(t)
	if len(rows) != len(texts) || len(rows[0]) == 0 || told == 0 {
		t.Fatalf("%d rows, %d tokens", len(rows), told)
	}
	dot := func(a, b []float32) (sum float64) {
		for i := range a {
			sum += float64(a[i]) * float64(b[i])
		}
		return sum
	}
	if one := dot(rows[0], rows[2]); one < 0.9999 || one > 1.0001 {
		t.Errorf("%v", one)
	}
	if other := dot(rows[0], rows[1]); other > 0.999 {
		t.Errorf("%v", other)
	}
	if last := must(model.Embed(ctx, texts[:1], nil))(t); slices.Equal(last[0], rows[0]) {
		t.Error("the last token is the mean")
	}
	_, err := model.Embed(ctx, nil, nil)
	wantErr(t, err, mlxrt.ErrInvalidArgument)
	_, err = model.Embed(ctx, texts, &mlxrt.EmbedOptions{Pooling: 9})
	wantErr(t, err, mlxrt.ErrUnsupported)
	mine := errors.New("mine")
	options.Progress = func(done, total uint64) error { return mine }
	if _, err := model.Embed(ctx, texts, options); !errors.Is(err, mine) {
		t.Errorf("%v", err)
	}
}

func TestAdapters(t *testing.T) {
	ctx := context.Background()
	model := load(t)
	adapter := must(model.NewAdapter(&mlxrt.AdapterOptions{Rank: 4, Scale: mlxrt.Ptr(2.0), Keys: []string{"q_proj", "v_proj"}, Seed: 3}))(t)
	defer adapter.Close()
	info := must(adapter.Info())(t)
	if info.Kind != "lora" || info.Rank != 4 || info.Scale != 2 || info.Parameters == 0 {
		t.Fatalf("%+v", info)
	}
	const name = "model.layers.0.self_attn.q_proj.lora_b"
	tensor := must(adapter.Get(name))(t)
	if len(tensor.Shape) != 2 || tensor.Shape[0] != 4 || len(tensor.Data) != tensor.Shape[0]*tensor.Shape[1] {
		t.Fatalf("%v, %d elements", tensor.Shape, len(tensor.Data))
	}
	plain := must(newSession(t, nil).Complete(ctx, mlxrt.Tokens(5, 6, 7), greedy(12)))(t)
	session := newSession(t, nil)
	if err := session.Apply(adapter); err != nil {
		t.Fatal(err)
	}
	if same := must(session.Complete(ctx, mlxrt.Tokens(5, 6, 7), greedy(12)))(t); same.Text != plain.Text {
		t.Error("a new adapter changes something")
	}
	for i := range tensor.Data {
		tensor.Data[i] = float32(i%7) - 3
	}
	if err := adapter.Set(name, tensor); err != nil {
		t.Fatal(err)
	}
	if got := must(adapter.Get(name))(t); !slices.Equal(got.Data, tensor.Data) {
		t.Error("the tensor comes back otherwise")
	}
	wantErr(t, adapter.Set(name, mlxrt.Tensor{Shape: []int{1}, Data: []float32{1}}), mlxrt.ErrInvalidArgument)
	wantErr(t, adapter.Set("nothing", tensor), mlxrt.ErrNotFound)
	folder := filepath.Join(t.TempDir(), "adapter")
	saved := 0
	if err := adapter.Save(ctx, folder, func(done, total uint64) error { saved++; return nil }); err != nil {
		t.Fatal(err)
	}
	again := must(model.LoadAdapter(ctx, folder, nil))(t)
	defer again.Close()
	answers := map[*mlxrt.Adapter]string{}
	for _, adapter := range []*mlxrt.Adapter{adapter, again} {
		session := newSession(t, nil)
		if err := session.ApplyScaled([]*mlxrt.Adapter{adapter}, []float32{0.5}); err != nil {
			t.Fatal(err)
		}
		answers[adapter] = must(session.Complete(ctx, mlxrt.Tokens(5, 6, 7), greedy(12)))(t).Text
		if state := must(session.Info())(t); state.Adapters != 1 {
			t.Errorf("%+v", state)
		}
	}
	if answers[adapter] == plain.Text || answers[adapter] != answers[again] {
		t.Errorf("plain %q, adapted %q, saved and loaded %q", plain.Text, answers[adapter], answers[again])
	}
	_, err := model.LoadAdapter(ctx, "no/such/adapter", nil)
	wantErr(t, err, mlxrt.ErrNotFound)
	mine := errors.New("mine")
	_, err = model.LoadAdapter(ctx, folder, func(done, total uint64) error { return mine })
	if saved == 0 || err != mine {
		t.Errorf("%d, %v", saved, err)
	}
}

func TestGrammars(t *testing.T) {
	ctx := context.Background()
	model := load(t)
	grammar := must(model.CompileGrammar(ctx, mlxrt.GrammarJSONSchema, `{"enum": ["yes", "no"]}`))(t)
	session := newSession(t, nil)
	options := greedy(20)
	options.Grammar = grammar
	answer := must(session.Complete(ctx, mlxrt.Tokens(5, 6, 7), options))(t)
	if answer.Text != `"yes"` && answer.Text != `"no"` || answer.Result.Stop != mlxrt.StoppedGrammar {
		t.Errorf("%q, stopped by %v", answer.Text, answer.Result.Stop)
	}
	for _, source := range []string{`{"not": {}}`, `{`, `{"type": "array", "uniqueItems": true}`} {
		_, err := model.CompileGrammar(ctx, mlxrt.GrammarJSONSchema, source)
		wantErr(t, err, mlxrt.ErrBadGrammar)
	}
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	_, err := model.CompileGrammar(cancelled, mlxrt.GrammarJSON, "")
	wantErr(t, err, context.Canceled)
	grammar.Close()
	grammar.Close()
	_, err = session.Complete(ctx, mlxrt.Tokens(5), options)
	wantErr(t, err, mlxrt.ErrClosed)
	usable(t, session)
}

func TestSaveModel(t *testing.T) {
	ctx := context.Background()
	model := load(t)
	change := func(name string) *mlxrt.Adapter {
		adapter := must(model.NewAdapter(&mlxrt.AdapterOptions{Rank: 4, Scale: mlxrt.Ptr(2.0)}))(t)
		t.Cleanup(func() { adapter.Close() })
		tensor := must(adapter.Get(name))(t)
		for i := range tensor.Data {
			tensor.Data[i] = float32(i%7) - 3
		}
		if err := adapter.Set(name, tensor); err != nil {
			t.Fatal(err)
		}
		return adapter
	}
	q := change("model.layers.0.self_attn.q_proj.lora_b")
	v := change("model.layers.0.self_attn.v_proj.lora_b")
	answer := func(model *mlxrt.Model, adapters []*mlxrt.Adapter, scales []float32) string {
		session := must(model.NewSession(nil))(t)
		defer session.Close()
		if err := session.ApplyScaled(adapters, scales); err != nil {
			t.Fatal(err)
		}
		return must(session.Complete(ctx, mlxrt.Tokens(5, 6, 7), greedy(12)))(t).Text
	}
	folder, seen := filepath.Join(t.TempDir(), "saved"), map[string]bool{}
	// One over the other in the same folder.
	for _, options := range []*mlxrt.SaveOptions{
		nil,
		{Adapters: []*mlxrt.Adapter{q}},
		{Adapters: []*mlxrt.Adapter{v, q}, Scales: []float32{1, -0.5}},
		{Adapters: []*mlxrt.Adapter{v}},
	} {
		if err := model.Save(ctx, folder, options); err != nil {
			t.Fatal(err)
		}
		if options == nil {
			options = &mlxrt.SaveOptions{}
		}
		saved := must(mlxrt.Load(ctx, folder, nil))(t)
		want, got := answer(model, options.Adapters, options.Scales), answer(saved, nil, nil)
		saved.Close()
		if got != want || seen[want] {
			t.Errorf("%d adapters: the model says %q, the saved one %q", len(options.Adapters), want, got)
		}
		seen[want] = true
	}

	var last, all uint64
	other := filepath.Join(t.TempDir(), "other")
	save := func(ctx context.Context, progress mlxrt.Progress, adapters ...*mlxrt.Adapter) error {
		return model.Save(ctx, other, &mlxrt.SaveOptions{Adapters: adapters, Progress: progress})
	}
	mine := errors.New("mine")
	if err := save(ctx, func(_, _ uint64) error { return mine }, q); err != mine {
		t.Error(err)
	}
	within, cancel := context.WithCancel(ctx)
	wantErr(t, save(within, func(_, _ uint64) error { cancel(); return nil }), context.Canceled, mlxrt.ErrCancelled)
	wantErr(t, save(within, nil), context.Canceled)
	wantErr(t, save(ctx, nil, q, q), mlxrt.ErrInvalidArgument)
	wantErr(t, save(ctx, nil, q, nil), mlxrt.ErrInvalidArgument)
	wantErr(t, model.Save(ctx, other, &mlxrt.SaveOptions{Scales: []float32{1}}), mlxrt.ErrInvalidArgument)
	wantErr(t, model.Save(ctx, "", nil), mlxrt.ErrInvalidArgument)
	if _, err := os.Stat(other); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what failed left a folder: %v", err)
	}
	if err := save(ctx, func(done, total uint64) error { last, all = done, total; return nil }, q, v); err != nil {
		t.Fatal(err)
	}
	if last == 0 || last != all {
		t.Errorf("%d of %d", last, all)
	}
	v.Close()
	wantErr(t, save(ctx, nil, v), mlxrt.ErrClosed)
	closed := must(mlxrt.Load(ctx, folder, nil))(t)
	closed.Close()
	wantErr(t, closed.Save(ctx, other, nil), mlxrt.ErrClosed)
}

const lines = `{"text":"one two three four five six seven"}
{"text":"seven six five four three two one"}
{"text":"one three five seven"}
{"text":"two four six"}
`

func TestTrain(t *testing.T) {
	ctx := context.Background()
	model := load(t)
	options := mlxrt.TrainOptions{Train: lines, Valid: lines, Steps: 20, BatchSize: 2, ReportEvery: mlxrt.Ptr(8),
		ValidateEvery: mlxrt.Ptr(0), LearningRate: mlxrt.Ptr(1e-2), SavePath: filepath.Join(t.TempDir(), "adapter")}
	train := func(ctx context.Context, options mlxrt.TrainOptions, f func(mlxrt.TrainEvent) error) error {
		adapter := must(model.NewAdapter(nil))(t)
		defer adapter.Close()
		return model.Train(ctx, adapter, options, f)
	}
	var events []mlxrt.TrainEvent
	if err := train(ctx, options, func(e mlxrt.TrainEvent) error { events = append(events, e); return nil }); err != nil {
		t.Fatal(err)
	}
	var steps []uint64
	for _, e := range events {
		steps = append(steps, e.Step)
		if math.IsNaN(e.Loss) || e.TokensPerSecond <= 0 || e.TrainedTokens == 0 || e.Steps != 20 {
			t.Errorf("%+v", e)
		}
		if measured := !math.IsNaN(e.ValidationLoss); measured != (e.Step == 1 || e.Step == 20) {
			t.Errorf("%+v", e)
		}
	}
	if !slices.Equal(steps, []uint64{1, 8, 16, 20}) || events[3].Loss >= events[0].Loss {
		t.Errorf("steps %v, %+v", steps, events)
	}
	if _, err := os.Stat(filepath.Join(options.SavePath, "adapters.safetensors")); err != nil {
		t.Error(err)
	}
	// The joined losses are the means of the single ones.
	var sum float64
	options.ReportEvery = mlxrt.Ptr(1)
	if err := train(ctx, options, func(e mlxrt.TrainEvent) error {
		if e.Step > 8 && e.Step <= 16 {
			sum += e.Loss
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if math.Abs(sum/8-events[2].Loss) > 1e-3 {
		t.Errorf("the mean of 8 steps is %g, and was told as %g", sum/8, events[2].Loss)
	}

	calls := 0
	if err := train(ctx, options, func(mlxrt.TrainEvent) error { calls++; return mlxrt.Stop }); err != nil || calls != 1 {
		t.Errorf("Stop: %v after %d events", err, calls)
	}
	mine := errors.New("mine")
	if err := train(ctx, options, func(mlxrt.TrainEvent) error { return mine }); err != mine {
		t.Errorf("%v", err)
	}
	options.Steps, options.ReportEvery = 100000, mlxrt.Ptr(0)
	within, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	wantErr(t, train(within, options, nil), context.DeadlineExceeded, mlxrt.ErrTimeout)
	wantErr(t, train(ctx, mlxrt.TrainOptions{Train: "{"}, nil), mlxrt.ErrInvalidArgument)
	wantErr(t, train(ctx, mlxrt.TrainOptions{Train: "no/such/file", Paths: true}, nil), mlxrt.ErrNotFound)
	wantErr(t, model.Train(ctx, nil, options, nil), mlxrt.ErrInvalidArgument)
}

func TestLoadProgressAndContext(t *testing.T) {
	folder := path(t, fixture)
	var last, all uint64
	model := must(mlxrt.Load(context.Background(), folder, &mlxrt.LoadOptions{Progress: func(done, total uint64) error {
		last, all = done, total
		return nil
	}}))(t)
	model.Close()
	if last == 0 || last != all {
		t.Errorf("%d of %d", last, all)
	}
	mine := errors.New("mine")
	if _, err := mlxrt.Load(context.Background(), folder, &mlxrt.LoadOptions{Progress: func(_, _ uint64) error { return mine }}); err != mine {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	_, err := mlxrt.Load(ctx, folder, &mlxrt.LoadOptions{Progress: func(_, _ uint64) error { cancel(); return nil }})
	wantErr(t, err, context.Canceled, mlxrt.ErrCancelled)
}

// Weights in a store, which links lead to, are there if the host says so.
func TestLoadFollowsLinks(t *testing.T) {
	ctx, folder, from := context.Background(), t.TempDir(), must(filepath.Abs(path(t, fixture)))(t)
	for _, file := range must(os.ReadDir(from))(t) {
		if err := os.Symlink(filepath.Join(from, file.Name()), filepath.Join(folder, file.Name())); err != nil {
			t.Fatal(err)
		}
	}
	_, err := mlxrt.Load(ctx, folder, nil)
	wantErr(t, err, mlxrt.ErrBadModel)
	_, err = mlxrt.Inspect(folder, nil, nil)
	wantErr(t, err, mlxrt.ErrBadModel)
	follow := &mlxrt.LoadOptions{FollowLinks: true}
	must(mlxrt.Inspect(folder, follow, nil))(t)
	must(mlxrt.Load(ctx, folder, follow))(t).Close()
}

// A panic or Goexit in a callback passes through the call, and leaves everything in order.
func TestPanickingCallbacks(t *testing.T) {
	folder, model := path(t, fixture), load(t)
	adapter := must(model.NewAdapter(nil))(t)
	defer adapter.Close()
	for name, call := range map[string]func(f func()) error{
		"load": func(f func()) error {
			_, err := mlxrt.Load(context.Background(), folder, &mlxrt.LoadOptions{Progress: func(_, _ uint64) error { f(); return nil }})
			return err
		},
		"train": func(f func()) error {
			return model.Train(context.Background(), adapter, mlxrt.TrainOptions{Train: lines, Steps: 3, BatchSize: 2},
				func(mlxrt.TrainEvent) error { f(); return nil })
		},
		"save a model": func(f func()) error {
			return model.Save(context.Background(), filepath.Join(t.TempDir(), "m"), &mlxrt.SaveOptions{Progress: func(_, _ uint64) error { f(); return nil }})
		},
		"save": func(f func()) error {
			return adapter.Save(context.Background(), filepath.Join(t.TempDir(), "a"), func(_, _ uint64) error { f(); return nil })
		},
	} {
		for range 3 {
			caught := func() (caught any) {
				defer func() { caught = recover() }()
				call(func() { panic("thrown by " + name) })
				return nil
			}()
			if caught != "thrown by "+name {
				t.Errorf("%s: %v", name, caught)
			}
		}
		var inside error
		if err := call(func() {
			var other *mlxrt.Model
			if other, inside = mlxrt.Load(context.Background(), folder, nil); inside == nil {
				other.Close()
			}
		}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if inside != nil {
			t.Errorf("%s: a call from inside: %v", name, inside)
		}
		over, returned := make(chan struct{}), false
		go func() {
			defer close(over)
			call(runtime.Goexit)
			returned = true
		}()
		if <-over; returned {
			t.Errorf("%s: the goroutine goes on after its callback's Goexit", name)
		}
	}
	usable(t, newSession(t, nil))
}

func TestManyLives(t *testing.T) {
	model := load(t)
	mlxrt.TrimMemory(2)
	before := must(mlxrt.Memory())(t)
	for i := range 1000 {
		session := must(model.NewSession(nil))(t)
		if i%10 == 0 {
			usable(t, session)
		}
		if i%10 == 1 {
			// Never read, and not closed by itself.
			must(session.Submit(context.Background(), mlxrt.Tokens(5), greedy(3)))(t).Close()
		}
		session.Close()
		must(model.NewAdapter(&mlxrt.AdapterOptions{Rank: 2}))(t).Close()
	}
	for range 20 {
		must(mlxrt.Load(context.Background(), fixture, nil))(t).Close()
	}
	mlxrt.TrimMemory(2)
	for wait := time.Now(); ; time.Sleep(time.Millisecond) {
		after := must(mlxrt.Memory())(t)
		if after.Active <= before.Active && after.Weights <= before.Weights {
			break
		}
		if time.Since(wait) > 5*time.Second {
			t.Fatalf("before %+v, after %+v", before, after)
		}
	}
}

func TestLeakReports(t *testing.T) {
	var mu sync.Mutex
	var reports []string
	mlxrt.SetLeakReports(func(report string) {
		mu.Lock()
		defer mu.Unlock()
		reports = append(reports, report)
	})
	defer mlxrt.SetLeakReports(nil)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	func() {
		leaked := must(load(t).NewSession(nil))(t)
		closed := newSession(t, nil)
		closed.Close()
		// Its context outlives it.
		must(leaked.Submit(ctx, mlxrt.Tokens(5), greedy(1)))(t)
		usable(t, leaked)
	}()
	for wait := time.Now(); ; time.Sleep(time.Millisecond) {
		runtime.GC()
		mu.Lock()
		all := strings.Join(reports, "\n")
		mu.Unlock()
		if strings.Contains(all, "a session was never closed") && strings.Contains(all, "a request was never closed") {
			if !strings.Contains(all, "TestLeakReports") {
				t.Errorf("no stack: %s", all)
			}
			break
		}
		if time.Since(wait) > 5*time.Second {
			t.Fatalf("%s", all)
		}
	}
	if len(reports) != 2 {
		t.Errorf("%d reports: %s", len(reports), strings.Join(reports, "\n"))
	}
}

// A forced shutdown ends everything, with errors and no crash; loading starts anew. In a process of its own.
func TestForcedShutdown(t *testing.T) {
	folder := path(t, fixture)
	if os.Getenv("MLXRT_GO_TEST_SHUTDOWN") == "" {
		command := exec.Command(os.Args[0], "-test.run=^TestForcedShutdown$")
		command.Env = append(os.Environ(), "MLXRT_GO_TEST_SHUTDOWN=1")
		if out, err := command.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return
	}
	ctx := context.Background()
	session := newSession(t, nil)
	request := must(session.Submit(ctx, mlxrt.Tokens(5, 6), never))(t)
	if _, err := request.Next(); err != nil {
		t.Fatal(err)
	}
	if err := mlxrt.Shutdown(ctx, true); err != nil {
		t.Fatal(err)
	}
	if result := must(request.Result())(t); result.Stop != mlxrt.StoppedCancelled {
		t.Fatalf("%+v", result)
	}
	_, err := session.Complete(ctx, mlxrt.Tokens(5), greedy(1))
	wantErr(t, err, mlxrt.ErrCancelled)
	model := must(mlxrt.Load(ctx, folder, nil))(t)
	again := must(model.NewSession(nil))(t)
	usable(t, again)
	again.Close()
	model.Close()
	for _, object := range []interface{ Close() error }{request, session, load(t)} {
		object.Close()
	}
	if err := mlxrt.Init(nil); err != nil {
		t.Fatal(err)
	}
	if err := mlxrt.Shutdown(ctx, false); err != nil {
		t.Fatal(err)
	}
}

// MLXRT_GO_DEBUG turns the reports on.
func TestLeakReportsOfTheEnvironment(t *testing.T) {
	if os.Getenv("MLXRT_GO_DEBUG") == "leak" {
		func() { must(load(t).NewSession(nil))(t) }()
		for range 100 {
			runtime.GC()
			time.Sleep(time.Millisecond)
		}
		return
	}
	path(t, fixture)
	command := exec.Command(os.Args[0], "-test.run=^TestLeakReportsOfTheEnvironment$")
	command.Env = append(os.Environ(), "MLXRT_GO_DEBUG=leak")
	out, err := command.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "a session was never closed") {
		t.Fatalf("%v: %s", err, out)
	}
}

func TestLog(t *testing.T) {
	session := newSession(t, nil)
	// Each is a line.
	say := func() {
		if err := session.Apply(); err != nil {
			t.Fatal(err)
		}
	}
	lines := make(chan string, 1000)
	if err := mlxrt.SetLog(mlxrt.LogDebug, func(level mlxrt.LogLevel, message string) {
		select {
		case lines <- fmt.Sprint(level, message):
		default:
		}
	}); err != nil {
		t.Fatal(err)
	}
	say()
	select {
	case line := <-lines:
		if !strings.Contains(line, "adapters applied") {
			t.Errorf("%q", line)
		}
	case <-time.After(5 * time.Second):
		t.Error("nothing is logged")
	}
	// A flood is cut, counted, and holds nobody up.
	for range 10000 {
		say()
	}
	if err := mlxrt.SetLog(0, nil); err != nil {
		t.Fatal(err)
	}
	for len(lines) > 0 {
		<-lines
	}
	say()
	time.Sleep(20 * time.Millisecond)
	if len(lines) > 0 {
		t.Errorf("still logs: %s", <-lines)
	}
	wantErr(t, mlxrt.SetLog(9, func(mlxrt.LogLevel, string) {}), mlxrt.ErrUnsupported)
	wantErr(t, mlxrt.SetLog(0, func(mlxrt.LogLevel, string) {}), mlxrt.ErrInvalidArgument)
}
