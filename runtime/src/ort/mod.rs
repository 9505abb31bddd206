//! ONNX Runtime, loaded at run time from a shared library: nothing is downloaded or linked at build time.
//!
//! It is built against API level 17, so libraries from 1.17 on work. It runs what tract lacks, and the emitted files
//! themselves. Numbers depend on its optimization level: `basic` equals the unoptimized graph bit for bit, `all` fuses
//! integer kernels and may quantize activations of its own accord (MatMulNBits accuracy level 4), so every result names
//! the level.

mod convert;
mod pool;
mod profile;
mod session;
mod tap;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ::ort::environment::Environment;
use ::ort::session::Session as OrtSession;
use ::ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use ir::{DType, Model};

use crate::{Executor, Prepare, RuntimeError, Session, Unsupported};

pub(crate) const NAME: &str = "ort";

/// How long loading the library may take before it counts as hanging. A cold disk needs a second.
const PATIENCE: Duration = Duration::from_secs(30);

/// Which graph rewrites ONNX Runtime applies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Level {
    /// None.
    Disabled,
    /// Rewrites that keep every value bit for bit.
    #[default]
    Basic,
    /// Everything, as deployed by default.
    All,
}

impl Level {
    /// The name that users type.
    pub fn name(self) -> &'static str {
        match self {
            Level::Disabled => "disabled",
            Level::Basic => "basic",
            Level::All => "all",
        }
    }

    fn native(self) -> GraphOptimizationLevel {
        match self {
            Level::Disabled => GraphOptimizationLevel::Disable,
            Level::Basic => GraphOptimizationLevel::Level1,
            Level::All => GraphOptimizationLevel::All,
        }
    }
}

/// ONNX Runtime at one optimization level.
#[derive(Clone)]
pub struct Ort {
    library: Arc<Library>,
    level: Level,
}

struct Library {
    environment: Environment,
    path: PathBuf,
    version: String,
}

/// A process can load one library; a second request must name the same file.
static LOADED: Mutex<Option<Arc<Library>>> = Mutex::new(None);

impl Ort {
    /// Loads the shared library.
    ///
    /// # Errors
    /// [`RuntimeError::Unavailable`] if the file is missing, is no ONNX Runtime, is older than 1.17, or does not answer.
    pub fn load(path: &Path, level: Level) -> Result<Ort, RuntimeError> {
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(library) = &*loaded {
            if library.path == path {
                return Ok(Ort { library: library.clone(), level });
            }
            let what = format!("this process already uses {}", library.path.display());
            return Err(RuntimeError::Unavailable { runtime: NAME, what });
        }
        let library = Arc::new(open(path)?);
        *loaded = Some(library.clone());
        Ok(Ort { library, level })
    }

    /// The same library at another level.
    pub fn at(&self, level: Level) -> Ort {
        Ort { library: self.library.clone(), level }
    }

    /// The level.
    pub fn level(&self) -> Level {
        self.level
    }

    /// Loads a file as it is, with its external data: what a deployment would do.
    pub fn prepare_file(&self, path: &Path, options: &Prepare) -> Result<Box<dyn Session>, RuntimeError> {
        let (this, file, threads) = (self.clone(), path.to_path_buf(), options.threads);
        let commit = move || this.builder(threads)?.commit_from_file(&file).map_err(load);
        let first = commit()?;
        // External data are not counted: where they are large, the runtime maps them.
        let size = std::fs::metadata(path).map_or(usize::MAX, |found| found.len() as usize);
        let pool = pool::Pool::new(first, size, commit);
        Ok(Box::new(session::Running::new(pool, Vec::new(), tap::Taps::default())))
    }

    /// Writes the graph that this level makes of a file: which kernels it really runs.
    pub fn write_optimized(&self, path: &Path, out: &Path) -> Result<(), RuntimeError> {
        let builder = self.builder(1)?;
        let mut builder = builder.with_optimized_model_path(out).map_err(|e| load(ort::Error::from(e)))?;
        builder.commit_from_file(path).map_err(load)?;
        Ok(())
    }

    fn builder(&self, threads: usize) -> Result<SessionBuilder, RuntimeError> {
        let build = || -> ort::Result<SessionBuilder> {
            let builder = OrtSession::builder(&self.library.environment)?;
            let builder = builder.with_optimization_level(self.level.native())?;
            // Spinning threads slow each other down on a shared machine.
            let builder = builder.with_intra_op_spinning(false)?;
            Ok(builder.with_intra_threads(threads.max(1))?)
        };
        build().map_err(load)
    }
}

