#[path = "../../src/model/config.rs"]
pub mod config;
#[path = "../../src/model/families/mod.rs"]
pub mod families;
#[path = "../../src/model/modules.rs"]
pub mod modules;
#[path = "../../src/model/weights.rs"]
pub mod weights;

pub use config::{DecoderConfig, Names};
pub use weights::Weights;
