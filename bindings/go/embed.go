package mlxrt

// #include "bridge.h"
import "C"

import (
	"context"
)

// Pooling says what of a text's tokens becomes its embedding.
type Pooling int32

const (
	// PoolingModel is what the model's folder says; else the last token, of an encoder the mean.
	PoolingModel Pooling = C.MLXRT_POOLING_MODEL
	// PoolingMean is the mean of all tokens' last hidden states.
	PoolingMean Pooling = C.MLXRT_POOLING_MEAN
	// PoolingLast is the last token's.
	PoolingLast Pooling = C.MLXRT_POOLING_LAST
	// PoolingCLS is the first token's.
	PoolingCLS Pooling = C.MLXRT_POOLING_CLS
)

// EmbedOptions change Embed; nil changes nothing.
type EmbedOptions struct {
	Pooling Pooling
	// Each embedding gets the length 1, whatever the folder says.
	Normalize bool
	// Hears the tokens that are done of all, while the call waits. An error ends the call and is what Embed gives.
	Progress Progress
}

// Embed turns texts into embeddings, one for each: as the model's folder says where it has sentence-transformers' files. It puts
// the folder's default prompt in front of each text; any other ("query: ") is the caller's to put there.
func (m *Model) Embed(ctx context.Context, texts []string, options *EmbedOptions) ([][]float32, error) {
	if err := m.check(); err != nil {
		return nil, err
	}
	if options == nil {
		options = &EmbedOptions{}
	}
	var a arguments
	defer a.free()
	pointers, lengths := a.texts(texts)
	out := C.mlxrt_tensor{struct_size: C.sizeof_mlxrt_tensor}
	call := &callback{ctx: ctx, progress: options.Progress}
	err := call.call(func() error {
		opts := C.mlxrt_embed_options{struct_size: C.sizeof_mlxrt_embed_options}
		opts.pooling, opts.timeout_ms = C.int32_t(options.Pooling), remaining(ctx)
		if options.Normalize {
			opts.flags |= C.MLXRT_EMBED_NORMALIZE
		}
		C.mlxrt_go_enable_progress(&opts.progress)
		opts.progress_data = call.pointer(&a)
		return m.blame(take(C.mlxrt_embed(m.handle, pointers, lengths, C.size_t(len(texts)), &opts, &out)))
	})
	defer C.mlxrt_free(out.data)
	if err != nil {
		return nil, err
	}
	values := copyOf((*float32)(out.data), int(out.bytes/4))
	count, dim := int(out.shape[0]), int(out.shape[1])
	rows := make([][]float32, count)
	for i := range rows {
		rows[i] = values[i*dim : (i+1)*dim : (i+1)*dim]
	}
	return rows, nil
}