/// Loads in a thread of its own: a library of another version has been seen to hang.
fn open(path: &Path) -> Result<Library, RuntimeError> {
    let unavailable = |what: String| RuntimeError::Unavailable { runtime: NAME, what };
    if !path.is_file() {
        return Err(unavailable(format!("there is no file {}", path.display())));
    }
    let (send, receive) = mpsc::channel();
    let file = path.to_path_buf();
    std::thread::spawn(move || {
        let opened = ort::init_from(&file).map_err(|e| e.to_string());
        let built =
            opened.and_then(|builder| builder.with_telemetry(false).build().map_err(|e| e.to_string()));
        let version = || ort::info().to_string();
        // The receiver may have given up; there is nobody left to tell then.
        let _ = send.send(built.map(|environment| (environment, version())));
    });
    match receive.recv_timeout(PATIENCE) {
        Ok(Ok((environment, info))) => {
            environment.set_log_level(ort::logging::LogLevel::Error);
            let version = version_of(path).unwrap_or(info);
            Ok(Library { environment, path: path.to_path_buf(), version })
        }
        Ok(Err(what)) => Err(unavailable(format!("{}: {what}", path.display()))),
        Err(_) => Err(unavailable(format!("{} did not answer within {PATIENCE:?}", path.display()))),
    }
}

/// `libonnxruntime.so.1.31.1` names its version.
fn version_of(path: &Path) -> Option<String> {
    let name = path.canonicalize().ok()?.file_name()?.to_string_lossy().into_owned();
    let digits =
        name.trim_start_matches(|c: char| !c.is_ascii_digit()).trim_end_matches(".dylib").to_string();
    (digits.contains('.') && digits.chars().all(|c| c.is_ascii_digit() || c == '.')).then_some(digits)
}

fn load(error: ort::Error) -> RuntimeError {
    RuntimeError::Load { runtime: NAME, what: error.to_string() }
}

impl Executor for Ort {
    fn name(&self) -> &'static str {
        NAME
    }

    fn version(&self) -> String {
        format!("{}, level {}", self.library.version, self.level.name())
    }

    fn wants_lowered(&self) -> bool {
        false
    }

    /// ONNX Runtime says itself what it lacks when it loads the model; only our own domain is refused here.
    fn supports(&self, model: &Model) -> Result<(), Vec<Unsupported>> {
        let mut found = Vec::new();
        for id in model.graph_ids() {
            let graph = model.graph(id);
            let own = graph.ops().into_iter().filter(|&op| graph.op(op).kind.domain() == "onnxq");
            found.extend(own.map(|op| Unsupported {
                op: graph.op(op).to_string(),
                why: "an operator of lowered models; give ort the model itself".into(),
            }));
        }
        if found.is_empty() { Ok(()) } else { Err(found) }
    }

    fn prepare(&self, model: &Model, options: &Prepare) -> Result<Box<dyn Session>, RuntimeError> {
        self.supports(model).map_err(|list| RuntimeError::Unsupported {
            runtime: NAME,
            what: crate::executor::join(&list),
        })?;
        let fails = |what: String| RuntimeError::Load { runtime: NAME, what };
        let mut model = model.clone();
        let taps = tap::insert(&mut model, &options.taps).map_err(fails)?;
        let tapped: HashSet<&String> = taps.names.iter().collect();
        let main = model.main_mut();
        for wanted in &options.taps {
            let value = main.find(wanted).ok_or_else(|| RuntimeError::NoValue(wanted.clone()))?;
            let computed = main.value(value).role() == ir::Role::Computed;
            if computed && !tapped.contains(wanted) && !main.is_output(value) {
                main.add_output(value);
            }
        }
        // Inputs are shown from the feed: a graph input listed as an output needs a copy inside the runtime.
        let inputs: Vec<(String, Option<DType>)> = main
            .inputs()
            .iter()
            .map(|&id| (main.value(id).name().to_string(), main.value(id).dtype()))
            .collect();
        let shown =
            options.taps.iter().filter(|tap| inputs.iter().any(|(name, _)| name == *tap)).cloned().collect();
        let bytes = proto::to_bytes(&model).map_err(|error| fails(error.to_string()))?;
        let (this, threads, size, has_taps) =
            (self.clone(), options.threads, bytes.len(), !taps.names.is_empty());
        let commit = move || {
            let mut builder = this.builder(threads)?;
            if has_taps {
                let domain = tap::domain().map_err(load)?;
                builder = builder.with_operators(domain).map_err(|e| load(ort::Error::from(e)))?;
            }
            builder.commit_from_memory(&bytes).map_err(load)
        };
        let pool = pool::Pool::new(commit()?, size, commit);
        Ok(Box::new(session::Running::new(pool, shown, taps)))
    }
}
