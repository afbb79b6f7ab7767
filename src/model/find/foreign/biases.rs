//! Biases that GPTQ folders hold beside every matrix, of modules that have none.

use std::collections::HashSet;

use super::super::Finder;
use crate::load::{Listed, Tensor};

/// Biases that are there and that no part has declared: they must be zeros.
pub fn undeclared_biases(finder: &mut Finder) {
    let used: HashSet<&str> = finder.used.iter().map(|of| of.name.as_str()).collect();
    let biases = finder.repacked.iter().filter(|of| of.from == "gptq");
    let biases = biases.filter_map(|of| finder.catalog.get(&format!("{}.bias", of.path)));
    let biases = biases.filter(|bias| !used.contains(bias.name.as_str()));
    let biases: Vec<Tensor> = biases.cloned().collect();
    finder.used.extend(biases.iter().cloned());
    let checks = biases.into_iter().map(|bias| (bias, Listed::Zeros));
    finder.listed.extend(checks);
}
