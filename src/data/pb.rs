//! ONNX test data sets: folders `test_data_set_*` with `input_K.pb`, one folder a sample.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use proto::TestValue;
use runtime::Feed;

use super::{InputSpec, Source};

/// The folder holds inputs, or outputs alone: of a model that takes none.
pub(super) fn is_data_set(folder: &Path) -> bool {
    ["input_0.pb", "output_0.pb"].iter().any(|file| folder.join(file).is_file())
}

/// Data sets of a model.
pub(super) struct DataSets {
    folders: Vec<PathBuf>,
    names: Vec<String>,
}

impl DataSets {
    pub(super) fn new(folders: Vec<PathBuf>, specs: &[InputSpec]) -> DataSets {
        DataSets { folders, names: specs.iter().map(|spec| spec.name.clone()).collect() }
    }
}

impl Source for DataSets {
    fn len(&self) -> usize {
        self.folders.len()
    }

    fn sample(&self, at: usize) -> Result<Feed> {
        let mut feed = Feed::new();
        for (k, name) in self.names.iter().enumerate() {
            let file = self.folders[at].join(format!("input_{k}.pb"));
            if !file.is_file() {
                break;
            }
            let TestValue::Tensor(tensor) =
                proto::read_value(&file, None).with_context(|| file.display().to_string())?
            else {
                bail!("{}: only tensors can be fed", file.display());
            };
            // The files name their input; those that do not stand in the order of the inputs.
            let found = tensor.notes.as_ref().map(|notes| notes.name.clone()).unwrap_or_default();
            feed.push((if self.names.contains(&found) { found } else { name.clone() }, tensor));
        }
        Ok(feed)
    }

    fn label(&self, at: usize) -> String {
        super::images::file_name(&self.folders[at])
    }
}
