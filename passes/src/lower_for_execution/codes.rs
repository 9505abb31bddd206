//! Operators on codes, by their definitions: dequantize every operand, compute in float, quantize the result.
//!
//! ```text
//! y = QLinearConv(x, sx, zx, w, sw, zw, sy, zy, b)   =>   y = Quantize(Conv(Dequantize(x), Dequantize(w), b * sx * sw))
//! ```
//!
//! Where the exact operator rounds the integer sum once, the float operator rounds its partial sums too: the results
//! differ by at most one step where the sum lies within that rounding of a tie.

use ir::{Attrs, DType, Op, OpId, Shape, Tensor, Type, ValueId};
use ops::OpName;

use crate::driver::{OrNoMatch, Patch, Ref, Rule, Scope, Skip};

/// Where the operands of an operator on codes stand.
struct Form {
    name: OpName,
    /// The float operator.
    float: &'static str,
    /// Slots of each operand: codes, scale, zero point.
    operands: &'static [[usize; 3]],
    /// Slots of scale and zero point of the result.
    result: [usize; 2],
    /// Attributes that the float operator does not have.
    drops: &'static [&'static str],
}

const fn microsoft(name: &'static str, float: &'static str, operands: &'static [[usize; 3]]) -> Form {
    let result = [3 * operands.len(), 3 * operands.len() + 1];
    Form { name: OpName::of("com.microsoft", name), float, operands, result, drops: &[] }
}

/// Those that are nothing but their float operator between the grids.
const PLAIN: &[Form] = &[
    Form {
        name: OpName::onnx("QLinearMatMul"),
        float: "MatMul",
        operands: &[[0, 1, 2], [3, 4, 5]],
        result: [6, 7],
        drops: &[],
    },
    microsoft("QLinearAdd", "Add", &[[0, 1, 2], [3, 4, 5]]),
    microsoft("QLinearMul", "Mul", &[[0, 1, 2], [3, 4, 5]]),
    microsoft("QLinearSigmoid", "Sigmoid", &[[0, 1, 2]]),
    microsoft("QLinearLeakyRelu", "LeakyRelu", &[[0, 1, 2]]),
    microsoft("QLinearReduceMean", "ReduceMean", &[[0, 1, 2]]),
    Form { drops: &["opset"], ..microsoft("QLinearSoftmax", "Softmax", &[[0, 1, 2]]) },
    Form { drops: &["channels_last"], ..microsoft("QLinearAveragePool", "AveragePool", &[[0, 1, 2]]) },
    Form {
        drops: &["channels_last"],
        ..microsoft("QLinearGlobalAveragePool", "GlobalAveragePool", &[[0, 1, 2]])
    },
];

/// Every rule of this file.
pub(super) const RULES: &[&dyn Rule] =
    &[&Plain, &Convolution, &IntegerConvolution, &Gemm, &Where, &Concat, &ToFloat];

/// The parts of a definition while it is written.
struct Definition<'a> {
    scope: Scope<'a>,
    at: OpId,
    patch: Patch,
}

