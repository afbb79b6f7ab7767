package mlxrt

// #include "bridge.h"
import "C"

import (
	"context"
	"math"
)

// Optimizer is how a training changes the weights.
type Optimizer int32

const (
	AdamW Optimizer = C.MLXRT_OPTIMIZER_ADAMW
	Adam  Optimizer = C.MLXRT_OPTIMIZER_ADAM
	SGD   Optimizer = C.MLXRT_OPTIMIZER_SGD
)

// Schedule is how the learning rate goes after the warmup.
type Schedule int32

const (
	Constant Schedule = C.MLXRT_SCHEDULE_CONSTANT
	Cosine   Schedule = C.MLXRT_SCHEDULE_COSINE
	Linear   Schedule = C.MLXRT_SCHEDULE_LINEAR
)

// TrainOptions say how an adapter is trained. Fields at nil or zero, but for Train, are the defaults: mlx-lm's, with AdamW.
type TrainOptions struct {
	// JSONL, an object on each line: {"messages": [...], "tools": [...]}, {"prompt": "...", "completion": "..."} or
	// {"text": "..."}; and the same for validation, "" for none.
	Train, Valid string
	// Train and Valid are paths of files of that.
	Paths bool
	// Only answers are trained, not prompts: of messages the last one.
	MaskPrompt bool
	// Gradient checkpointing: less memory, more computing.
	Checkpoint bool
	// Batches to train; 0 is 1000.
	Steps int
	// Samples in a batch; 0 is 4.
	BatchSize int
	// The most tokens of a sample, the rest is cut; 0 is 2048.
	MaxTokens int
	// Steps whose gradients are averaged for one update; 0 is 1.
	Accumulate int
	// Steps between events; nil is 10, 0 none but the last.
	ReportEvery *int
	// Steps between validations; nil is 200, 0 none but those at the first and the last step.
	ValidateEvery *int
	// Steps between saves; nil is 100, 0 none but the one at the end.
	SaveEvery *int
	// Updates over which the learning rate rises from 0.
	Warmup int
	// The highest learning rate; nil is 1e-5.
	LearningRate *float64
	// nil is 0.01 for AdamW and none for SGD; 0 is none.
	WeightDecay *float64
	Optimizer   Optimizer
	Schedule    Schedule
	// Of the order of batches and of dropout: the same seed gives the same training.
	Seed uint64
	// A folder that is written as by Adapter.Save; "" is no saves.
	SavePath string
}

// TrainEvent says what happened since the event before.
type TrainEvent struct {
	// Steps done, and to do.
	Step, Steps uint64
	// Tokens trained since the start.
	TrainedTokens uint64
	// Samples that are longer than MaxTokens.
	TruncatedSamples uint64
	// The most memory that was used since the start.
	PeakBytes uint64
	// The mean of the steps.
	Loss float64
	// The loss on Valid before this step; NaN when it was not measured.
	ValidationLoss float64
	// Without the time of validations, saves and callbacks.
	TokensPerSecond float64
	// Of the last update.
	LearningRate float64
}

func trainEvent(e *C.mlxrt_train_event) TrainEvent {
	return TrainEvent{
		Step: uint64(e.step), Steps: uint64(e.steps),
		TrainedTokens: uint64(e.trained_tokens), TruncatedSamples: uint64(e.truncated_samples),
		PeakBytes: uint64(e.peak_bytes),
		Loss:      float64(e.loss), ValidationLoss: float64(e.validation_loss),
		TokensPerSecond: float64(e.tokens_per_second), LearningRate: float64(e.learning_rate),
	}
}

// trainReports joins the events of single steps into those that were asked for: the library looks at the context with each
// event only, so it is asked for one a step.
type trainReports struct {
	every                uint64
	steps, tokens, first uint64
	loss, seconds        float64
}

func (r *trainReports) add(e TrainEvent) (TrainEvent, bool) {
	if tokens := e.TrainedTokens - r.tokens; e.TokensPerSecond > 0 {
		r.seconds += float64(tokens) / e.TokensPerSecond
	}
	r.tokens = e.TrainedTokens
	r.steps++
	r.loss += e.Loss
	due := r.every > 0 && e.Step%r.every == 0
	if !due && e.Step != e.Steps && math.IsNaN(e.ValidationLoss) {
		return e, false
	}
	e.Loss = r.loss / float64(r.steps)
	if r.seconds > 0 {
		e.TokensPerSecond = float64(e.TrainedTokens-r.first) / r.seconds
	}
	r.first, r.steps, r.loss, r.seconds = e.TrainedTokens, 0, 0, 0
	return e, true
}

// Train trains an adapter of the model in place, as mlx-lm's trainer does; sessions that have it use its new weights from
// their next request on, and go on in between. progress, which may be nil, is called between steps: Stop ends the training
// with what it has and without an error; another error is what Train gives. ctx is looked at after every step. However it
// ends, the adapter has the weights of the last good step.
func (m *Model) Train(ctx context.Context, adapter *Adapter, options TrainOptions, progress func(event TrainEvent) error) error {
	if err := m.check(); err != nil {
		return err
	}
	if adapter == nil {
		return invalid("adapter is nil")
	}
	if err := adapter.check(); err != nil {
		return err
	}
	var a arguments
	defer a.free()
	opts := C.mlxrt_train_options{struct_size: C.sizeof_mlxrt_train_options}
	if options.Paths {
		opts.flags |= C.MLXRT_TRAIN_PATHS
	}
	if options.MaskPrompt {
		opts.flags |= C.MLXRT_TRAIN_MASK_PROMPT
	}
	if options.Checkpoint {
		opts.flags |= C.MLXRT_TRAIN_CHECKPOINT
	}
	opts.train, opts.train_len = a.text(options.Train)
	opts.valid, opts.valid_len = a.optional(options.Valid)
	opts.steps = a.count("options.Steps", options.Steps)
	opts.batch_size = a.count("options.BatchSize", options.BatchSize)
	opts.max_tokens = a.count("options.MaxTokens", options.MaxTokens)
	opts.accumulate = a.count("options.Accumulate", options.Accumulate)
	opts.validate_every = a.every("options.ValidateEvery", options.ValidateEvery)
	opts.save_every = a.every("options.SaveEvery", options.SaveEvery)
	opts.warmup = a.count("options.Warmup", options.Warmup)
	opts.learning_rate = float(options.LearningRate, tiny)
	opts.weight_decay = float(options.WeightDecay, -1)
	opts.optimizer = C.int32_t(options.Optimizer)
	opts.schedule = C.int32_t(options.Schedule)
	opts.seed = C.uint64_t(options.Seed)
	opts.save_path = a.optionalPath("options.SavePath", options.SavePath)
	opts.report_every = 1
	every := uint64(a.every("options.ReportEvery", options.ReportEvery))
	if every == 0 {
		every = 10
	}
	if a.err != nil {
		return a.err
	}
	call := &callback{ctx: ctx, train: progress, every: trainReports{every: every}}
	return call.call(func() error {
		err := take(C.mlxrt_go_train(m.handle, adapter.handle, &opts, call.pointer(&a)))
		return adapter.blame(m.blame(err))
	})
}
