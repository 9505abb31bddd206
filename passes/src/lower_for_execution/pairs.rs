//! Quantize- and DequantizeLinear: constants are folded, pairs become one FakeQuant, what is left is spelled out.

use ir::{DType, GraphId, Model, Op, OpId, OpKind, Place, Tensor, Type, ValueId};
use quant::quantize::{Layout, dequantize};
use quant::{CodeType, Params};

use crate::driver::{Changes, Cx, Scope, op_place};
use crate::numbers;

/// Lowers every Quantize- and DequantizeLinear of every graph.
pub(super) fn lower(model: &mut Model, cx: &mut Cx, changes: &mut Changes) {
    for graph in model.graph_ids() {
        // Readers first, so that a pair is seen whole before its first half is looked at alone.
        for op in model.graph(graph).ops().into_iter().rev() {
            // The first half of a pair goes with the second.
            if !model.graph(graph).is_live(op) {
                continue;
            }
            let kind = model.graph(graph).op(op).kind.clone();
            let rule = match () {
                _ if is_dequantize(&kind) => "dequantize",
                _ if is_quantize(&kind) => "quantize",
                _ => continue,
            };
            let at = op_place(model, graph, op);
            if !cx.spend(rule, at.clone()) {
                continue;
            }
            let zero = model.graph(graph).input(op, 2);
            let lowered = if rule == "dequantize" {
                lower_dequantize(model, graph, op)
            } else {
                lower_quantize(model, graph, op)
            };
            match lowered {
                Ok(()) => {
                    changes.count(rule);
                    remove_narrow(model, graph, zero);
                }
                Err(why) => cx.decline(rule, why, at),
            }
        }
    }
    model.settle();
}

/// Removes a zero point that nothing reads any more and whose type float runtimes do not even load.
fn remove_narrow(model: &mut Model, graph: GraphId, zero: Option<ValueId>) {
    let graph = model.graph_mut(graph);
    if let Some(zero) = zero
        && graph.is_live_value(zero)
        && graph.constant(zero).is_some_and(|tensor| tensor.dtype().bits() < 8)
    {
        graph.remove_value(zero);
    }
}

fn is_quantize(kind: &OpKind) -> bool {
    matches!(kind.key(), ("" | "com.microsoft", "QuantizeLinear"))
}

fn is_dequantize(kind: &OpKind) -> bool {
    matches!(kind.key(), ("" | "com.microsoft", "DequantizeLinear"))
}

/// Constant parameters of a Quantize- or DequantizeLinear.
struct Grid {
    code: CodeType,
    params: Vec<Params>,
    /// Sizes of the scale, for messages and broadcasting.
    axis: i64,
    block: i64,
    float: DType,
}

impl Grid {
    fn read(model: &Model, graph: GraphId, op: OpId, code: DType) -> Result<Grid, String> {
        let scope = Scope { model, id: graph };
        let scale = scope.constant_input(op, 1).ok_or("its scale is computed")?;
        let floats = numbers::floats(scale).ok_or("its scale is not a float constant")?;
        let code = CodeType::ALL
            .iter()
            .copied()
            .find(|c| c.name() == code.name())
            .ok_or_else(|| format!("{code} codes"))?;
        let zero_points = match model.graph(graph).input(op, 2) {
            None => vec![0; floats.len()],
            Some(_) => {
                let tensor = scope.constant_input(op, 2).ok_or("its zero point is computed")?;
                match code.is_float() {
                    // Float codes have no other zero point than zero.
                    true => vec![0; floats.len()],
                    false => quant::pack::from_raw(tensor.bytes(), code, tensor.elements())
                        .map_err(|e| e.to_string())?,
                }
            }
        };
        if zero_points.len() != floats.len() {
            return Err(format!("{} scales and {} zero points", floats.len(), zero_points.len()));
        }
        let params =
            floats.iter().zip(zero_points).map(|(&scale, zero_point)| Params::new(scale as f32, zero_point));
        let attrs = &model.graph(graph).op(op).attrs;
        Ok(Grid {
            code,
            params: params.collect::<Result<_, _>>().map_err(|e| e.to_string())?,
            axis: attrs.int("axis").unwrap_or(1),
            block: attrs.int("block_size").unwrap_or(0),
            float: scale.dtype(),
        })
    }

    /// The operator that rounds to this grid and back.
    fn fake(&self, data: &str) -> Op {
        let floats = |f: fn(&Params) -> f32| self.params.iter().map(f).collect::<Vec<f32>>();
        Op::of(OpKind::new("onnxq", "FakeQuant"))
            .named(&format!("{data}_fake_quant"))
            .with("code", self.code.name())
            .with("scales", floats(|p| p.scale()))
            .with("zero_points", floats(|p| p.zero_point() as f32))
            .with("axis", self.axis)
            .with("block_size", self.block)
    }

