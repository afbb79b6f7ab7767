package mlxrt_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	mlxrt "github.com/mlxrt/mlxrt/bindings/go"
)

// A small model with random weights, and one that answers. They lie in the repository of the library.
const (
	fixture = "../../tests/fixtures/models/qwen3-f32"
	demo    = "../../demo/model"
)

// never makes the model of load go on until it is ended.
var never = &mlxrt.Options{Temperature: mlxrt.Ptr(0.0), IgnoreEOS: true, MaxTokens: mlxrt.Ptr(1 << 20)}

func greedy(maxTokens int) *mlxrt.Options {
	return &mlxrt.Options{Temperature: mlxrt.Ptr(0.0), IgnoreEOS: true, MaxTokens: &maxTokens}
}

func path(t testing.TB, relative string) string {
	t.Helper()
	if _, err := os.Stat(filepath.Join(relative, "config.json")); err != nil {
		t.Skipf("%s is not there: this test needs the library's repository", relative)
	}
	return relative
}

// endless makes a folder of the fixture's whose context is not full before a test is over, however fast the machine is.
func endless(t testing.TB) string {
	t.Helper()
	from := path(t, fixture)
	folder := must(os.MkdirTemp("", "mlxrt-go-"))(t)
	temporary = append(temporary, folder)
	for _, file := range must(os.ReadDir(from))(t) {
		data := must(os.ReadFile(filepath.Join(from, file.Name())))(t)
		if file.Name() == "config.json" {
			data = bytes.Replace(data, []byte(`"max_position_embeddings": 2048`), []byte(`"max_position_embeddings": 1048576`), 1)
		}
		if err := os.WriteFile(filepath.Join(folder, file.Name()), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if info := must(mlxrt.Inspect(folder, nil, nil))(t); info.Context != 1<<20 {
		t.Fatalf("%+v", info)
	}
	return folder
}

// temporary folders live as long as the process, like the model of load.
var temporary []string

func TestMain(m *testing.M) {
	code := m.Run()
	for _, folder := range temporary {
		os.RemoveAll(folder)
	}
	os.Exit(code)
}

var load = func() func(testing.TB) *mlxrt.Model {
	var once sync.Once
	var model *mlxrt.Model
	var err error
	return func(t testing.TB) *mlxrt.Model {
		t.Helper()
		path(t, fixture)
		once.Do(func() { model, err = mlxrt.Load(context.Background(), endless(t), nil) })
		if err != nil {
			t.Fatal(err)
		}
		return model
	}
}()

func newSession(t testing.TB, options *mlxrt.SessionOptions) *mlxrt.Session {
	t.Helper()
	session, err := load(t).NewSession(options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { session.Close() })
	return session
}

func must[T any](value T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}

func wantErr(t testing.TB, err error, targets ...error) {
	t.Helper()
	for _, target := range targets {
		if !errors.Is(err, target) {
			t.Fatalf("error is %v, and not %v", err, target)
		}
	}
}

// usable checks that the session still answers.
func usable(t testing.TB, session *mlxrt.Session) {
	t.Helper()
	answer := must(session.Complete(context.Background(), mlxrt.Tokens(5, 6, 7), greedy(3)))(t)
	if len(answer.Tokens) != 3 || answer.Result.Stop != mlxrt.StoppedLength {
		t.Fatalf("after that the session gives %+v", answer.Result)
	}
	if info := must(session.Info())(t); info.Busy {
		t.Fatal("the session is still busy")
	}
}

func TestGenerate(t *testing.T) {
	session := newSession(t, nil)
	var text strings.Builder
	var tokens []int32
	var result *mlxrt.Result
	for event, err := range session.Generate(context.Background(), mlxrt.Text("Hello"), greedy(20)) {
		if err != nil {
			t.Fatal(err)
		}
		if result != nil {
			t.Fatal("there is an event after the last one")
		}
		text.WriteString(event.Text)
		tokens = append(tokens, event.Tokens...)
		if event.Kind == mlxrt.EventEnd {
			result = event.Result
		}
	}
	if result == nil || result.Stop != mlxrt.StoppedLength || result.GeneratedTokens != 20 || len(tokens) != 20 {
		t.Fatalf("%d tokens, %+v", len(tokens), result)
	}
	if result.Total <= 0 || result.FirstToken <= 0 || result.PromptTokens == 0 {
		t.Fatalf("%+v", result)
	}
	model := load(t)
	if want := must(model.Detokenize(tokens, &mlxrt.DetokenizeOptions{SkipSpecial: true}))(t); text.String() != want {
		t.Fatalf("the events' text is %q, that of their tokens %q", text.String(), want)
	}
	ledger := must(session.Tokens())(t)
	if len(ledger) != int(result.PromptTokens)+20 {
		t.Fatalf("the ledger has %d tokens", len(ledger))
	}
	message := must(session.Message())(t)
	if message.Role != "assistant" || message.Content != text.String() {
		t.Fatalf("%+v", message)
	}
	// Greedy is the same every time, and so is a seed.
	again := must(newSession(t, nil).Complete(context.Background(), mlxrt.Text("Hello"), greedy(20)))(t)
	if again.Text != text.String() {
		t.Fatalf("%q, then %q", text.String(), again.Text)
	}
}

func TestSampling(t *testing.T) {
	ctx := context.Background()
	run := func(o mlxrt.Options) *mlxrt.Answer {
		t.Helper()
		o.MaxTokens, o.IgnoreEOS = mlxrt.Ptr(12), true
		return must(newSession(t, nil).Complete(ctx, mlxrt.Tokens(5, 6, 7), &o))(t)
	}
	best := run(mlxrt.Options{Temperature: mlxrt.Ptr(0.0)})
	for name, o := range map[string]mlxrt.Options{
		"TopP 0":          {Temperature: mlxrt.Ptr(5.0), TopP: mlxrt.Ptr(0.0)},
		"TopK 1":          {Temperature: mlxrt.Ptr(5.0), TopK: mlxrt.Ptr(1)},
		"PenaltyWindow 0": {Temperature: mlxrt.Ptr(0.0), RepetitionPenalty: mlxrt.Ptr(9.0), PresencePenalty: 2, PenaltyWindow: mlxrt.Ptr(0)},
		"tiny":            {Temperature: mlxrt.Ptr(1e-60)},
	} {
		if got := run(o); got.Text != best.Text {
			t.Errorf("%s: %q, greedy %q", name, got.Text, best.Text)
		}
	}
	hot := mlxrt.Options{Temperature: mlxrt.Ptr(5.0), TopK: mlxrt.Ptr(0), MinP: mlxrt.Ptr(0.0), XTCProbability: mlxrt.Ptr(0.0)}
	hot.Seed = mlxrt.Ptr(uint64(0))
	a, b := run(hot), run(hot)
	if a.Text != b.Text || a.Text == best.Text {
		t.Errorf("seed 0: %q, %q", a.Text, b.Text)
	}
	hot.Seed = mlxrt.Ptr(uint64(7))
	if c := run(hot); c.Text == a.Text || c.Result.Seed != 7 {
		t.Errorf("seed 7: %q, %d", c.Text, c.Result.Seed)
	}
	// What is banned does not come, and a stop string's bytes are not delivered.
	banned := run(mlxrt.Options{Temperature: mlxrt.Ptr(0.0), Bias: map[int32]float32{best.Tokens[0]: float32(-1e30)}})
	if banned.Tokens[0] == best.Tokens[0] {
		t.Error("a banned token came")
	}
	stop := best.Text[len(best.Text)/2:]
	stopped := run(mlxrt.Options{Temperature: mlxrt.Ptr(0.0), Stop: []string{"\x01never", stop}})
	if stopped.Result.Stop != mlxrt.StoppedString || stopped.Result.StopIndex != 1 || strings.Contains(stopped.Text, stop) {
		t.Errorf("%q, %+v", stopped.Text, stopped.Result)
	}
	stopped = run(mlxrt.Options{Temperature: mlxrt.Ptr(0.0), StopTokens: []int32{best.Tokens[2]}})
	if stopped.Result.Stop != mlxrt.StoppedToken || len(stopped.Tokens) > 3 {
		t.Errorf("%+v", stopped.Result)
	}
	for _, priority := range []int32{math.MinInt32, math.MaxInt32} {
		if first := run(mlxrt.Options{Temperature: mlxrt.Ptr(0.0), Priority: priority}); first.Text != best.Text {
			t.Errorf("%d: %q, not %q", priority, first.Text, best.Text)
		}
	}
	prefill := must(newSession(t, nil).Complete(ctx, mlxrt.Tokens(5, 6, 7), &mlxrt.Options{MaxTokens: mlxrt.Ptr(0)}))(t)
	if len(prefill.Tokens) != 0 || prefill.Result.PromptTokens != 3 {
		t.Errorf("%+v", prefill.Result)
	}
}

func TestLogprobsAndProgress(t *testing.T) {
	options := greedy(3)
	options.TopLogprobs, options.ProgressTokens = 4, 8
	input := mlxrt.Tokens(make([]int32, 100)...)
	progress := 0
	for event, err := range newSession(t, nil).Generate(context.Background(), input, options) {
		if err != nil {
			t.Fatal(err)
		}
		switch event.Kind {
		case mlxrt.EventProgress:
			progress++
			if event.Total != 100 || event.Done > event.Total {
				t.Fatalf("%+v", event)
			}
		case mlxrt.EventText:
			if len(event.Logprobs) != len(event.Tokens) || len(event.Top) != len(event.Tokens) {
				t.Fatalf("%+v", event)
			}
			for i, top := range event.Top {
				if len(top) != 4 || top[0].Token != event.Tokens[i] || top[0].Logprob != event.Logprobs[i] || top[1].Logprob > top[0].Logprob {
					t.Fatalf("%+v", event)
				}
			}
		}
	}
	if progress == 0 {
		t.Fatal("no progress")
	}
}

func TestTokensOnly(t *testing.T) {
	options := greedy(5)
	options.TokensOnly = true
	answer := must(newSession(t, nil).Complete(context.Background(), mlxrt.Tokens(5, 6, 7), options))(t)
	if len(answer.Tokens) != 5 || answer.Text != "" {
		t.Fatalf("%+v", answer)
	}
}

func TestChat(t *testing.T) {
	model := must(mlxrt.Load(context.Background(), path(t, demo), nil))(t)
	defer model.Close()
	session := must(model.NewSession(nil))(t)
	defer session.Close()
	messages := []mlxrt.Message{mlxrt.User("What is the capital of France?")}
	options := &mlxrt.Options{MaxTokens: mlxrt.Ptr(24), Temperature: mlxrt.Ptr(0.0)}
	answer := must(session.Complete(context.Background(), mlxrt.Chat(messages...), options))(t)
	if !strings.Contains(answer.Text, "Paris") || answer.Result.Stop != mlxrt.StoppedEOS {
		t.Fatalf("%q, %+v", answer.Text, answer.Result)
	}
	messages = append(messages, must(session.Message())(t), mlxrt.User("And of Italy?"))
	options.MaxTokens = mlxrt.Ptr(4)
	answer = must(session.Complete(context.Background(), mlxrt.Chat(messages...), options))(t)
	if answer.Result.CachedTokens < 10 {
		t.Fatalf("the second turn reuses %d tokens", answer.Result.CachedTokens)
	}
	counted := must(model.CountTokens(mlxrt.Chat(messages...)))(t)
	if ids := must(model.PromptTokens(mlxrt.Chat(messages...)))(t); len(ids) != counted || uint64(counted) != answer.Result.PromptTokens {
		t.Fatalf("%d tokens, %d counted, %d taken in", len(ids), counted, answer.Result.PromptTokens)
	}
	prompt := must(model.Render(mlxrt.Chat(messages...)))(t)
	if !strings.Contains(prompt, "And of Italy?") || !strings.Contains(prompt, "Paris") {
		t.Fatalf("%q", prompt)
	}
}

// A session goes on from a file as it would have gone on, in another model handle, and what is damaged or another's is refused.
func TestSaveAndLoadSession(t *testing.T) {
	ctx := context.Background()
	path := filepath.Join(t.TempDir(), "session")
	session := newSession(t, &mlxrt.SessionOptions{Context: 4000})
	must(session.Complete(ctx, mlxrt.Tokens(5, 6, 7, 8, 9), greedy(6)))(t)
	var done, total uint64
	hear := func(d, of uint64) error {
		done, total = d, of
		return nil
	}
	if err := session.Save(ctx, path, hear); err != nil {
		t.Fatal(err)
	}
	if done != total || total == 0 {
		t.Errorf("%d of %d bytes were heard of", done, total)
	}
	held := must(session.Tokens())(t)
	wanted := must(session.Complete(ctx, mlxrt.Tokens(20), greedy(6)))(t)

	model := load(t)
	loaded := must(model.LoadSession(ctx, path, hear))(t)
	defer loaded.Close()
	if tokens := must(loaded.Tokens())(t); !slices.Equal(tokens, held) {
		t.Fatalf("%v was saved and %v loaded", held, tokens)
	}
	if info := must(loaded.Info())(t); info.Context != 4000 {
		t.Errorf("%+v", info)
	}
	answer := must(loaded.Complete(ctx, mlxrt.Tokens(20), greedy(6)))(t)
	if !slices.Equal(answer.Tokens, wanted.Tokens) || answer.Result.CachedTokens != wanted.Result.CachedTokens {
		t.Errorf("%v, and it would have been %v", answer, wanted)
	}

	stop := errors.New("enough")
	if err := session.Save(ctx, path, func(_, _ uint64) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("%v", err)
	}
	_, err := model.LoadSession(ctx, path+"-none", nil)
	wantErr(t, err, mlxrt.ErrNotFound)
	data := must(os.ReadFile(path))(t)
	data[len(data)-100] ^= 1
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = model.LoadSession(ctx, path, nil)
	wantErr(t, err, mlxrt.ErrBadModel)
	running := must(loaded.Submit(ctx, mlxrt.Tokens(5), never))(t)
	defer running.Close()
	wantErr(t, loaded.Save(ctx, path, nil), mlxrt.ErrBusy)
	running.Cancel()
	must(running.Result())(t)
	session.Close()
	wantErr(t, session.Save(ctx, path, nil), mlxrt.ErrClosed)
}

// A fork goes its own way, a cut session goes on from what is left, and both answer as a fresh session would.
func TestForkAndTruncate(t *testing.T) {
	ctx := context.Background()
	fresh := func(prompt []int32) []int32 {
		t.Helper()
		options := greedy(6)
		options.NoPrefixCache = true
		answer := must(newSession(t, nil).Complete(ctx, mlxrt.Tokens(prompt...), options))(t)
		if answer.Result.CachedTokens != 0 {
			t.Errorf("a fresh session had %d tokens", answer.Result.CachedTokens)
		}
		return answer.Tokens
	}
	ask := func(session *mlxrt.Session, tokens ...int32) *mlxrt.Answer {
		t.Helper()
		return must(session.Complete(ctx, mlxrt.Tokens(tokens...), greedy(6)))(t)
	}
	session := newSession(t, &mlxrt.SessionOptions{Context: 4000})
	ask(session, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14)
	held := must(session.Tokens())(t)
	fork := must(session.Fork())(t)
	defer fork.Close()
	if tokens := must(fork.Tokens())(t); !slices.Equal(tokens, held) {
		t.Fatalf("%v, and the fork has %v", held, tokens)
	}
	if info := must(fork.Info())(t); info.Context != 4000 {
		t.Errorf("%+v", info)
	}
	if mine, its := must(session.MessageJSON())(t), must(fork.MessageJSON())(t); !bytes.Equal(mine, its) {
		t.Errorf("%s, and the fork's %s", mine, its)
	}
	one, other := ask(session, 20), ask(fork, 30)
	if !slices.Equal(one.Tokens, fresh(append(slices.Clone(held), 20))) || !slices.Equal(other.Tokens, fresh(append(slices.Clone(held), 30))) {
		t.Errorf("%v and %v", one.Tokens, other.Tokens)
	}
	if r := other.Result; r.CachedTokens+2 != r.PromptTokens {
		t.Errorf("the fork computed %d of %d tokens again", r.PromptTokens-r.CachedTokens, r.PromptTokens)
	}

	wantErr(t, fork.Truncate(len(held)+8), mlxrt.ErrInvalidArgument)
	wantErr(t, fork.Truncate(-1), mlxrt.ErrInvalidArgument)
	if err := fork.Truncate(12); err != nil {
		t.Fatal(err)
	}
	if tokens := must(fork.Tokens())(t); !slices.Equal(tokens, held[:12]) {
		t.Errorf("%v of %v are left", tokens, held)
	}
	_, err := fork.Message()
	wantErr(t, err, mlxrt.ErrNotFound)
	// Either may go first.
	session.Close()
	third := ask(fork, 30)
	if !slices.Equal(third.Tokens, fresh(append(slices.Clone(held[:12]), 30))) || third.Result.CachedTokens != 12 {
		t.Errorf("%v, %+v", third.Tokens, third.Result)
	}

	running := must(fork.Submit(ctx, mlxrt.Tokens(5), never))(t)
	defer running.Close()
	_, err = fork.Fork()
	wantErr(t, err, mlxrt.ErrBusy)
	wantErr(t, fork.Truncate(1), mlxrt.ErrBusy)
	running.Cancel()
	must(running.Result())(t)
	_, err = session.Fork()
	wantErr(t, err, mlxrt.ErrClosed)
	wantErr(t, session.Truncate(0), mlxrt.ErrClosed)
}

// What a request said of its own tokens is what a score says of them, and the session stays as it is.
func TestScore(t *testing.T) {
	ctx := context.Background()
	options := greedy(12)
	options.Logprobs = true
	prompt := []int32{5, 6, 7, 8, 9, 10, 11, 12, 13, 14}
	session := newSession(t, nil)
	var answer []int32
	var said []float32
	for event, err := range newSession(t, nil).Generate(ctx, mlxrt.Tokens(prompt...), options) {
		if err != nil {
			t.Fatal(err)
		}
		answer, said = append(answer, event.Tokens...), append(said, event.Logprobs...)
	}
	same := func(logprobs []float32) {
		t.Helper()
		if len(logprobs) != len(answer) || len(logprobs) != len(said) {
			t.Fatalf("%v of %v", logprobs, answer)
		}
		for i, logprob := range logprobs {
			if d := logprob - said[i]; d > 1e-4 || d < -1e-4 {
				t.Errorf("%v, and the answer's are %v", logprobs, said)
			}
		}
	}
	prefix, target := mlxrt.Tokens(prompt...), mlxrt.Tokens(answer...)
	var done, total uint64
	progress := func(d, of uint64) error { done, total = d, of; return nil }
	same(must(session.Score(ctx, &prefix, target, progress))(t))
	// What the other session has computed is not computed again.
	if done != total || total < uint64(len(answer)) {
		t.Errorf("%d of %d", done, total)
	}
	must(session.Complete(ctx, prefix, &mlxrt.Options{MaxTokens: mlxrt.Ptr(0)}))(t)
	same(must(session.Score(ctx, nil, target, nil))(t))
	if tokens := must(session.Tokens())(t); !slices.Equal(tokens, prompt) {
		t.Errorf("the session has %v", tokens)
	}

	_, err := session.Score(ctx, &prefix, mlxrt.Text(""), nil)
	wantErr(t, err, mlxrt.ErrInvalidArgument)
	_, err = session.Score(ctx, nil, mlxrt.Chat(mlxrt.User("Hi")), nil)
	wantErr(t, err, mlxrt.ErrInvalidArgument)
	stop := errors.New("enough")
	_, err = session.Score(ctx, nil, target, func(_, _ uint64) error { return stop })
	wantErr(t, err, stop)
	ended, cancel := context.WithCancel(ctx)
	cancel()
	_, err = session.Score(ended, nil, target, nil)
	wantErr(t, err, context.Canceled)
	same(must(session.Score(ctx, nil, target, nil))(t))
	session.Close()
	_, err = session.Score(ctx, nil, target, nil)
	wantErr(t, err, mlxrt.ErrClosed)
}

func TestInspectAttention(t *testing.T) {
	session := newSession(t, nil)
	_, err := session.InspectAttention(0)
	wantErr(t, err, mlxrt.ErrNotFound)
	must(session.Complete(context.Background(), mlxrt.Tokens(5, 6, 7, 8), greedy(3)))(t)
	keys := must(session.InspectAttention(1))(t)
	// Of all tokens but the last, which the next request computes.
	if !slices.Equal(keys.Shape, []int{1, 6, 16}) || len(keys.Data) != 6*16 {
		t.Errorf("%v, %d numbers", keys.Shape, len(keys.Data))
	}
	for _, layer := range []int{2, -1} {
		_, err = session.InspectAttention(layer)
		wantErr(t, err, mlxrt.ErrInvalidArgument)
	}
	session.Close()
	_, err = session.InspectAttention(0)
	wantErr(t, err, mlxrt.ErrClosed)
}

// What another session of the model has computed of a prompt is not computed again, unless that is asked for.
func TestPromptsAreShared(t *testing.T) {
	prompt := mlxrt.Tokens(40, 41, 42, 43, 44, 45, 46, 47, 48, 49)
	first, second, third := newSession(t, nil), newSession(t, nil), newSession(t, nil)
	must(first.Complete(context.Background(), prompt, greedy(6)))(t)
	shared := must(second.Complete(context.Background(), prompt, greedy(6)))(t)
	options := greedy(6)
	options.NoPrefixCache = true
	anew := must(third.Complete(context.Background(), prompt, options))(t)
	if shared.Result.CachedTokens != 9 || anew.Result.CachedTokens != 0 || !slices.Equal(shared.Tokens, anew.Tokens) {
		t.Errorf("%v with %d tokens of another session, %v with %d", shared.Tokens, shared.Result.CachedTokens, anew.Tokens, anew.Result.CachedTokens)
	}
}

func TestContextBeforeTheCall(t *testing.T) {
	ctx, cancel := context.WithCancelCause(context.Background())
	cause := errors.New("the user left")
	cancel(cause)
	session := newSession(t, nil)
	_, err := session.Complete(ctx, mlxrt.Text("Hello"), nil)
	wantErr(t, err, context.Canceled, mlxrt.ErrCancelled, cause)
	_, err = session.Submit(ctx, mlxrt.Text("Hello"), nil)
	wantErr(t, err, context.Canceled, mlxrt.ErrCancelled)
	_, err = mlxrt.Load(ctx, fixture, nil)
	wantErr(t, err, context.Canceled, mlxrt.ErrCancelled)
	late, stop := context.WithDeadline(context.Background(), time.Now().Add(-time.Second))
	defer stop()
	_, err = session.Complete(late, mlxrt.Text("Hello"), nil)
	wantErr(t, err, context.DeadlineExceeded, mlxrt.ErrTimeout)
	usable(t, session)
}

// long is a prompt that takes the model of load a while.
func long() mlxrt.Input {
	ids := make([]int32, 500_000)
	for i := range ids {
		ids[i] = int32(5 + i%50)
	}
	return mlxrt.Tokens(ids...)
}

func TestContextDuringPrefill(t *testing.T) {
	session := newSession(t, nil)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	options := greedy(5)
	options.ProgressTokens = 1
	var last mlxrt.Event
	var err error
	began := time.Now()
	for last, err = range session.Generate(ctx, long(), options) {
		cancel()
		if last.Kind == mlxrt.EventText {
			t.Fatal("the prompt was taken in")
		}
	}
	wantErr(t, err, context.Canceled, mlxrt.ErrCancelled)
	if last.Kind != mlxrt.EventEnd || last.Result == nil || last.Result.Stop != mlxrt.StoppedCancelled || last.Result.GeneratedTokens != 0 {
		t.Fatalf("%+v, %+v", last, last.Result)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Fatalf("that took %s", took)
	}
	usable(t, session)
}

func TestContextMidStream(t *testing.T) {
	session := newSession(t, nil)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	tokens := 0
	var last mlxrt.Event
	var err error
	for last, err = range session.Generate(ctx, mlxrt.Tokens(5, 6), never) {
		if tokens += len(last.Tokens); tokens > 10 {
			cancel()
		}
	}
	wantErr(t, err, context.Canceled, mlxrt.ErrCancelled)
	if last.Result == nil || last.Result.GeneratedTokens < 10 {
		t.Fatalf("%+v", last.Result)
	}
	usable(t, session)

	// A deadline, and from another goroutine while this one waits.
	late, stop := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer stop()
	_, err = session.Complete(late, mlxrt.Tokens(5, 6), never)
	wantErr(t, err, context.DeadlineExceeded)
	usable(t, session)

	// The option's end is none of an error.
	options := *never
	options.Timeout = 50 * time.Millisecond
	answer := must(session.Complete(context.Background(), mlxrt.Tokens(5, 6), &options))(t)
	if answer.Result.Stop != mlxrt.StoppedTimeout {
		t.Fatalf("%+v", answer.Result)
	}
}

func TestContextWhileQueued(t *testing.T) {
	session := newSession(t, nil)
	running := must(session.Submit(context.Background(), mlxrt.Tokens(5, 6), never))(t)
	defer running.Close()
	if _, err := running.Next(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Millisecond)
	defer cancel()
	answer, err := session.Complete(ctx, mlxrt.Tokens(7, 8), greedy(3))
	wantErr(t, err, context.DeadlineExceeded)
	if len(answer.Tokens) != 0 || answer.Result.Stop != mlxrt.StoppedCancelled {
		t.Fatalf("%+v", answer.Result)
	}
	if info := must(session.Info())(t); !info.Busy {
		t.Fatal("the request before it ended too")
	}
	running.Cancel()
	if result := must(running.Result())(t); result.Stop != mlxrt.StoppedCancelled {
		t.Fatalf("%+v", result)
	}
	usable(t, session)
}

func TestContextWhileSuspended(t *testing.T) {
	session := newSession(t, nil)
	running := must(session.Submit(context.Background(), mlxrt.Tokens(5, 6), never))(t)
	defer running.Close()
	if err := mlxrt.Suspend(context.Background()); err != nil {
		t.Fatal(err)
	}
	_, err := session.Submit(context.Background(), mlxrt.Tokens(5), nil)
	wantErr(t, err, mlxrt.ErrSuspended)
	running.Cancel()
	if result := must(running.Result())(t); result.Stop != mlxrt.StoppedCancelled {
		t.Fatalf("%+v", result)
	}
	if err := mlxrt.Resume(); err != nil {
		t.Fatal(err)
	}
	wantErr(t, mlxrt.Resume(), mlxrt.ErrInvalidArgument)
	usable(t, session)
}

func TestBreak(t *testing.T) {
	session := newSession(t, nil)
	for range 20 {
		for event, err := range session.Generate(context.Background(), mlxrt.Tokens(5, 6), never) {
			if err != nil {
				t.Fatal(err)
			}
			if event.Kind == mlxrt.EventText {
				break
			}
		}
		if info := must(session.Info())(t); info.Busy {
			t.Fatal("the request goes on after the loop")
		}
	}
	func() {
		defer func() { recover() }()
		for range session.Generate(context.Background(), mlxrt.Tokens(5, 6), never) {
			panic("in the loop's body")
		}
	}()
	usable(t, session)
}

func TestQueue(t *testing.T) {
	session := newSession(t, nil)
	var requests []*mlxrt.Request
	for range 10 {
		requests = append(requests, must(session.Submit(context.Background(), mlxrt.Tokens(5, 6), greedy(4)))(t))
	}
	for i, r := range requests {
		answer := must(mlxrt.Collect(r.Events()))(t)
		if len(answer.Tokens) != 4 || answer.Result.PromptTokens != uint64(6*i+2) {
			t.Fatalf("request %d: %+v", i, answer.Result)
		}
		if _, err := r.Next(); err != io.EOF {
			t.Fatal(err)
		}
		again := must(r.Result())(t)
		if again.GeneratedTokens != 4 {
			t.Fatalf("%+v", again)
		}
		r.Close()
	}
}

func TestSessionsBesideEachOther(t *testing.T) {
	want := must(newSession(t, nil).Complete(context.Background(), mlxrt.Tokens(5, 6, 7), greedy(30)))(t)
	var group sync.WaitGroup
	for i := range 24 {
		session := newSession(t, nil)
		group.Add(1)
		go func() {
			defer group.Done()
			for round := range 3 {
				options := greedy(30)
				options.NoPrefixCache = round == 2
				if (i+round)%4 == 3 {
					ctx, cancel := context.WithTimeout(context.Background(), time.Duration(i)*time.Millisecond)
					session.Complete(ctx, mlxrt.Tokens(5, 6, 7), never)
					cancel()
					session.Cancel()
				}
				other, err := load(t).NewSession(nil)
				if err != nil {
					t.Error(err)
					return
				}
				answer, err := other.Complete(context.Background(), mlxrt.Tokens(5, 6, 7), options)
				if err != nil || answer.Text != want.Text {
					t.Errorf("%v: %q, alone %q", err, answer.Text, want.Text)
				}
				other.Close()
			}
		}()
	}
	group.Wait()
}

func TestManyReadersOfOneRequest(t *testing.T) {
	session := newSession(t, nil)
	request := must(session.Submit(context.Background(), mlxrt.Tokens(5, 6), greedy(200)))(t)
	defer request.Close()
	var group sync.WaitGroup
	var mu sync.Mutex
	tokens, ends := 0, 0
	for range 4 {
		group.Add(1)
		go func() {
			defer group.Done()
			for event, err := range request.Events() {
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				tokens += len(event.Tokens)
				if event.Kind == mlxrt.EventEnd {
					ends++
				}
				mu.Unlock()
			}
		}()
	}
	group.Wait()
	if tokens != 200 || ends != 1 {
		t.Fatalf("%d tokens, %d ends", tokens, ends)
	}
}

// Waiting requests hold no threads: many more of them than the threads that there are.
func TestNoThreadWaits(t *testing.T) {
	threads := func() int {
		entries, err := os.ReadDir("/proc/self/task")
		if err != nil {
			t.Skip("no /proc")
		}
		return len(entries)
	}
	session := newSession(t, nil)
	running := must(session.Submit(context.Background(), mlxrt.Tokens(5, 6), never))(t)
	before := threads()
	var group sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	for range 300 {
		group.Add(1)
		go func() {
			defer group.Done()
			_, err := session.Complete(ctx, mlxrt.Tokens(5), greedy(2))
			if !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		}()
	}
	time.Sleep(200 * time.Millisecond)
	during := threads()
	cancel()
	group.Wait()
	running.Close()
	descriptors := func() int {
		entries, _ := os.ReadDir("/proc/self/fd")
		return len(entries)
	}
	if open := descriptors(); open > 200 {
		t.Errorf("%d descriptors are open after that", open)
	}
	if during > before+30 {
		t.Fatalf("%d threads before, %d with 300 requests that wait", before, during)
	}
	usable(t, session)
}

func TestNoGoroutineLeaks(t *testing.T) {
	session := newSession(t, nil)
	usable(t, session) // Starts what lives as long as the process.
	before := runtime.NumGoroutine()
	for i := range 50 {
		ctx, cancel := context.WithCancel(context.Background())
		for range session.Generate(ctx, mlxrt.Tokens(5, 6), greedy(5)) {
			if i%3 == 0 {
				cancel()
			}
			if i%3 == 1 {
				break
			}
		}
		cancel()
	}
	for wait := time.Now(); runtime.NumGoroutine() > before; time.Sleep(time.Millisecond) {
		if time.Since(wait) > 5*time.Second {
			t.Fatalf("%d goroutines, then %d", before, runtime.NumGoroutine())
		}
	}
}

func TestQuantisedKeys(t *testing.T) {
	ctx := context.Background()
	model := must(mlxrt.Load(ctx, path(t, "../../tests/fixtures/models/qwen3-4bit"), nil))(t)
	defer model.Close()
	held := func(bits, group int) uint64 {
		session := must(model.NewSession(&mlxrt.SessionOptions{KVBits: bits, KVGroupSize: group}))(t)
		defer session.Close()
		must(session.Complete(ctx, mlxrt.Tokens(5, 6, 7), greedy(3)))(t)
		return must(session.Info())(t).KVBytes
	}
	// In f32: of 32 numbers 128 bytes, or 32 and two scales.
	if plain, packed := held(0, 0), held(8, 32); packed*128 != plain*40 {
		t.Errorf("%d bytes, and packed %d", plain, packed)
	}
	_, err := model.NewSession(&mlxrt.SessionOptions{KVBits: 3})
	wantErr(t, err, mlxrt.ErrInvalidArgument)
	_, err = model.NewSession(&mlxrt.SessionOptions{KVBits: 8, KVGroupSize: 64})
	wantErr(t, err, mlxrt.ErrIncompatible)
}

// The model of this test thinks, calls a tool, and says something about what that gave.
func TestThinkingAndCalls(t *testing.T) {
	ctx := context.Background()
	model := must(mlxrt.Load(ctx, path(t, "../../tests/fixtures/script"), nil))(t)
	defer model.Close()
	session := must(model.NewSession(nil))(t)
	defer session.Close()
	tools := []byte(`[{"type":"function","function":{"name":"weather"}}]`)
	messages := []mlxrt.Message{mlxrt.User("How warm is it in Oslo?")}
	ask := func(options *mlxrt.Options) *mlxrt.Answer {
		return must(session.Complete(ctx, mlxrt.Input{Messages: messages, Tools: tools}, options))(t)
	}
	answer := ask(nil)
	if answer.Thinking != "Let me look it up." || answer.Text != "I ask:" || len(answer.ToolCalls) != 1 ||
		!strings.HasSuffix(answer.ToolCalls[0], `"name":"weather","arguments":{"city":"Oslo"}}`) {
		t.Fatalf("%+v", answer)
	}
	if answer.Result.Stop != mlxrt.StoppedToolCall || answer.Result.ThinkingTokens != 6 {
		t.Fatalf("%+v", answer.Result)
	}
	message := must(session.Message())(t)
	if message.ReasoningContent != answer.Thinking || !strings.Contains(string(message.ToolCalls), "weather") {
		t.Fatalf("%+v", message)
	}
	short := ask(&mlxrt.Options{ThinkingBudget: mlxrt.Ptr(2)})
	if short.Thinking != "Let me" || short.Result.ThinkingTokens != 2 || short.Text != "I ask:" {
		t.Fatalf("%+v", short)
	}
	if none := ask(&mlxrt.Options{ThinkingBudget: mlxrt.Ptr(0)}); none.Thinking != "" || none.Text != "I ask:" {
		t.Fatalf("%+v", none)
	}
	// Calls are chosen, obey their schema, and are told while they come.
	tools = []byte(`[{"name":"weather","parameters":{"type":"object","required":["city"],"properties":{"city":{"const":"Bergen"}}}}]`)
	strict := &mlxrt.Options{StrictTools: true, ToolDeltas: true}
	input := mlxrt.Input{Messages: messages, Tools: tools, ToolChoice: []byte(`{"name":"weather"}`)}
	var deltas string
	for event, err := range session.Generate(ctx, input, strict) {
		switch {
		case err != nil:
			t.Fatal(err)
		case event.Kind == mlxrt.EventToolDelta:
			deltas += event.Text
		case event.Kind == mlxrt.EventText && event.Text != "":
			t.Errorf("%q", event.Text)
		case event.Kind == mlxrt.EventToolCall && !strings.HasSuffix(event.Text, `"arguments":{"city":"Bergen"}}`):
			t.Errorf("%s", event.Text)
		}
	}
	if !strings.HasPrefix(deltas, `{"index":0,"id":"`) {
		t.Errorf("%s", deltas)
	}
	input.ToolChoice = []byte(`{"name":"clock"}`)
	_, err := session.Complete(ctx, input, nil)
	wantErr(t, err, mlxrt.ErrInvalidArgument)
	tools = []byte(`[{"type":"function","function":{"name":"weather"}}]`)
	messages = append(messages, message, mlxrt.Message{Role: "tool", Content: "<tool_call> -3"})
	if last := ask(nil); last.Text != "It is cold." || len(last.ToolCalls) != 0 || last.Result.Stop != mlxrt.StoppedEOS {
		t.Fatalf("%+v", last)
	}
}
