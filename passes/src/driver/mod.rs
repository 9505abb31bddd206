//! Runs passes: resolves names, checks facts, numbers rewrites, verifies, and says how to reproduce a failure.
//!
//! The driver names no operator and reads neither files nor clocks; the program hands in a clock if it wants times.

mod cx;
mod inline;
mod pass;
mod patch;
mod rule;
mod scope;
mod spec;

use std::time::Duration;

use ir::Model;
use ir::text::{Style, print, print_with};
use serde::Serialize;

pub use cx::{Cx, Declined, Evaluator, Rewrite};
pub use inline::{fresh_name, inline_body};
pub use pass::{Changes, Fact, Pass, PassError, op_place, schedule, value_place};
pub use patch::{Patch, Ref};
pub use rule::{OrNoMatch, Rule, Skip, apply_rules, matches};
pub use scope::Scope;
pub use spec::Spec;

/// One entry of a plan of passes.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Run the pass.
    Once(Spec),
    /// Run the passes in turn until none of them changes anything, at most `rounds` times.
    Repeat {
        /// Most rounds.
        rounds: usize,
        /// The passes.
        passes: Vec<Spec>,
    },
}

/// How to run passes.
#[derive(Default)]
pub struct Options<'a> {
    /// Stop after this many rewrites.
    pub fuel: Option<u64>,
    /// Check the model and the facts that a pass gives after each pass, and keep the model before it.
    pub verify_each: bool,
    /// Record what each pass changed as a difference of texts.
    pub print_changed: bool,
    /// Leave [`Report::rewrites`] empty: nobody asks for the list, which takes some hundred bytes a rewrite.
    pub count_only: bool,
    /// Keep the reasons of rewrites that were declined.
    pub explain: bool,
    /// Time since some fixed moment, to time passes with.
    pub clock: Option<&'a dyn Fn() -> Duration>,
    /// Computes operators that the project itself cannot.
    pub evaluator: Option<&'a dyn Evaluator>,
    /// Called when weights have been read and rewritten: what is known of the input's file only the caller can give back.
    pub relieve: Option<&'a dyn Fn()>,
    /// Called after each pass.
    pub watch: Option<&'a mut dyn FnMut(&PassRun)>,
}

/// One pass that ran.
#[derive(Clone, Debug, Serialize)]
pub struct PassRun {
    /// The pass with its options.
    pub pass: String,
    /// What it did.
    #[serde(skip)]
    pub changes: Changes,
    /// Applied rewrites.
    pub rewrites: u64,
    /// How long it took, where a clock was given.
    pub seconds: Option<f64>,
    /// What changed, as a difference of texts, where it was asked for.
    pub diff: Option<String>,
}

/// What a run of passes did.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Operators before, in all graphs.
    pub ops_before: usize,
    /// Operators after, in all graphs.
    pub ops_after: usize,
    /// Every pass that ran, in order.
    pub runs: Vec<PassRun>,
    /// Every applied rewrite, in order.
    pub rewrites: Vec<Rewrite>,
    /// What was declined and why, where it was asked for.
    pub declined: Vec<Declined>,
    /// What is wrong with the model itself: declared types that cannot be, operators that cannot be right.
    pub warnings: Vec<Declined>,
}

/// A pass failed: enough to say what, and to see it again.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct Failure {
    /// What went wrong.
    #[source]
    pub error: PassError,
    /// The passes that ran, the failed one last.
    pub passes: Vec<String>,
    /// The fuel it ran under.
    pub fuel: Option<u64>,
    /// The model before the failed pass as text, where `verify_each` kept it.
    pub before: Option<String>,
}

impl Failure {
    /// The command that reproduces the failure, where a pass ran at all. `model` is the name of the file.
    pub fn reproducer(&self, model: &str) -> Option<String> {
        if self.passes.is_empty() {
            return None;
        }
        let fuel = self.fuel.map_or_else(String::new, |fuel| format!(" --fuel {fuel}"));
        let passes = self.passes.join(",");
        Some(format!("onnxq opt {model} -o out.onnx --verify-each{fuel} --passes '{passes}'"))
    }
}

/// Makes a pass of a name and options.
pub type Find<'f> = &'f dyn Fn(&Spec) -> Result<Box<dyn Pass>, PassError>;

/// Number of operators in all graphs of a model.
pub fn op_count(model: &Model) -> usize {
    model.graph_ids().into_iter().map(|id| model.graph(id).op_count()).sum()
}

