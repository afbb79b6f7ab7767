package mlxrt_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"time"

	mlxrt "github.com/mlxrt/mlxrt/bindings/go"
)

// The demo model of the library's repository.
const demoModel = "../../demo/model"

func Example() {
	ctx := context.Background()
	model, err := mlxrt.Load(ctx, demoModel, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer model.Close()
	session, err := model.NewSession(nil)
	if err != nil {
		log.Fatal(err)
	}
	defer session.Close()

	input := mlxrt.Chat(mlxrt.User("What is the capital of France?"))
	for event, err := range session.Generate(ctx, input, nil) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Print(event.Text)
	}
	// Output: The capital of France is Paris.
}

// A chat is its messages: append the answer and the next question, and what the session holds of them is not computed again.
func ExampleSession_Complete() {
	ctx := context.Background()
	model, err := mlxrt.Load(ctx, demoModel, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer model.Close()
	session, err := model.NewSession(nil)
	if err != nil {
		log.Fatal(err)
	}
	defer session.Close()

	var messages []mlxrt.Message
	for _, question := range []string{"What is the capital of France?", "What is 2 + 3?"} {
		messages = append(messages, mlxrt.User(question))
		answer, err := session.Complete(ctx, mlxrt.Chat(messages...), &mlxrt.Options{
			MaxTokens:   mlxrt.Ptr(40),
			Temperature: mlxrt.Ptr(0.0), // Greedy; nil would be the model's own.
		})
		if err != nil {
			log.Fatal(err)
		}
		messages = append(messages, mlxrt.Assistant(answer.Text))
		fmt.Println(answer.Text)
		fmt.Println(answer.Result.Stop == mlxrt.StoppedEOS, answer.Result.CachedTokens > 0)
	}
	// Output:
	// The capital of France is Paris.
	// true false
	// 2 + 3 = 5.
	// true true
}

// A context ends a generation wherever it is, and the session goes on.
func ExampleSession_Generate_context() {
	model, err := mlxrt.Load(context.Background(), demoModel, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer model.Close()
	session, err := model.NewSession(nil)
	if err != nil {
		log.Fatal(err)
	}
	defer session.Close()

	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	_, err = session.Complete(ctx, mlxrt.Chat(mlxrt.User("Tell me a story.")), nil)
	fmt.Println(errors.Is(err, context.DeadlineExceeded), errors.Is(err, mlxrt.ErrTimeout))
	// Output: true true
}

// Errors have a code and a sentence.
func ExampleError() {
	_, err := mlxrt.Load(context.Background(), "no/such/folder", nil)
	fmt.Println(errors.Is(err, mlxrt.ErrNotFound))
	var e *mlxrt.Error
	if errors.As(err, &e) {
		fmt.Println(e.Code)
	}
	// Output:
	// true
	// NOT_FOUND
}

// What a model needs, before it is loaded.
func ExampleInspect() {
	info, err := mlxrt.Inspect(demoModel, nil, &mlxrt.SessionOptions{Context: 1024})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(info.ModelType, info.SessionContext, info.EstimatedBytes > info.WeightBytes)
	// Output: qwen3 1024 true
}

// An adapter is made, trained, applied, and saved for mlx-lm.
func ExampleModel_Train() {
	ctx := context.Background()
	model, err := mlxrt.Load(ctx, "../../tests/fixtures/models/qwen3-f32", nil)
	if err != nil {
		log.Fatal(err)
	}
	defer model.Close()
	adapter, err := model.NewAdapter(&mlxrt.AdapterOptions{Rank: 4})
	if err != nil {
		log.Fatal(err)
	}
	defer adapter.Close()

	err = model.Train(ctx, adapter, mlxrt.TrainOptions{
		Train:        `{"text": "one two three"}` + "\n" + `{"text": "three two one"}`,
		Steps:        20,
		BatchSize:    2,
		LearningRate: mlxrt.Ptr(1e-3),
	}, func(event mlxrt.TrainEvent) error {
		fmt.Println(event.Step, event.Loss > 0)
		return nil // mlxrt.Stop would end it here.
	})
	if err != nil {
		log.Fatal(err)
	}
	session, err := model.NewSession(nil)
	if err != nil {
		log.Fatal(err)
	}
	defer session.Close()
	if err := session.Apply(adapter); err != nil {
		log.Fatal(err)
	}
	folder := filepath.Join(os.TempDir(), "mlxrt-example-adapter")
	defer os.RemoveAll(folder)
	fmt.Println(adapter.Save(ctx, folder, nil))
	// Output:
	// 10 true
	// 20 true
	// <nil>
}