impl<'a> Definition<'a> {
    fn of(scope: Scope<'a>, at: OpId) -> Definition<'a> {
        Definition { scope, at, patch: Patch::instead_of(&[at]) }
    }

    fn slot(&self, at: usize) -> Option<Ref> {
        self.scope.input(self.at, at).map(Ref::Old)
    }

    fn shape(&self, at: usize) -> Option<Shape> {
        self.scope.shape(self.scope.input(self.at, at)?)
    }

    /// An operator with one float result.
    fn step(&mut self, op: Op, inputs: &[Option<Ref>], hint: &str, shape: Option<Shape>) -> Ref {
        self.patch.insert(self.at, op, inputs, hint, Some(Type::tensor(DType::F32, shape)))
    }

    /// The floats behind three slots: codes, scale, zero point. `axis` is where a list of scales runs.
    fn dequantized(&mut self, [codes, scale, zero]: [usize; 3], axis: i64) -> Result<Ref, Skip> {
        let value = self.scope.input(self.at, codes).or_no_match()?;
        let hint = format!("{}_dequantized", self.scope.value(value).name());
        let op = Op::new("DequantizeLinear").with("axis", axis);
        let inputs = [self.slot(codes), self.slot(scale), self.slot(zero)];
        let shape = self.shape(codes);
        Ok(self.step(op, &inputs, &hint, shape))
    }

    /// Puts the number on the grid of two slots and ends the definition. Without a zero point the codes are of the
    /// type of `like`.
    fn quantized(mut self, value: Ref, [scale, zero]: [usize; 2], like: usize) -> Result<Patch, Skip> {
        let output = self.scope.output(self.at, 0).or_no_match()?;
        let zero = match self.slot(zero) {
            Some(zero) => zero,
            None => {
                let like = self.scope.input(self.at, like).or_no_match()?;
                let dtype = self.scope.dtype(like).unwrap_or(DType::U8);
                let Ok(none) = Tensor::new(dtype, &[][..], vec![0; dtype.bits().div_ceil(8)]) else {
                    return Err(self.scope.because(self.at, format!("{dtype} codes")));
                };
                self.patch.constant("zero", none)
            }
        };
        let inputs = [Some(value), self.slot(scale), Some(zero)];
        self.patch.produce(self.at, Op::new("QuantizeLinear"), &inputs, &[Some(output)]);
        Ok(self.patch)
    }

    /// The attributes of the operator but for some.
    fn attrs(&self, without: &[&str]) -> Attrs {
        let mut attrs = self.scope.graph().op(self.at).attrs.clone();
        without.iter().for_each(|name| drop(attrs.remove(name)));
        attrs
    }

    fn int(&self, name: &str) -> Option<i64> {
        self.scope.graph().op(self.at).attrs.int(name)
    }

    fn because(&self, why: impl Into<String>) -> Skip {
        self.scope.because(self.at, why)
    }

    /// The axis of a list of scales of an operand of a matrix product: rows of the left side, columns of the right.
    fn side(&self, codes: usize, scale: usize, left: bool) -> Result<i64, Skip> {
        let many = self.shape(scale).is_some_and(|shape| shape.elements() != Some(1));
        match (left, many) {
            (true, true) => {
                let rank = self.shape(codes).map(|shape| shape.rank() as i64);
                rank.map(|rank| (rank - 2).max(0))
                    .ok_or_else(|| self.because("the rank of its left side is not known"))
            }
            (true, false) => Ok(0),
            (false, _) => Ok(-1),
        }
    }

    /// `value` with its last axis moved behind the first, or back.
    fn turned(&mut self, value: Ref, rank: usize, back: bool) -> Ref {
        let last = rank as i64 - 1;
        let perm: Vec<i64> = match back {
            false => [0, last].into_iter().chain(1..last).collect(),
            true => std::iter::once(0).chain(2..=last).chain([1]).collect(),
        };
        self.step(Op::new("Transpose").with("perm", perm), &[Some(value)], "turned", None)
    }
}

/// See [`PLAIN`].
struct Plain;

impl Rule for Plain {
    fn name(&self) -> &'static str {
        "codes"
    }

    fn roots(&self) -> &'static [OpName] {
        const ROOTS: [OpName; PLAIN.len()] = {
            let mut names = [OpName::onnx(""); PLAIN.len()];
            let mut at = 0;
            while at < names.len() {
                names[at] = PLAIN[at].name;
                at += 1;
            }
            names
        };
        &ROOTS
    }

    fn propose(&self, scope: Scope<'_>, at: OpId) -> Result<Patch, Skip> {
        let key = scope.graph().op(at).kind.key();
        let form = PLAIN.iter().find(|form| (form.name.domain, form.name.name) == key).or_no_match()?;
        let mut new = Definition::of(scope, at);
        let mut operands = Vec::new();
        for (number, &[codes, scale, zero]) in form.operands.iter().enumerate() {
            let axis = if form.float == "MatMul" { new.side(codes, scale, number == 0)? } else { 1 };
            operands.push(Some(new.dequantized([codes, scale, zero], axis)?));
        }
        let last = new.int("channels_last") == Some(1);
        let rank = new.shape(0).map(|shape| shape.rank());
        let rank =
            if last { rank.ok_or_else(|| new.because("the rank of its input is not known"))? } else { 0 };
        if rank > 2 {
            let first = operands[0].or_no_match()?;
            operands[0] = Some(new.turned(first, rank, false));
        }
        if let Some(version) =
            new.int("opset").filter(|&version| version < 13 && form.drops.contains(&"opset"))
        {
            // Rows of several axes, as Softmax had them.
            let axes = new.shape(0).map(|shape| shape.rank() as i64);
            let axis = new.int("axis").unwrap_or(-1);
            if axes.is_none_or(|rank| axis != -1 && axis != rank - 1) {
                return Err(new.because(format!("rows over several axes, as in version {version}")));
            }
        }
        let op = Op::new(form.float).with_attrs(new.attrs(form.drops));
        let shape = scope.output(at, 0).filter(|_| rank <= 2).and_then(|output| scope.shape(output));
        let mut result = new.step(op, &operands, "number", shape);
        if rank > 2 {
            result = new.turned(result, rank, true);
        }
        new.quantized(result, form.result, 0)
    }
}