/// Runs the steps on the model. `find` makes a pass of a name and options.
pub fn run(model: &mut Model, steps: &[Step], find: Find, options: Options) -> Result<Report, Box<Failure>> {
    let cx = Cx::new()
        .with_fuel(options.fuel)
        .with_count_only(options.count_only)
        .with_explain(options.explain)
        .with_evaluator(options.evaluator)
        .with_relief(options.relieve);
    let report = Report { ops_before: op_count(model), ..Report::default() };
    let mut driver = Driver { cx, options, report, ran: Vec::new() };
    let outcome = driver.steps(model, steps, find);
    let Driver { cx, options, mut report, ran } = driver;
    if let Err((error, before)) = outcome {
        return Err(Box::new(Failure { error, passes: ran, fuel: options.fuel, before }));
    }
    report.ops_after = op_count(model);
    (report.rewrites, report.declined, report.warnings) = cx.into_records();
    Ok(report)
}

type Failed = (PassError, Option<String>);

struct Driver<'a> {
    cx: Cx<'a>,
    options: Options<'a>,
    report: Report,
    ran: Vec<String>,
}

impl Driver<'_> {
    fn steps(&mut self, model: &mut Model, steps: &[Step], find: Find) -> Result<(), Failed> {
        // A wrong name or option is found before anything runs.
        let find =
            |spec: &Spec| find(spec).map(|pass| (pass, spec.to_string())).map_err(|error| (error, None));
        let mut plan = Vec::new();
        for step in steps {
            match step {
                Step::Once(spec) => plan.push((1, vec![find(spec)?])),
                Step::Repeat { rounds, passes } => {
                    plan.push((*rounds, passes.iter().map(find).collect::<Result<_, _>>()?));
                }
            }
        }
        if self.options.verify_each {
            verify(model, "before the first pass").map_err(|error| (error, None))?;
        }
        for (rounds, passes) in plan {
            self.repeat(model, rounds, &passes)?;
        }
        Ok(())
    }

    fn repeat(
        &mut self,
        model: &mut Model,
        rounds: usize,
        passes: &[(Box<dyn Pass>, String)],
    ) -> Result<(), Failed> {
        // A pass need not run again as long as nothing changed since it last changed nothing itself.
        let mut quiet = 0;
        for _ in 0..rounds {
            for (pass, text) in passes {
                if quiet == passes.len() {
                    return Ok(());
                }
                let changes = self.one(model, pass.as_ref(), text)?;
                quiet = if changes.is_empty() { quiet + 1 } else { 0 };
            }
        }
        Ok(())
    }

    fn one(&mut self, model: &mut Model, pass: &dyn Pass, text: &str) -> Result<Changes, Failed> {
        self.ran.push(text.to_string());
        let name = pass.name();
        for fact in pass.needs() {
            let unmet = |why| (PassError::Needs { pass: name, fact: fact.name, why }, None);
            (fact.check)(model).map_err(unmet)?;
        }
        let before = self.options.verify_each.then(|| model.clone());
        let old_text = self.options.print_changed.then(|| print_with(model, &Style::brief()));
        let start = self.options.clock.map(|clock| clock());
        self.cx.begin(name);
        let outcome = pass.run(model, &mut self.cx);
        let seconds =
            self.options.clock.zip(start).map(|(clock, start)| clock().saturating_sub(start).as_secs_f64());
        let dump = |error| (error, before.as_ref().map(print));
        let changes = outcome.map_err(dump)?;
        if self.options.verify_each {
            verify(model, &format!("after {name}")).map_err(dump)?;
            // Out of fuel, a pass stops halfway.
            let gives = if self.cx.out_of_fuel() { &[] } else { pass.gives() };
            for fact in gives {
                let broken = |why| dump(PassError::Gives { pass: name, fact: fact.name, why });
                (fact.check)(model).map_err(broken)?;
            }
        }
        let diff =
            old_text.map(|old| ir::diff(&old, &print_with(model, &Style::brief()))).filter(|d| !d.is_empty());
        let run = PassRun {
            pass: text.to_string(),
            rewrites: changes.rewrites(),
            changes: changes.clone(),
            seconds,
            diff,
        };
        if let Some(watch) = &mut self.options.watch {
            watch(&run);
        }
        self.report.runs.push(run);
        Ok(changes)
    }
}

fn verify(model: &Model, when: &str) -> Result<(), PassError> {
    ir::verify(model).map_err(|found| PassError::Invalid { when: when.to_string(), why: found.to_string() })
}