    fn layout(&self, dims: &[usize]) -> Result<Layout, String> {
        if self.params.len() == 1 {
            return Ok(Layout::per_tensor(dims.iter().product()));
        }
        let axis = if self.axis < 0 { self.axis + dims.len() as i64 } else { self.axis };
        let axis = usize::try_from(axis).map_err(|_| "its axis is out of range")?;
        match usize::try_from(self.block) {
            Ok(0) => Layout::per_axis(dims, axis),
            Ok(block) => Layout::blocked(dims, axis, block),
            Err(_) => return Err("its block size is negative".into()),
        }
        .map_err(|e| e.to_string())
    }
}

fn lower_dequantize(model: &mut Model, graph: GraphId, op: OpId) -> Result<(), String> {
    let g = model.graph(graph);
    let (Some(codes), Some(output)) = (g.input(op, 0), g.output(op, 0)) else {
        return Err("it is incomplete".into());
    };
    if let Some(tensor) = (Scope { model, id: graph }).constant(codes) {
        let folded = fold(model, graph, op, tensor)?;
        let g = model.graph_mut(graph);
        g.make_constant(output, folded);
        g.value_mut(output).ty = None;
        g.remove_op(op);
        g.remove_value(codes);
        return Ok(());
    }
    let writer =
        g.producer(codes).filter(|(writer, _)| is_quantize(&g.op(*writer).kind)).map(|(writer, _)| writer);
    match writer {
        Some(writer) => fake(model, graph, op, writer, output),
        None => spell_dequantize(model, graph, op, codes, output),
    }
}

/// The floats that constant codes stand for.
fn fold(model: &Model, graph: GraphId, op: OpId, codes: &Tensor) -> Result<Tensor, String> {
    let grid = Grid::read(model, graph, op, codes.dtype())?;
    let layout = grid.layout(codes.dims())?;
    let mut floats = vec![0f32; codes.elements()];
    if let Some(format) = quant::minifloat::MiniFloat::of(grid.code) {
        let raw =
            quant::pack::from_raw(codes.bytes(), grid.code, codes.elements()).map_err(|e| e.to_string())?;
        for (at, (float, raw)) in floats.iter_mut().zip(raw).enumerate() {
            *float = format.decode(raw as u8) * grid.params[layout.param_of(at)].scale();
        }
    } else {
        let raw =
            quant::pack::from_raw(codes.bytes(), grid.code, codes.elements()).map_err(|e| e.to_string())?;
        dequantize(&raw, &layout, &grid.params, &mut floats).map_err(|e| e.to_string())?;
    }
    let floats: Vec<f64> = floats.into_iter().map(f64::from).collect();
    numbers::from_floats(grid.float, codes.dims(), &floats).ok_or_else(|| format!("{} values", grid.float))
}

/// A rounding pair becomes one FakeQuant. Both halves must have the same parameters: importers have seen others.
fn fake(model: &mut Model, graph: GraphId, op: OpId, writer: OpId, output: ValueId) -> Result<(), String> {
    let g = model.graph(graph);
    let (Some(codes), Some(data)) = (g.input(op, 0), g.input(writer, 0)) else {
        return Err("it is incomplete".into());
    };
    let code = code_of(model, graph, writer, codes);
    let grids = (Grid::read(model, graph, writer, code), Grid::read(model, graph, op, code));
    let (Ok(written), Ok(read)) = grids else {
        return spell_dequantize(model, graph, op, codes, output);
    };
    if written.params != read.params || (written.params.len() > 1 && written.axis != read.axis) {
        return spell_dequantize(model, graph, op, codes, output);
    }
    let fake = read.fake(g.value(data).name());
    let ty = g.value(data).ty.clone();
    let g = model.graph_mut(graph);
    g.value_mut(output).ty = ty;
    replace(g, op, output, fake, &[data]);
    if !g.is_used(codes) {
        g.remove_op(writer);
    }
    model.raise_opset("onnxq", 1);
    Ok(())
}

/// Element type of the codes that a QuantizeLinear writes: its zero point's, its `output_dtype`, or uint8.
fn code_of(model: &Model, graph: GraphId, op: OpId, codes: ValueId) -> DType {
    let scope = Scope { model, id: graph };
    let by_zero_point = scope.constant_input(op, 2).map(Tensor::dtype);
    let by_attribute =
        || model.graph(graph).op(op).attrs.int("output_dtype").and_then(|code| DType::from_code(code as i32));
    by_zero_point.or_else(by_attribute).or_else(|| scope.dtype(codes)).unwrap_or(DType::U8)
}

