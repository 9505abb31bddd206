//! Checks a model against the rules of a target, whoever wrote it.
//!
//! Each target has a table of rules with an id, a severity and a source; a rule looks at the whole model and reports every
//! place that breaks it, with what was found and how to mend it. What the file alone cannot tell (which version of the
//! runtime reads it, on which processor it runs) is an option; where it is not given, the rule reports as information what
//! to verify.
//!
//! | file          | rules                                                            |
//! |---------------|------------------------------------------------------------------|
//! | `view.rs`     | the model as rules see it: every Quantize- and DequantizeLinear  |
//! | `shared.rs`   | questions that several targets ask                               |
//! | `tensorrt.rs` | TRT01 to TRT23; `tensorrt_place.rs`: those about placement       |
//! | `openvino.rs` | OV01 to OV09                                                     |
//! | `qnn.rs`      | QNN01 to QNN11                                                   |
//! | `ort.rs`      | ORT01 to ORT15; `ort_fuse.rs`: those about fused kernels         |
//! | `tract.rs`    | TR01 to TR06                                                     |

mod openvino;
mod ort;
mod ort_fuse;
mod qnn;
mod shared;
mod tensorrt;
mod tensorrt_place;
mod tract;
mod view;

use std::fmt;
use std::str::FromStr;

use ir::{Model, ValueId};
use serde::Serialize;

use crate::target::Target;
use view::{Node, View};

/// How grave a broken rule is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The target cannot load or run the model.
    Error,
    /// It runs and computes something else, or falls back to another processor without a word.
    Wrong,
    /// It runs slower than it could.
    Performance,
    /// The result may be less accurate than it could be.
    Accuracy,
    /// Cannot be decided from the file: something to verify.
    Information,
}

impl Severity {
    /// Every severity, gravest first.
    pub const ALL: &'static [Severity] =
        &[Severity::Error, Severity::Wrong, Severity::Performance, Severity::Accuracy, Severity::Information];

    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Severity::Error => "error",
            Severity::Wrong => "wrong",
            Severity::Performance => "performance",
            Severity::Accuracy => "accuracy",
            Severity::Information => "information",
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// One place that breaks a rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The rule's id.
    pub rule: &'static str,
    /// How grave it is here; a rule may report as information what it cannot decide.
    pub severity: Severity,
    /// Name of the graph.
    pub graph: String,
    /// The operator: `"name" (Kind)`, or its kind and first output where it has no name; empty for the whole model.
    pub node: String,
    /// Name of the value, where one is meant.
    pub value: Option<String>,
    /// What was found.
    pub found: String,
    /// How to mend it.
    pub mend: &'static str,
}

/// A rule of a target.
#[derive(Clone, Copy)]
pub struct Rule {
    /// The id, for example `TRT05`.
    pub id: &'static str,
    /// How grave it is.
    pub severity: Severity,
    /// The rule.
    pub about: &'static str,
    /// How to mend what breaks it.
    pub mend: &'static str,
    /// Where the rule comes from.
    pub source: &'static str,
    look: Look,
}

/// What a rule does with the model.
type Look = fn(&View<'_>, &mut Found<'_>);

/// One line of a target's table.
const fn rule(
    id: &'static str,
    severity: Severity,
    about: &'static str,
    mend: &'static str,
    source: &'static str,
    look: Look,
) -> Rule {
    Rule { id, severity, about, mend, source, look }
}

/// A version of a runtime, compared part by part: `1.31.1`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(Vec<u32>);

impl Version {
    /// A version of these parts.
    pub fn new(parts: &[u32]) -> Version {
        Version(parts.to_vec())
    }
}

impl FromStr for Version {
    type Err = String;

    fn from_str(text: &str) -> Result<Version, String> {
        let parts: Result<Vec<u32>, _> = text.split('.').map(str::parse).collect();
        parts.map(Version).map_err(|_| format!("{text:?} is not a version such as 1.31.1"))
    }
}

/// The processor that the model is going to run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cpu {
    /// x86-64 without VNNI: pairs of uint8 x int8 products saturate.
    Avx2,
    /// x86-64 with VNNI or AMX, or Arm with dot products.
    Vnni,
}

/// What the file does not tell.
#[derive(Clone, Debug, Default)]
pub struct CheckOptions {
    /// The version of the runtime that is going to read the model.
    pub runtime_version: Option<Version>,
    /// The processor.
    pub cpu: Option<Cpu>,
}

/// Every place that breaks a rule of the target, by rule, then in the order of the model.
pub fn check(model: &Model, target: &dyn Target, options: &CheckOptions) -> Vec<Finding> {
    let view = View::new(model, options);
    let mut findings = Vec::new();
    for rule in rules(target) {
        (rule.look)(&view, &mut Found { rule, list: &mut findings, model });
    }
    findings
}

/// The rules of a target, sorted by id.
pub fn rules(target: &dyn Target) -> &'static [Rule] {
    match target.name() {
        "tensorrt" => tensorrt::RULES,
        "openvino" => openvino::RULES,
        "qnn" => qnn::RULES,
        "ort-cpu" => ort::RULES,
        "tract" => tract::RULES,
        _ => &[],
    }
}

/// Takes what a rule finds.
struct Found<'a> {
    rule: &'static Rule,
    list: &'a mut Vec<Finding>,
    model: &'a Model,
}

impl Found<'_> {
    /// A place that breaks the rule.
    fn at(&mut self, node: Node<'_>, value: Option<ValueId>, found: impl Into<String>) {
        self.graded(self.rule.severity, node, value, found);
    }

    /// A place that may break the rule.
    fn verify(&mut self, node: Node<'_>, found: impl Into<String>) {
        self.graded(Severity::Information, node, None, found);
    }

    /// A place with a severity of its own.
    fn graded(
        &mut self,
        severity: Severity,
        node: Node<'_>,
        value: Option<ValueId>,
        found: impl Into<String>,
    ) {
        let graph = node.scope.graph();
        self.list.push(Finding {
            rule: self.rule.id,
            severity,
            graph: graph.name.clone(),
            node: node.cite(),
            value: value.map(|value| graph.value(value).name().to_string()),
            found: found.into(),
            mend: self.rule.mend,
        });
    }

    /// The model as a whole.
    fn model(&mut self, severity: Severity, found: impl Into<String>) {
        self.list.push(Finding {
            rule: self.rule.id,
            severity,
            graph: self.model.main().name.clone(),
            node: String::new(),
            value: None,
            found: found.into(),
            mend: self.rule.mend,
        });
    }

    /// A value that no operator stands for, such as an input.
    fn value(&mut self, name: &str, found: impl Into<String>) {
        self.model(self.rule.severity, found);
        if let Some(finding) = self.list.last_mut() {
            finding.value = Some(name.to_string());
        }
    }
}
