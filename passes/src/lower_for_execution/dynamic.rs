//! Grids that follow from the data of each run, in float operators.
//!
//! ```text
//! q, s, z = DynamicQuantizeLinear(x)   =>   s = (max(x, 0) - min(x, 0)) / 255, 1 where that is 0
//!                                           z = Clip(Round(-min(x, 0) / s), 0, 255)
//!                                           q = Clip(Round(x / s) + z, 0, 255)
//! ```
//!
//! DynamicQuantizeMatMul is that grid on its left side, and a product of floats.

use ir::{DType, Op, OpId, Shape, Tensor, Type, ValueId};
use ops::OpName;

use crate::driver::{OrNoMatch, Patch, Ref, Rule, Scope, Skip};

/// Every rule of this file.
pub(super) const RULES: &[&dyn Rule] = &[&Linear, &Product];

/// The parts of a definition while it is written.
struct Writer {
    at: OpId,
    patch: Patch,
}

impl Writer {
    fn step(&mut self, op: Op, inputs: &[Ref], hint: &str, shape: Option<Shape>) -> Ref {
        let inputs: Vec<Option<Ref>> = inputs.iter().copied().map(Some).collect();
        self.patch.insert(self.at, op, &inputs, hint, Some(Type::tensor(DType::F32, shape)))
    }

    fn number(&mut self, hint: &str, number: f32) -> Ref {
        self.patch.constant(hint, Tensor::scalar(number))
    }

    /// Scale, zero point and codes of `x`, all as floats.
    fn grid(&mut self, x: ValueId, shape: Option<Shape>) -> [Ref; 3] {
        let scalar = || Some(Shape::fixed(&[]));
        let x = Ref::Old(x);
        let zero = self.number("zero", 0.0);
        let top = self.number("top", 255.0);
        let one = self.number("one", 1.0);
        let whole = |kind: &str| Op::new(kind).with("keepdims", 0i64);
        let greatest = self.step(whole("ReduceMax"), &[x], "greatest", scalar());
        let greatest = self.step(Op::new("Max"), &[greatest, zero], "greatest", scalar());
        let least = self.step(whole("ReduceMin"), &[x], "least", scalar());
        let least = self.step(Op::new("Min"), &[least, zero], "least", scalar());
        let width = self.step(Op::new("Sub"), &[greatest, least], "width", scalar());
        let steps = self.step(Op::new("Div"), &[width, top], "step", scalar());
        // All zeros: ONNX Runtime takes scale 1 where the formula would divide by zero.
        let none = Some(Type::tensor(DType::Bool, scalar()));
        let inputs = [Some(width), Some(zero)];
        let none = self.patch.insert(self.at, Op::new("Equal"), &inputs, "none", none);
        let scale = self.step(Op::new("Where"), &[none, one, steps], "scale", scalar());
        let down = self.step(Op::new("Sub"), &[zero, least], "down", scalar());
        let down = self.step(Op::new("Div"), &[down, scale], "down", scalar());
        let down = self.step(Op::new("Round"), &[down], "down", scalar());
        let zero_point = self.step(Op::new("Clip"), &[down, zero, top], "zero_point", scalar());
        let divided = self.step(Op::new("Div"), &[x, scale], "divided", shape.clone());
        let rounded = self.step(Op::new("Round"), &[divided], "rounded", shape.clone());
        let shifted = self.step(Op::new("Add"), &[rounded, zero_point], "shifted", shape.clone());
        let codes = self.step(Op::new("Clip"), &[shifted, zero, top], "codes", shape);
        [scale, zero_point, codes]
    }
}

/// DynamicQuantizeLinear.
struct Linear;

impl Rule for Linear {
    fn name(&self) -> &'static str {
        "dynamic"
    }

    fn roots(&self) -> &'static [OpName] {
        const ROOTS: &[OpName] = &[OpName::onnx("DynamicQuantizeLinear")];
        ROOTS
    }

    fn propose(&self, scope: Scope<'_>, at: OpId) -> Result<Patch, Skip> {
        let x = scope.input(at, 0).or_no_match()?;
        let mut new = Writer { at, patch: Patch::instead_of(&[at]) };
        let [scale, zero_point, codes] = new.grid(x, scope.shape(x));
        let to_code = || Op::new("Cast").with("to", i64::from(DType::U8.code()));
        for (slot, number, op) in
            [(1, scale, Op::new("Identity")), (2, zero_point, to_code()), (0, codes, to_code())]
        {
            if let Some(output) = scope.output(at, slot) {
                new.patch.produce(at, op, &[Some(number)], &[Some(output)]);
            }
        }
        Ok(new.patch)
    }
}

/// DynamicQuantizeMatMul of com.microsoft: `A, B, b_scale, b_zero_point?, bias?`.
struct Product;

impl Rule for Product {
    fn name(&self) -> &'static str {
        "dynamic"
    }

    fn roots(&self) -> &'static [OpName] {
        const ROOTS: &[OpName] = &[OpName::of("com.microsoft", "DynamicQuantizeMatMul")];
        ROOTS
    }

    fn propose(&self, scope: Scope<'_>, at: OpId) -> Result<Patch, Skip> {
        let (x, output) = (scope.input(at, 0).or_no_match()?, scope.output(at, 0).or_no_match()?);
        let slot = |slot: usize| scope.input(at, slot).map(Ref::Old);
        let mut new = Writer { at, patch: Patch::instead_of(&[at]) };
        let [scale, zero_point, codes] = new.grid(x, scope.shape(x));
        let centered = new.step(Op::new("Sub"), &[codes, zero_point], "centered", scope.shape(x));
        let left = new.step(Op::new("Mul"), &[centered, scale], "left", scope.shape(x));
        let shape = scope.input(at, 1).and_then(|right| scope.shape(right));
        let right = Op::new("DequantizeLinear").with("axis", -1i64);
        let ty = Some(Type::tensor(DType::F32, shape));
        let right = new.patch.insert(at, right, &[slot(1), slot(2), slot(3)], "right", ty);
        let operands = [Some(left), Some(right)];
        match slot(4) {
            None => new.patch.produce(at, Op::new("MatMul"), &operands, &[Some(output)]),
            Some(bias) => {
                let product = new.step(Op::new("MatMul"), &[left, right], "product", scope.shape(output));
                new.patch.produce(at, Op::new("Add"), &[Some(product), Some(bias)], &[Some(output)]);
            }
        }
        Ok(new.patch)
    }
}
