//! What is odd about a folder that loads all the same.

use crate::error::Result;

/// Sentences that each name their file. They go to the log as they come, and into what `mlxrt_model_info` and
/// `mlxrt_model_inspect` give.
#[derive(Clone, Debug, Default)]
pub struct Warnings {
    sentences: Vec<String>,
}

impl Warnings {
    /// A folder can be odd in as many ways as it has keys; nobody reads more.
    const MOST: usize = 64;

    pub fn add(&mut self, sentence: impl Into<String>) {
        let sentence = crate::words::plain(&sentence.into()).into_owned();
        if self.sentences.len() < Self::MOST && !self.sentences.contains(&sentence) {
            crate::log::warn!("{sentence}");
            self.sentences.push(sentence);
        }
    }

    /// The value of a file or key that a model can do without: what is wrong with it becomes a warning, and the value is
    /// as if it were not there. Only what says nothing of the folder stays an error: a lack of memory, a deadline, a cancel.
    pub fn forgive<T: Default>(&mut self, value: Result<T>) -> Result<T> {
        match value {
            Err(error) if !error.code.is_of_the_moment() => {
                self.add(format!("{}; it is ignored", error.message));
                Ok(T::default())
            }
            value => value,
        }
    }

    pub fn sentences(&self) -> &[String] {
        &self.sentences
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::error::{Code, Error};

    #[test]
    fn what_is_wrong_becomes_a_sentence_and_the_value_a_default() {
        let mut warnings = Warnings::default();
        assert_eq!(warnings.forgive(Ok(7)).unwrap(), 7);
        let wrong = || Err::<i32, _>(Error::bad_model("a.json: \"b\" must be a number"));
        assert_eq!(warnings.forgive(wrong()).unwrap(), 0);
        assert_eq!(warnings.forgive(wrong()).unwrap(), 0);
        assert_eq!(
            warnings.sentences(),
            ["a.json: \"b\" must be a number; it is ignored"]
        );
    }

    #[test]
    fn a_lack_of_memory_or_time_is_no_fault_of_the_folder() {
        for code in [Code::OutOfMemory, Code::Timeout, Code::Cancelled] {
            let lack: Result<i32> = Err(Error::new(code, "not now"));
            let mut warnings = Warnings::default();
            assert_eq!(warnings.forgive(lack).unwrap_err().code, code);
            assert!(warnings.sentences().is_empty());
        }
    }

    #[test]
    fn there_is_an_end_to_them() {
        let mut warnings = Warnings::default();
        (0..1_000).for_each(|i| warnings.add(format!("{i}")));
        assert_eq!(warnings.sentences().len(), Warnings::MOST);
    }
}
