//! One file per command.

pub mod bench;
pub mod chat;
pub mod complete;
pub mod count;
pub mod docs;
pub mod embed;
pub mod generate;
pub mod info;
pub mod save;
pub mod score;
pub mod train;