/// QLinearConv: its bias counts steps of `x_scale * w_scale`.
struct Convolution;

impl Rule for Convolution {
    fn name(&self) -> &'static str {
        "codes"
    }

    fn roots(&self) -> &'static [OpName] {
        const ROOTS: &[OpName] = &[OpName::onnx("QLinearConv")];
        ROOTS
    }

    fn propose(&self, scope: Scope<'_>, at: OpId) -> Result<Patch, Skip> {
        let mut new = Definition::of(scope, at);
        let mut operands = vec![Some(new.dequantized([0, 1, 2], 1)?), Some(new.dequantized([3, 4, 5], 0)?)];
        if let Some(bias) = new.slot(8) {
            operands.push(Some(scaled_bias(&mut new, bias, [1, 4], 1.0)));
        }
        let op = Op::new("Conv").with_attrs(new.attrs(&[]));
        let shape = scope.output(at, 0).and_then(|output| scope.shape(output));
        let result = new.step(op, &operands, "number", shape);
        new.quantized(result, [6, 7], 0)
    }
}

/// ConvInteger: the sums themselves. Whole numbers in float, so they are exact up to 2^24.
struct IntegerConvolution;

impl Rule for IntegerConvolution {
    fn name(&self) -> &'static str {
        "codes"
    }

    fn roots(&self) -> &'static [OpName] {
        const ROOTS: &[OpName] = &[OpName::onnx("ConvInteger")];
        ROOTS
    }

    fn propose(&self, scope: Scope<'_>, at: OpId) -> Result<Patch, Skip> {
        let mut new = Definition::of(scope, at);
        let mut operands = Vec::new();
        for (codes, zero) in [(0, 2), (1, 3)] {
            let value = scope.input(at, codes).or_no_match()?;
            // One step of 1 for each zero point.
            let count = match scope.input(at, zero) {
                None => Some(1),
                Some(zero) => scope.shape(zero).and_then(|shape| shape.elements()),
            };
            let count = count.ok_or_else(|| new.because("the number of its zero points is not known"))?;
            let ones = match count {
                1 => Ok(Tensor::scalar(1.0f32)),
                count => Tensor::from_slice(&[count], &vec![1.0f32; count]),
            };
            let ones = ones.map_err(|error| new.because(error.to_string()))?;
            let ones = new.patch.constant("one", ones);
            let hint = format!("{}_centered", scope.value(value).name());
            let inputs = [new.slot(codes), Some(ones), new.slot(zero)];
            let shape = new.shape(codes);
            operands.push(Some(new.step(
                Op::new("DequantizeLinear").with("axis", 0i64),
                &inputs,
                &hint,
                shape,
            )));
        }
        let output = scope.output(at, 0).or_no_match()?;
        let op = Op::new("Conv").with_attrs(new.attrs(&[]));
        let sums = new.step(op, &operands, "sums", scope.shape(output));
        let to_int = Op::new("Cast").with("to", i64::from(DType::I32.code()));
        new.patch.produce(at, to_int, &[Some(sums)], &[Some(output)]);
        Ok(new.patch)
    }
}

/// `bias * scale * scale * alpha`.
fn scaled_bias(new: &mut Definition<'_>, bias: Ref, scales: [usize; 2], alpha: f32) -> Ref {
    let [a, b] = scales.map(|slot| new.slot(slot));
    let to_float = Op::new("Cast").with("to", i64::from(DType::F32.code()));
    let bias = new.step(to_float, &[Some(bias)], "bias_codes", None);
    let mut step = new.step(Op::new("Mul"), &[a, b], "bias_scale", None);
    if alpha != 1.0 {
        let alpha = new.patch.constant("alpha", Tensor::scalar(alpha));
        step = new.step(Op::new("Mul"), &[Some(step), Some(alpha)], "bias_step", None);
    }
    new.step(Op::new("Mul"), &[Some(bias), Some(step)], "bias", None)
}

/// QGemm: `alpha * A * B + C`, C counting steps of `alpha * a_scale * b_scale`; without a result's scale it stays float.
struct Gemm;

