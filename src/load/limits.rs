//! Every bound on what a model folder may hold, in one place.

/// Bounds that are checked before anything of the checked size is parsed or allocated. They are far above
/// what published models have, and low enough that no folder can exhaust the process through its metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of `config.json`, `generation_config.json` and other small JSON files.
    pub config_bytes: u64,
    /// Bytes of `model.safetensors.index.json`.
    pub index_bytes: u64,
    /// Bytes of one safetensors header (what the format itself allows).
    pub header_bytes: u64,
    /// Bytes of `tokenizer.json`.
    pub tokenizer_bytes: u64,
    /// Bytes of a chat template.
    pub template_bytes: u64,
    /// Values (objects, arrays, strings, numbers, words) in one small JSON file.
    pub json_values: usize,
    /// Tensors of a whole model folder.
    pub tensors: usize,
    /// Bytes of one tensor's name.
    pub tensor_name_bytes: usize,
    /// Dimensions of one tensor.
    pub rank: usize,
    /// Weight files of a model folder.
    pub shards: usize,
    /// Bytes that are read to compare tensors of one name in several weight files.
    pub compared_bytes: u64,
    /// Decoder layers.
    pub layers: u32,
    /// Width of the residual stream.
    pub hidden: u32,
    /// Width of an MLP or of one expert.
    pub intermediate: u32,
    /// Query heads, and key-value heads.
    pub heads: u32,
    /// Width of one head.
    pub head_dim: u32,
    /// Tokens that a short convolution looks at.
    pub taps: u32,
    /// Experts of one layer.
    pub experts: u32,
    /// Rows of the embedding.
    pub vocab: u32,
    /// Tokens of a context or of a sliding window.
    pub context: u32,
    /// Rank of an adapter's matrices.
    pub adapter_rank: u32,
}

impl Limits {
    /// The bounds the library uses.
    pub const DEFAULT: Limits = Limits {
        config_bytes: 16 << 20,
        index_bytes: 64 << 20,
        header_bytes: 100_000_000,
        tokenizer_bytes: 128 << 20,
        template_bytes: 1 << 20,
        json_values: 1_000_000,
        tensors: 100_000,
        tensor_name_bytes: 1_024,
        rank: 8,
        shards: 4_096,
        compared_bytes: 16 << 30,
        layers: 1_024,
        hidden: 1 << 17,
        intermediate: 1 << 20,
        heads: 1 << 12,
        head_dim: 1 << 13,
        taps: 16,
        experts: 1 << 13,
        vocab: 1 << 22,
        context: 1 << 27,
        adapter_rank: 4_096,
    };
}

impl Default for Limits {
    fn default() -> Self {
        Limits::DEFAULT
    }
}