/// Puts another operator where `op` stood.
fn replace(g: &mut ir::Graph, op: OpId, output: ValueId, by: Op, inputs: &[ValueId]) -> OpId {
    let inputs: Vec<Option<ValueId>> = inputs.iter().copied().map(Some).collect();
    let _ = g.set_op_output(op, 0, None);
    let new = g.add_op(by, &inputs, &[Some(output)], Place::Near(op)).expect("the output was just freed");
    g.remove_op(op);
    new
}

/// `(Cast(q) - z) * s`, for codes that are computed or fed.
fn spell_dequantize(
    model: &mut Model,
    graph: GraphId,
    op: OpId,
    codes: ValueId,
    output: ValueId,
) -> Result<(), String> {
    let code = (Scope { model, id: graph }).dtype(codes).or_else(|| written_code(model, graph, codes));
    let code = code.ok_or("the type of its codes is not known")?;
    let Parameters { scale, zero } = Parameters::of(model, graph, op, codes, code)?;
    let g = model.graph_mut(graph);
    let name = g.op(op).name.clone();
    let float = Some(Type::tensor(DType::F32, g.value(codes).shape()));
    let mut number = g.new_value(&format!("{name}_number"), float.clone());
    let place = Place::Near(op);
    g.add_op(to_float(), &[Some(codes)], &[Some(number)], place).map_err(|e| e.to_string())?;
    if let Some(zero) = zero {
        let shifted = g.new_value(&format!("{name}_shifted"), float);
        let slots = [Some(number), Some(zero)];
        g.add_op(Op::new("Sub"), &slots, &[Some(shifted)], place).map_err(|e| e.to_string())?;
        number = shifted;
    }
    replace(g, op, output, Op::new("Mul").named(&name), &[number, scale]);
    Ok(())
}

/// The type of codes that a QuantizeLinear in the same graph writes.
fn written_code(model: &Model, graph: GraphId, codes: ValueId) -> Option<DType> {
    let g = model.graph(graph);
    let (writer, _) = g.producer(codes).filter(|(writer, _)| is_quantize(&g.op(*writer).kind))?;
    Some(code_of(model, graph, writer, codes))
}

fn to_float() -> Op {
    Op::new("Cast").with("to", i64::from(DType::F32.code()))
}

/// `Cast(Clip(Round(x / s) + z))`, for codes that are read as codes.
fn lower_quantize(model: &mut Model, graph: GraphId, op: OpId) -> Result<(), String> {
    let g = model.graph(graph);
    let (Some(data), Some(output)) = (g.input(op, 0), g.output(op, 0)) else {
        return Err("it is incomplete".into());
    };
    if !g.is_used(output) && !g.is_output(output) {
        model.graph_mut(graph).remove_op(op);
        return Ok(());
    }
    let code = code_of(model, graph, op, output);
    let known = CodeType::ALL.iter().find(|c| c.name() == code.name());
    let Some((low, high)) = known.and_then(|code| code.int_range()) else {
        return Err(format!("{code} codes that are read as codes"));
    };
    let grid = Grid::read(model, graph, op, code).ok();
    let Parameters { scale, zero } = Parameters::of(model, graph, op, data, code)?;
    if grid.is_some() {
        model.raise_opset("onnxq", 1);
    }
    let g = model.graph_mut(graph);
    let name = g.op(op).name.clone();
    let ty = g.value(data).ty.clone();
    // Onto the grid first: a runtime that divides by multiplying with the inverse then rounds what lies near whole numbers
    // instead of near ties.
    let data = match grid {
        Some(grid) => {
            let near = g.new_value(&format!("{name}_near"), ty.clone());
            let fake = grid.fake(g.value(data).name());
            g.add_op(fake, &[Some(data)], &[Some(near)], Place::Near(op)).map_err(|e| e.to_string())?;
            near
        }
        None => data,
    };
    let step = |graph: &mut ir::Graph, kind: &str, inputs: &[ValueId]| -> Result<ValueId, String> {
        let value = graph.new_value(&format!("{name}_{kind}"), ty.clone());
        let inputs: Vec<Option<ValueId>> = inputs.iter().copied().map(Some).collect();
        graph.add_op(Op::new(kind), &inputs, &[Some(value)], Place::Near(op)).map_err(|e| e.to_string())?;
        Ok(value)
    };
    let low = g.new_constant("low", Tensor::scalar(low as f32));
    let high = g.new_constant("high", Tensor::scalar(high as f32));
    let divided = step(g, "Div", &[data, scale])?;
    let mut number = step(g, "Round", &[divided])?;
    if let Some(zero) = zero {
        number = step(g, "Add", &[number, zero])?;
    }
    let bounded = step(g, "Clip", &[number, low, high])?;
    replace(g, op, output, Op::new("Cast").with("to", i64::from(code.code())), &[bounded]);
    Ok(())
}