impl Rule for Gemm {
    fn name(&self) -> &'static str {
        "codes"
    }

    fn roots(&self) -> &'static [OpName] {
        const ROOTS: &[OpName] = &[OpName::of("com.microsoft", "QGemm")];
        ROOTS
    }

    fn propose(&self, scope: Scope<'_>, at: OpId) -> Result<Patch, Skip> {
        let mut new = Definition::of(scope, at);
        // Scales of the right side count the columns of the product.
        let axis = i64::from(new.int("transB").unwrap_or(0) == 0);
        let mut operands =
            vec![Some(new.dequantized([0, 1, 2], 0)?), Some(new.dequantized([3, 4, 5], axis)?)];
        let alpha = scope.graph().op(at).attrs.float("alpha").unwrap_or(1.0);
        if let Some(bias) = new.slot(6) {
            operands.push(Some(scaled_bias(&mut new, bias, [1, 4], alpha)));
        }
        let op = Op::new("Gemm").with_attrs(new.attrs(&[]));
        let output = scope.output(at, 0).or_no_match()?;
        if new.slot(7).is_none() {
            new.patch.produce(at, op, &operands, &[Some(output)]);
            return Ok(new.patch);
        }
        let result = new.step(op, &operands, "number", scope.shape(output));
        new.quantized(result, [7, 8], 0)
    }
}

/// QLinearWhere.
struct Where;

impl Rule for Where {
    fn name(&self) -> &'static str {
        "codes"
    }

    fn roots(&self) -> &'static [OpName] {
        const ROOTS: &[OpName] = &[OpName::of("com.microsoft", "QLinearWhere")];
        ROOTS
    }

    fn propose(&self, scope: Scope<'_>, at: OpId) -> Result<Patch, Skip> {
        let mut new = Definition::of(scope, at);
        let (x, y) = (new.dequantized([1, 2, 3], 1)?, new.dequantized([4, 5, 6], 1)?);
        let inputs = [new.slot(0), Some(x), Some(y)];
        let shape = scope.output(at, 0).and_then(|output| scope.shape(output));
        let result = new.step(Op::new("Where"), &inputs, "number", shape);
        new.quantized(result, [7, 8], 1)
    }
}

/// QLinearConcat: the grid of the result first, then three slots an operand.
struct Concat;

impl Rule for Concat {
    fn name(&self) -> &'static str {
        "codes"
    }

    fn roots(&self) -> &'static [OpName] {
        const ROOTS: &[OpName] = &[OpName::of("com.microsoft", "QLinearConcat")];
        ROOTS
    }

    fn propose(&self, scope: Scope<'_>, at: OpId) -> Result<Patch, Skip> {
        let mut new = Definition::of(scope, at);
        let mut operands = Vec::new();
        for codes in (2..scope.op_inputs(at).len()).step_by(3) {
            operands.push(Some(new.dequantized([codes, codes + 1, codes + 2], 1)?));
        }
        let op = Op::new("Concat").with_attrs(new.attrs(&[]));
        let shape = scope.output(at, 0).and_then(|output| scope.shape(output));
        let result = new.step(op, &operands, "number", shape);
        new.quantized(result, [0, 1], 2)
    }
}

/// MatMulIntegerToFloat: the product stays float.
struct ToFloat;

impl Rule for ToFloat {
    fn name(&self) -> &'static str {
        "codes"
    }

    fn roots(&self) -> &'static [OpName] {
        const ROOTS: &[OpName] = &[OpName::of("com.microsoft", "MatMulIntegerToFloat")];
        ROOTS
    }

    fn propose(&self, scope: Scope<'_>, at: OpId) -> Result<Patch, Skip> {
        let mut new = Definition::of(scope, at);
        let (left, right) = (new.side(0, 2, true)?, new.side(1, 3, false)?);
        let operands = [Some(new.dequantized([0, 2, 4], left)?), Some(new.dequantized([1, 3, 5], right)?)];
        let output: ValueId = scope.output(at, 0).or_no_match()?;
        match new.slot(6) {
            None => new.patch.produce(at, Op::new("MatMul"), &operands, &[Some(output)]),
            Some(bias) => {
                let product = new.step(Op::new("MatMul"), &operands, "product", scope.shape(output));
                new.patch.produce(at, Op::new("Add"), &[Some(product), Some(bias)], &[Some(output)]);
            }
        }
        Ok(new.patch)
    }
}
