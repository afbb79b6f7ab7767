//! The page's rows of weights that other programs packed; `tests/foreign` compares each of them.

use super::*;

const ROWS: [[&str; 4]; 8] = [
    [
        "AWQ (`gemm`)",
        "4 bits",
        "`affine`",
        "in f32; else biases are rounded to the scales' type",
    ],
    [
        "GPTQ (`gptq`, `gptq_v2`)",
        "4 and 8 bits",
        "`affine`",
        "in f32; else biases are rounded to the scales' type",
    ],
    [
        "compressed-tensors `pack-quantized`",
        "4 and 8 bits",
        "`affine`",
        "without zero points, and in f32; else biases are rounded to the scales' type",
    ],
    [
        "compressed-tensors `int-quantized`",
        "8 bits",
        "`affine`",
        "yes",
    ],
    [
        "`fp8`, compressed-tensors `float-quantized`, modelopt `FP8`",
        "F8_E4M3 with a scale for each block, row or tensor",
        "plain BF16, in a model of f32 F32",
        "each weight is rounded once to BF16",
    ],
    [
        "compressed-tensors `mxfp4-pack-quantized`",
        "4-bit floats",
        "`mxfp4`",
        "yes",
    ],
    ["modelopt `MXFP8`", "8-bit floats", "`mxfp8`", "yes"],
    [
        "NVFP4 of modelopt and compressed-tensors",
        "4-bit floats with two scales",
        "plain BF16, in a model of f32 F32: MLX's `nvfp4` has one scale",
        "each weight is rounded once to BF16",
    ],
];

pub(super) fn section(out: &mut String) {
    *out += "\n### Other programs' weights\n\nMade into MLX's while they are read: names, types and shapes of the tensors decide what they are, and \
             `quantization_config` tells what they cannot. What a folder leaves plain stays plain.\n\n";
    heading(out, &["from", "of", "becomes", "exact"]);
    for cells in &ROWS {
        row(out, cells);
    }
    *out += "\n`mlxrt_model_info` and `mlxrt_model_inspect` tell what became of how many modules (`repacked`), and a warning names what is rounded. \
             mlx-lm rounds in the same places. Groups are multiples of 32 inputs; wider ones are cut, each part with the same scale. Activations and \
             caches are not quantised, whatever the folder has scales for. A saved model is MLX's.\n\nRefused by name: inputs in an order of their own \
             (act-order, a `g_idx` that is not in order), AWQ's `gemv` and `marlin`, other bits, GPTQ without a `quantization_config`, and experts in one \
             tensor.\n";
}
