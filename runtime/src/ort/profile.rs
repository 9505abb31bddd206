//! Times of single operators, as ONNX Runtime's own profiler takes them.

use std::path::Path;

use ir::Model;

use super::session::Running;
use super::{NAME, Ort, load};
use crate::{Feed, RuntimeError, Session, View};

impl Ort {
    /// Runs models side by side on the same samples, one sample after the other and all models on each, so that whatever
    /// else the machine does falls on all of them alike. Gives each model's profile, as ONNX Runtime writes it: a JSON list
    /// of events, of which those of category `Node` whose name ends in `_kernel_time` have a duration in microseconds.
    /// `folder` takes the profiles while they are written.
    ///
    /// # Errors
    /// A model that cannot be loaded or run, or a profile that cannot be written.
    pub fn profile(
        &self,
        models: &[Model],
        feeds: &[Feed],
        runs: usize,
        threads: usize,
        folder: &Path,
    ) -> Result<Vec<String>, RuntimeError> {
        let fail = |what: String| RuntimeError::Run { runtime: NAME, what };
        let mut sessions = Vec::new();
        for (at, model) in models.iter().enumerate() {
            let bytes = proto::to_bytes(model)
                .map_err(|e| RuntimeError::Load { runtime: NAME, what: e.to_string() })?;
            let builder = self.builder(threads)?.with_profiling(folder.join(format!("profile_{at}")));
            let mut builder = builder.map_err(|e| load(ort::Error::from(e)))?;
            sessions.push(Running::single(builder.commit_from_memory(&bytes).map_err(load)?));
        }
        for feed in feeds.iter().cycle().take(runs) {
            for session in &mut sessions {
                session.run(feed, &mut |_: &str, _: View<'_>| ())?;
            }
        }
        let mut profiles = Vec::new();
        for session in &mut sessions {
            let path = session.end_profiling()?;
            let text = std::fs::read_to_string(&path).map_err(|e| fail(format!("{path}: {e}")))?;
            // The folder is the caller's; what stays there does no harm.
            let _ = std::fs::remove_file(&path);
            profiles.push(text);
        }
        Ok(profiles)
    }
}
