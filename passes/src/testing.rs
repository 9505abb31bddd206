//! What unit tests of this crate share.

use ir::Model;

/// A graph in ONNX's text syntax as a model of opset 17 whose shapes are inferred.
pub(crate) fn parse(body: &str) -> Model {
    let text = format!("<ir_version: 10, opset_import: [\"\": 17]>\n{body}");
    let mut model = ir::text::parse(&text).unwrap_or_else(|error| panic!("{error} in\n{text}"));
    let steps = [crate::Step::Once(crate::Spec::new("infer_shapes"))];
    crate::run(&mut model, &steps, crate::Options::default()).unwrap();
    model
}
