// Overhead measures what a token costs in Go over bare C: the same requests on the same model, in turn, by a loop over
// Session.Generate, by mlxrt_generate with a callback in C, and by mlxrt_request_next in a loop in C. It prints the lines
// of a Markdown table.
//
//	overhead MODEL
package main

/*
#cgo pkg-config: mlxrt
#include <mlxrt.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct run {
  uint64_t tokens, bytes, events;
  int64_t waiting_ns;
};

static int64_t now_ns(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

static int32_t take(void *data, const mlxrt_event *event) {
  struct run *run = data;
  run->tokens += event->token_count;
  run->bytes += event->text_len;
  return MLXRT_RETURN_CONTINUE;
}

static void set_up(mlxrt_input *input, mlxrt_generate_options *options, uint32_t tokens) {
  static const int32_t prompt[] = {5, 6, 7, 8};
  memset(input, 0, sizeof *input);
  memset(options, 0, sizeof *options);
  input->struct_size = sizeof *input;
  input->tokens = prompt;
  input->token_count = 4;
  options->struct_size = sizeof *options;
  options->flags = MLXRT_GEN_GREEDY | MLXRT_GEN_IGNORE_EOS;
  options->max_tokens = tokens;
}

static mlxrt_error *push(mlxrt_model *model, uint32_t tokens, struct run *run) {
  mlxrt_session *session;
  mlxrt_input input;
  mlxrt_generate_options options;
  mlxrt_error *error = mlxrt_session_create(model, NULL, &session);
  if (error) return error;
  set_up(&input, &options, tokens);
  error = mlxrt_generate(session, &input, &options, take, run, NULL);
  mlxrt_session_free(session);
  return error;
}

// ahead: sleeps at first so that so many events wait, and times how long they take.
static mlxrt_error *pull(mlxrt_model *model, uint32_t tokens, uint64_t ahead, int64_t sleep_ns, struct run *run) {
  mlxrt_session *session;
  mlxrt_request *request = NULL;
  mlxrt_input input;
  mlxrt_generate_options options;
  mlxrt_error *error = mlxrt_session_create(model, NULL, &session);
  if (error) return error;
  set_up(&input, &options, tokens);
  error = mlxrt_submit(session, &input, &options, &request);
  if (ahead) nanosleep(&(struct timespec){sleep_ns / 1000000000, sleep_ns % 1000000000}, NULL);
  int64_t began = now_ns();
  while (!error) {
    mlxrt_event *event;
    int32_t state;
    error = mlxrt_request_next(request, MLXRT_FOREVER, &event, &state);
    if (error || state == MLXRT_NEXT_DONE) break;
    take(run, event);
    mlxrt_free(event);
    if (++run->events == ahead) {
      run->waiting_ns = now_ns() - began;
      break;
    }
  }
  mlxrt_request_free(request);
  mlxrt_session_free(session);
  return error;
}

static mlxrt_error *load(const char *path, mlxrt_model **model) { return mlxrt_model_load(path, NULL, model); }
*/
import "C"

import (
	"context"
	"fmt"
	"log"
	"os"
	"slices"
	"strings"
	"time"

	mlxrt "github.com/mlxrt/mlxrt/bindings/go"
)

const (
	tokens = 400
	rounds = 31
	ahead  = 50 // Fewer than the library's run-ahead.
	asleep = 150 * time.Millisecond
)

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func checkC(e *C.mlxrt_error) {
	if e != nil {
		log.Fatal(C.GoString(C.mlxrt_error_message(e)))
	}
}

// cpu is the CPU time of all threads but the engine's, whose work is the same and much more than what is measured.
func cpu() time.Duration {
	var sum int64
	tasks, err := os.ReadDir("/proc/self/task")
	check(err)
	for _, task := range tasks {
		folder := "/proc/self/task/" + task.Name()
		name, _ := os.ReadFile(folder + "/comm")
		stat, _ := os.ReadFile(folder + "/schedstat")
		var ns int64
		if fmt.Sscan(string(stat), &ns); !strings.HasPrefix(string(name), "mlxrt-engine") {
			sum += ns
		}
	}
	return time.Duration(sum)
}