/// Scale and zero point as floats that broadcast against the data; no zero point where there is none.
struct Parameters {
    scale: ValueId,
    zero: Option<ValueId>,
}

impl Parameters {
    fn of(
        model: &mut Model,
        graph: GraphId,
        op: OpId,
        data: ValueId,
        code: DType,
    ) -> Result<Parameters, String> {
        if let Ok(grid) = Grid::read(model, graph, op, code) {
            let scale = grid.broadcast(model, graph, data, Params::scale)?;
            let zero = grid.params.iter().any(|params| params.zero_point() != 0);
            let zero = if zero { Some(grid.broadcast(model, graph, data, zero_point)?) } else { None };
            let g = model.graph_mut(graph);
            let scale = g.new_constant("scale", scale);
            return Ok(Parameters { scale, zero: zero.map(|zero| g.new_constant("zero", zero)) });
        }
        let g = model.graph(graph);
        if g.op(op).attrs.int("block_size").unwrap_or(0) != 0 {
            return Err("its blocks have computed scales".into());
        }
        let scale = g.input(op, 1).ok_or("it has no scale")?;
        let zero = g.input(op, 2);
        let scale = spread(model, graph, op, data, scale, false)?;
        let zero = zero.map(|zero| spread(model, graph, op, data, zero, true)).transpose()?;
        Ok(Parameters { scale, zero })
    }
}

/// A computed parameter: one number as it is, a list along the axis.
fn spread(
    model: &mut Model,
    graph: GraphId,
    op: OpId,
    data: ValueId,
    parameter: ValueId,
    codes: bool,
) -> Result<ValueId, String> {
    let scope = Scope { model, id: graph };
    let shape = scope.shape(parameter).ok_or("the size of its computed scale is not known")?;
    let axis = scope.graph().op(op).attrs.int("axis").unwrap_or(1);
    let rank = scope.rank(data).map(|rank| rank as i64);
    let list = shape.elements() != Some(1);
    let g = model.graph_mut(graph);
    let place = Place::Near(op);
    let mut value = parameter;
    if codes {
        let float = g.new_value("zero", Some(Type::tensor(DType::F32, Some(shape.clone()))));
        g.add_op(to_float(), &[Some(value)], &[Some(float)], place).map_err(|e| e.to_string())?;
        value = float;
    }
    if list {
        let rank = rank.ok_or("the rank of its data is not known")?;
        let axis = usize::try_from(if axis < 0 { axis + rank } else { axis }).map_err(|e| e.to_string())?;
        let mut sizes = vec![1i64; rank as usize];
        *sizes.get_mut(axis).ok_or("its axis is out of range")? = -1;
        let sizes = g.new_constant("sizes", numbers::vector(&sizes));
        let wide = g.new_value("wide", Some(Type::tensor(DType::F32, None)));
        g.add_op(Op::new("Reshape"), &[Some(value), Some(sizes)], &[Some(wide)], place)
            .map_err(|e| e.to_string())?;
        value = wide;
    } else if shape.rank() > 0 {
        // One number in a list would add an axis to a scalar.
        let sizes = g.new_constant("sizes", numbers::vector(&[]));
        let one = g.new_value("one", Some(Type::tensor(DType::F32, Some(ir::Shape::fixed(&[])))));
        g.add_op(Op::new("Reshape"), &[Some(value), Some(sizes)], &[Some(one)], place)
            .map_err(|e| e.to_string())?;
        value = one;
    }
    Ok(value)
}

fn zero_point(params: Params) -> f32 {
    params.zero_point() as f32
}

impl Grid {
    /// One number a parameter, in sizes that broadcast against the data.
    fn broadcast(
        &self,
        model: &Model,
        graph: GraphId,
        data: ValueId,
        number: fn(Params) -> f32,
    ) -> Result<Tensor, String> {
        let numbers: Vec<f32> = self.params.iter().map(|&params| number(params)).collect();
        if let [one] = numbers[..] {
            return Ok(Tensor::scalar(one));
        }
        if self.block != 0 {
            return Err("blocked codes that are computed".into());
        }
        let rank = (Scope { model, id: graph }).rank(data).ok_or("the rank of its data is not known")? as i64;
        let axis = if self.axis < 0 { self.axis + rank } else { self.axis };
        let mut dims = vec![1; rank as usize];
        *dims.get_mut(axis as usize).ok_or("its axis is out of range")? = numbers.len();
        Tensor::from_slice(&dims, &numbers).map_err(|e| e.to_string())
    }
}
