//! Tests that need a model: the fixtures that mlx-lm wrote (tests/fixtures), run in this process.

mod parity;
