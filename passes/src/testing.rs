//! What unit tests of this crate share.

use std::collections::BTreeMap;

use ir::Model;
use quant::Policy;
use quant::range::Method;

use crate::quantize::fit::FitOptions;

/// A graph in ONNX's text syntax as a model of opset 17 whose shapes are inferred.
pub(crate) fn parse(body: &str) -> Model {
    let text = format!("<ir_version: 10, opset_import: [\"\": 17]>\n{body}");
    let mut model = ir::text::parse(&text).unwrap_or_else(|error| panic!("{error} in\n{text}"));
    let steps = [crate::Step::Once(crate::Spec::new("infer_shapes"))];
    crate::run(&mut model, &steps, crate::Options::default()).unwrap();
    model
}

/// Ranges are what was seen, and nothing else is fitted.
pub(crate) fn min_max() -> FitOptions {
    FitOptions {
        method: Method::MinMax,
        methods: BTreeMap::new(),
        ranges: BTreeMap::new(),
        least_width: None,
        policy: Policy::default(),
        behind: false,
        weights: false,
        saturates: false,
    }
}