// perToken gives wall-clock and CPU time in microseconds a token.
func perToken(f func()) (wall, used float64) {
	began, before := time.Now(), cpu()
	f()
	return float64(time.Since(began)) / tokens / 1000, float64(cpu()-before) / tokens / 1000
}

func row(what string, values []float64) {
	slices.Sort(values)
	n := len(values)
	fmt.Printf("| %s | %.2f | %.2f to %.2f |\n", what, values[n/2], values[n/4], values[n-1-n/4])
}

func difference(a, b []float64) []float64 {
	out := make([]float64, len(a))
	for i := range a {
		out[i] = a[i] - b[i]
	}
	return out
}

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: overhead MODEL")
	}
	ctx := context.Background()
	model, err := mlxrt.Load(ctx, os.Args[1], nil)
	check(err)
	var bare *C.mlxrt_model
	path := C.CString(os.Args[1])
	checkC(C.load(path, &bare))
	options := &mlxrt.Options{Temperature: mlxrt.Ptr(0.0), IgnoreEOS: true, MaxTokens: mlxrt.Ptr(tokens)}

	goLoop := func() {
		session, err := model.NewSession(nil)
		check(err)
		defer session.Close()
		made, bytes := 0, 0
		for event, err := range session.Generate(ctx, mlxrt.Tokens(5, 6, 7, 8), options) {
			check(err)
			made += len(event.Tokens)
			bytes += len(event.Text)
		}
		if made != tokens {
			log.Fatalf("%d tokens", made)
		}
	}
	pushLoop := func() {
		var run C.struct_run
		checkC(C.push(bare, tokens, &run))
	}
	pullLoop := func() {
		var run C.struct_run
		checkC(C.pull(bare, tokens, 0, 0, &run))
	}
	goAhead := func() float64 {
		session, err := model.NewSession(nil)
		check(err)
		defer session.Close()
		request, err := session.Submit(ctx, mlxrt.Tokens(5, 6, 7, 8), options)
		check(err)
		defer request.Close()
		time.Sleep(asleep)
		began := time.Now()
		for range ahead {
			_, err := request.Next()
			check(err)
		}
		return float64(time.Since(began)) / ahead / 1000
	}
	cAhead := func() float64 {
		var run C.struct_run
		checkC(C.pull(bare, tokens, ahead, C.int64_t(asleep), &run))
		return float64(run.waiting_ns) / ahead / 1000
	}

	loops := []func(){goLoop, pushLoop, pullLoop}
	var wall, used [3][]float64
	var waiting [2][]float64
	for i := range rounds + 1 {
		for j := range loops {
			k := (i + j) % len(loops) // Each is first in turn.
			w, u := perToken(loops[k])
			if i > 0 { // The first round is not counted.
				wall[k], used[k] = append(wall[k], w), append(used[k], u)
			}
		}
		waiting[0], waiting[1] = append(waiting[0], goAhead()), append(waiting[1], cAhead())
	}
	over := func(what string, a, callback, pull []float64) {
		row(what+": Go over C's callback", difference(a, callback))
		row(what+": Go over C's request_next", difference(a, pull))
	}
	fmt.Println("| microseconds a token | median | middle half |\n| --- | --- | --- |")
	row("taking a token that is there: C's request_next", slices.Clone(waiting[1]))
	row("taking a token that is there: Go over it", difference(waiting[0], waiting[1]))
	row("by the clock: C's callback", slices.Clone(wall[1]))
	over("by the clock", wall[0], wall[1], wall[2])
	row("CPU time beside the engine's: C's callback", slices.Clone(used[1]))
	over("CPU time beside the engine's", used[0], used[1], used[2])
}
