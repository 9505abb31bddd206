//! Puts packed weights into a model: every reader reads codes, and the float constants go.

use std::collections::BTreeMap;

use ir::{AttrValue, DType, GraphId, Model, OpId, Tensor, ValueId};

use super::build::{Build, remove_unread};
use super::pack::{Form, lies_turned};
use super::scale::divide;
use super::{LowBitError, Packed, Part, Reader, Reads, Site, Stored};
use crate::driver::Scope;
use crate::numbers;

const MICROSOFT: &str = "com.microsoft";

/// The operator sets that the forms need: ONNX's own, and whether Microsoft's.
pub fn opsets<'a>(packed: impl IntoIterator<Item = &'a Packed>) -> (i64, bool) {
    let (mut onnx, mut microsoft) = (13, false);
    for stored in packed.into_iter().flat_map(|packed| packed.product.iter().chain(&packed.table)) {
        match stored.form {
            Form::NBits | Form::Bnb4(_) | Form::GatherBlocks | Form::GatherShared => microsoft = true,
            Form::Dequantize(_) => {
                let needed = match (stored.bits, stored.block) {
                    (2, _) => 25,
                    (8, 0) => 13,
                    _ => 21,
                };
                // Scales of other types than float32.
                let scales = stored.part("scales").map_or(DType::F32.code(), |part| part.dtype);
                onnx = onnx.max(if scales == DType::F32.code() { needed } else { needed.max(19) });
            }
            Form::PerRow | Form::Int8Outliers => {}
        }
        let codes = stored.part("codes").and_then(|part| DType::from_code(part.dtype));
        if matches!(codes, Some(DType::I4 | DType::U4)) {
            onnx = onnx.max(21);
        }
    }
    (onnx, microsoft)
}

/// Makes every reader of the sites read codes. `accuracy` is the `accuracy_level` of MatMulNBits by width; 0 leaves it out.
/// The model's operator sets must suit: see [`opsets`].
pub fn wire(
    model: &mut Model,
    sites: &[(Site, Packed)],
    accuracy: impl Fn(u32) -> i64,
) -> Result<(), LowBitError> {
    let (_, microsoft) = opsets(sites.iter().map(|(_, packed)| packed));
    if microsoft && model.opset(MICROSOFT).is_none() {
        model.raise_opset(MICROSOFT, 1);
    }
    let inputs = divided(model, sites)?;
    let mut shared = Shared::default();
    for (at, (site, packed)) in sites.iter().enumerate() {
        for reader in &site.readers {
            let data = reader.data(model).and_then(|x| inputs.get(&(reader.graph, x, at)).copied());
            let mut wiring = Wiring { model, shared: &mut shared, at, packed, accuracy: &accuracy };
            if reader.is_product() {
                wiring.product(reader, data)?;
            } else {
                wiring.rows(reader)?;
            }
        }
    }
    // Captures that nobody reads any more are readers until the model is settled.
    model.settle();
    let own = sites.iter().map(|(site, _)| (site.graph, site.value));
    let copies = sites.iter().flat_map(|(site, _)| site.copies.iter().copied());
    for (graph, value) in own.chain(copies) {
        if model.has_graph(graph) {
            remove_unread(model.graph_mut(graph), value);
        }
    }
    model.settle();
    Ok(())
}

/// What each product is to read where its weight was scaled, by graph, value and site.
fn divided(
    model: &mut Model,
    sites: &[(Site, Packed)],
) -> Result<BTreeMap<(GraphId, ValueId, usize), ValueId>, LowBitError> {
    // Scales and the axes behind them; who wants that.
    type Wish = (Vec<f32>, usize, Vec<OpId>, Vec<usize>, DType);
    let mut wishes: BTreeMap<(GraphId, ValueId), Vec<Wish>> = BTreeMap::new();
    for (at, (site, packed)) in sites.iter().enumerate() {
        let Some(part) = &packed.input_scales else { continue };
        let tensor = part.tensor.as_ref().ok_or(LowBitError::Incomplete("input scales"))?;
        let scales: Vec<f32> = tensor.to_vec()?;
        let dtype = site.tensor(model).map_or(DType::F32, Tensor::dtype);
        for reader in &site.readers {
            let Some(x) = reader.data(model) else { continue };
            let known = wishes.entry((reader.graph, x)).or_default();
            let behind = reader.reads.axes_behind();
            match known.iter_mut().find(|wish| wish.0 == scales && wish.1 == behind) {
                Some(wish) => {
                    wish.2.push(reader.op);
                    wish.3.push(at);
                }
                None => known.push((scales.clone(), behind, vec![reader.op], vec![at], dtype)),
            }
        }
    }
    let mut inputs = BTreeMap::new();
    for ((graph, x), wishes) in wishes {
        for (scales, behind, readers, members, dtype) in wishes {
            let y = divide(model.graph_mut(graph), x, &scales, behind, &readers, dtype)
                .ok_or(LowBitError::Incomplete("float type for the scales of its input"))?;
            members.into_iter().for_each(|at| {
                inputs.insert((graph, x, at), y);
            });
        }
    }
    Ok(inputs)
}

/// Constants and sums that several readers share.
#[derive(Default)]
struct Shared {
    parts: BTreeMap<(GraphId, usize, String), ValueId>,
    /// Sums of a value over blocks of this many columns.
    sums: BTreeMap<(GraphId, ValueId, usize), ValueId>,
    /// Columns × blocks, 1 where the column is in the block.
    members: BTreeMap<(GraphId, usize, usize, i32), ValueId>,
}

struct Wiring<'a> {
    model: &'a mut Model,
    shared: &'a mut Shared,
    at: usize,
    packed: &'a Packed,
    accuracy: &'a dyn Fn(u32) -> i64,
}

impl Wiring<'_> {
    /// The initializer of a part in the reader's graph.
    fn part(&mut self, reader: &Reader, stored: &Stored, role: &str) -> Result<Option<ValueId>, LowBitError> {
        let Some(part) = stored.part(role) else { return Ok(None) };
        let key = (reader.graph, self.at, format!("{:?}{role}", stored.form));
        if let Some(&known) = self.shared.parts.get(&key) {
            return Ok(Some(known));
        }
        let tensor = part.tensor.clone().ok_or(LowBitError::Incomplete("elements"))?;
        let graph = self.model.graph_mut(reader.graph);
        let weight = graph.input(reader.op, if reader.is_product() { 1 } else { 0 });
        let name = weight.map_or("weight".into(), |value| graph.value(value).name().to_string());
        let value = graph.new_constant(&format!("{name}_{role}"), tensor);
        self.shared.parts.insert(key, value);
        Ok(Some(value))
    }

    fn need(&mut self, reader: &Reader, stored: &Stored, role: &'static str) -> Result<ValueId, LowBitError> {
        self.part(reader, stored, role)?.ok_or(LowBitError::Incomplete(role))
    }

    /// The scales `[N, blocks]`: a constant, or what a DequantizeLinear makes of integers.
    fn scales(&mut self, reader: &Reader, stored: &Stored) -> Result<ValueId, LowBitError> {
        match self.computed(reader, stored, ["scale_codes", "scale_steps"], false)? {
            Some(scales) => Ok(scales),
            None => self.need(reader, stored, "scales"),
        }
    }

    /// The offsets `[blocks, N]` likewise, if there are any.
    fn offsets(&mut self, reader: &Reader, stored: &Stored) -> Result<Option<ValueId>, LowBitError> {
        match self.computed(reader, stored, ["offset_codes", "offset_steps"], true)? {
            Some(offsets) => Ok(Some(offsets)),
            None => self.part(reader, stored, "offsets"),
        }
    }

    /// Integers times their steps, `[N, blocks]` or turned. The rows of the integers may hold several of the weight's.
    fn computed(
        &mut self,
        reader: &Reader,
        stored: &Stored,
        [codes, steps]: [&'static str; 2],
        turned: bool,
    ) -> Result<Option<ValueId>, LowBitError> {
        let Some(integers) = self.part(reader, stored, codes)? else { return Ok(None) };
        let key = (reader.graph, self.at, format!("computed {codes}"));
        if let Some(&known) = self.shared.parts.get(&key) {
            return Ok(Some(known));
        }
        let steps = self.need(reader, stored, steps)?;
        let (rows, groups) =
            (self.packed.rows, stored.part(codes).and_then(|part| part.dims.first().copied()));
        let mut build = Build::new(self.model.graph_mut(reader.graph), reader.op);
        let mut made = build.onnx("DequantizeLinear", &[integers, steps], &[("axis", AttrValue::Int(0))]);
        if groups != Some(rows) {
            let dims = build.constant("scale_rows", numbers::vector(&[rows as i64, -1]));
            made = build.onnx("Reshape", &[made, dims], &[]);
        }
        if turned {
            made = build.onnx("Transpose", &[made], &[("perm", AttrValue::Ints(vec![1, 0]))]);
        }
        self.shared.parts.insert(key, made);
        Ok(Some(made))
    }

    fn product(&mut self, reader: &Reader, data: Option<ValueId>) -> Result<(), LowBitError> {
        let stored = self.packed.product.as_ref().ok_or(LowBitError::Incomplete("form for products"))?;
        let x = data.or_else(|| reader.data(self.model)).ok_or(LowBitError::Incomplete("data input"))?;
        let (codes, scales) = match stored.form {
            Form::Bnb4(_) => (self.need(reader, stored, "codes")?, self.need(reader, stored, "absmax")?),
            _ => (self.need(reader, stored, "codes")?, self.scales(reader, stored)?),
        };
        let zeros = self.part(reader, stored, "zeros")?;
        let offsets = self.offsets(reader, stored)?;
        let pointwise = reader.reads == Reads::Conv;
        let bias = match reader.reads {
            Reads::Gemm | Reads::Conv => self.model.graph(reader.graph).input(reader.op, 2),
            _ => None,
        };
        if pointwise && matches!(stored.form, Form::Dequantize(_)) && offsets.is_none() {
            return self.convolution(reader, stored, x, [Some(codes), Some(scales), zeros]);
        }
        let split = match stored.form {
            Form::Int8Outliers => Some([
                self.part(reader, stored, "kept")?,
                self.part(reader, stored, "columns")?,
                self.part(reader, stored, "outliers")?,
            ]),
            _ => None,
        };
        let opset = self.model.opset("").unwrap_or(0);
        let float = stored.part("scales").and_then(|part| DType::from_code(part.dtype)).unwrap_or(DType::F32);
        let mut build = Build::new(self.model.graph_mut(reader.graph), reader.op);
        let last = |perm: &[i64]| [("perm", AttrValue::Ints(perm.to_vec()))];
        let rows = if pointwise { build.onnx("Transpose", &[x], &last(&[0, 2, 3, 1])) } else { x };
        let mut y = match stored.form {
            Form::NBits => {
                let mut attrs = vec![
                    ("K", AttrValue::Int(self.packed.cols as i64)),
                    ("N", AttrValue::Int(self.packed.rows as i64)),
                    ("bits", AttrValue::Int(i64::from(stored.bits))),
                    ("block_size", AttrValue::Int(stored.block as i64)),
                ];
                let level = (self.accuracy)(stored.bits);
                if level != 0 {
                    attrs.push(("accuracy_level", AttrValue::Int(level)));
                }
                let mut inputs = vec![Some(rows), Some(codes), Some(scales)];
                inputs.extend(zeros.map(Some));
                build.op(MICROSOFT, "MatMulNBits", &inputs, &attrs)
            }
            Form::Bnb4(quant_type) => {
                let attrs = [
                    ("K", AttrValue::Int(self.packed.cols as i64)),
                    ("N", AttrValue::Int(self.packed.rows as i64)),
                    ("block_size", AttrValue::Int(stored.block as i64)),
                    ("quant_type", AttrValue::Int(quant_type)),
                ];
                build.op(MICROSOFT, "MatMulBnb4", &[Some(rows), Some(codes), Some(scales)], &attrs)
            }
            Form::Dequantize(axis) => {
                let mut weight = dequantize(&mut build, stored, axis, [Some(codes), Some(scales), zeros]);
                if lies_turned(stored.bits, self.packed.rows) {
                    weight = build.onnx("Transpose", &[weight], &last(&[1, 0]));
                }
                build.onnx("MatMul", &[rows, weight], &[])
            }
            Form::Int8Outliers => {
                let split = split.unwrap_or_default();
                int8_outliers(&mut build, rows, [codes, scales], split, opset, float)
                    .ok_or(LowBitError::Incomplete("float type"))?
            }
            _ => return Err(LowBitError::Incomplete("form for products")),
        };
        if let Some(offsets) = offsets {
            drop(build);
            let sums = self.sums(reader, stored, rows)?;
            build = Build::new(self.model.graph_mut(reader.graph), reader.op);
            let second = build.onnx("MatMul", &[sums, offsets], &[]);
            y = build.onnx("Add", &[y, second], &[]);
        }
        if let Some(bias) = bias {
            y = build.onnx("Add", &[y, bias], &[]);
        }
        if pointwise {
            y = build.onnx("Transpose", &[y], &last(&[0, 3, 1, 2]));
        }
        build.finish(y);
        Ok(())
    }

    /// A convolution stays one; only its weight comes from codes.
    fn convolution(
        &mut self,
        reader: &Reader,
        stored: &Stored,
        x: ValueId,
        inputs: [Option<ValueId>; 3],
    ) -> Result<(), LowBitError> {
        let Form::Dequantize(axis) = stored.form else { return Err(LowBitError::Incomplete("form")) };
        let graph = self.model.graph_mut(reader.graph);
        let old = graph.input(reader.op, 1);
        let mut build = Build::new(graph, reader.op);
        let weight = dequantize(&mut build, stored, axis, inputs);
        let graph = build.graph;
        graph.set_input(reader.op, 0, Some(x));
        graph.set_input(reader.op, 1, Some(weight));
        if let Some(old) = old {
            remove_unread(graph, old);
        }
        Ok(())
    }

    /// R(x): the sums of `x` over the blocks of the offsets.
    fn sums(&mut self, reader: &Reader, stored: &Stored, x: ValueId) -> Result<ValueId, LowBitError> {
        let block = stored.part("offset_block").and_then(|part| part.tensor.as_ref());
        let block = block.and_then(numbers::int).and_then(|block| usize::try_from(block).ok());
        let block =
            block.filter(|&block| block > 0).ok_or(LowBitError::Incomplete("block of the offsets"))?;
        if let Some(&known) = self.shared.sums.get(&(reader.graph, x, block)) {
            return Ok(known);
        }
        let cols = self.packed.cols;
        let blocks = cols.div_ceil(block);
        let rank = (Scope { model: &*self.model, id: reader.graph }).rank(x);
        let part = stored.part("offsets").or_else(|| stored.part("offset_steps"));
        let part = part.ok_or(LowBitError::Incomplete("offsets"))?;
        let (code, pointwise) = (part.dtype, reader.reads == Reads::Conv);
        let rank = if pointwise { Some(4) } else { rank };
        let members = self.shared.members.get(&(reader.graph, cols, block, code)).copied();
        let mut build = Build::new(self.model.graph_mut(reader.graph), reader.op);
        let sums = match rank.filter(|_| cols.is_multiple_of(block)) {
            Some(rank) => {
                let mut dims = vec![0i64; rank.saturating_sub(1)];
                dims.extend([blocks as i64, block as i64]);
                let dims = build.constant("blocks", numbers::vector(&dims));
                let axes = build.constant("block_axis", numbers::vector(&[-1]));
                let cut = build.onnx("Reshape", &[x, dims], &[]);
                build.onnx("ReduceSum", &[cut, axes], &[("keepdims", AttrValue::Int(0))])
            }
            None => {
                let members = match members {
                    Some(known) => known,
                    None => {
                        let dtype = DType::from_code(code).unwrap_or(DType::F32);
                        let ones: Vec<f64> = (0..cols * blocks)
                            .map(|at| f64::from(u8::from(at / blocks / block == at % blocks)))
                            .collect();
                        let tensor = numbers::from_floats(dtype, &[cols, blocks], &ones)
                            .ok_or(LowBitError::Incomplete("float type"))?;
                        let value = build.constant("block_members", tensor);
                        self.shared.members.insert((reader.graph, cols, block, code), value);
                        value
                    }
                };
                build.onnx("MatMul", &[x, members], &[])
            }
        };
        // A transposed copy of a convolution's data is made anew for each reader.
        if !pointwise {
            self.shared.sums.insert((reader.graph, x, block), sums);
        }
        Ok(sums)
    }

    fn rows(&mut self, reader: &Reader) -> Result<(), LowBitError> {
        let table = self.packed.table.as_ref().ok_or(LowBitError::Incomplete("form for tables"))?;
        let shared = table.form == Form::GatherShared;
        let stored = match (&self.packed.product, shared) {
            (Some(product), true) => product,
            _ => table,
        };
        let codes = self.need(reader, stored, "codes")?;
        let scales = self.need(reader, stored, "scales")?;
        let zeros = self.part(reader, stored, "zeros")?;
        let (rows, cols) = (self.packed.rows, self.packed.cols);
        let scale_type = stored.part("scales").map_or(1, |part: &Part| part.dtype);
        let graph = self.model.graph_mut(reader.graph);
        let indices = graph.input(reader.op, 1).ok_or(LowBitError::Incomplete("indices"))?;
        let mut build = Build::new(graph, reader.op);
        let y = match table.form {
            Form::GatherBlocks | Form::GatherShared => {
                let codes = if shared {
                    let dims = [rows as i64, (cols * stored.bits as usize / 8) as i64];
                    let dims = build.constant("table", numbers::vector(&dims));
                    build.onnx("Reshape", &[codes, dims], &[])
                } else {
                    codes
                };
                let mut inputs = vec![Some(codes), Some(indices), Some(scales)];
                inputs.extend(zeros.map(Some));
                let mut attrs = vec![
                    ("block_size", AttrValue::Int(stored.block as i64)),
                    ("gather_axis", AttrValue::Int(0)),
                    ("quantize_axis", AttrValue::Int(1)),
                ];
                let bytes = shared || stored.part("codes").is_some_and(|part| part.dtype == DType::U8.code());
                if bytes {
                    attrs.push(("bits", AttrValue::Int(i64::from(stored.bits))));
                }
                build.op(MICROSOFT, "GatherBlockQuantized", &inputs, &attrs)
            }
            Form::Dequantize(axis) => {
                let table = dequantize(&mut build, stored, axis, [Some(codes), Some(scales), zeros]);
                build.onnx("Gather", &[table, indices], &[("axis", AttrValue::Int(0))])
            }
            Form::PerRow => {
                let codes = build.onnx("Gather", &[codes, indices], &[("axis", AttrValue::Int(0))]);
                let codes = build.onnx("Cast", &[codes], &[("to", AttrValue::Int(i64::from(scale_type)))]);
                let scales = build.onnx("Gather", &[scales, indices], &[("axis", AttrValue::Int(0))]);
                build.onnx("Mul", &[codes, scales], &[])
            }
            Form::NBits | Form::Bnb4(_) | Form::Int8Outliers => {
                return Err(LowBitError::Incomplete("form for tables"));
            }
        };
        build.finish(y);
        Ok(())
    }
}

/// A DequantizeLinear of codes, scales and zero points.
fn dequantize(build: &mut Build<'_>, stored: &Stored, axis: i64, inputs: [Option<ValueId>; 3]) -> ValueId {
    let mut attrs = vec![("axis", AttrValue::Int(axis))];
    if stored.block > 0 {
        attrs.push(("block_size", AttrValue::Int(stored.block as i64)));
    }
    let present = if inputs[2].is_some() { &inputs[..] } else { &inputs[..2] };
    build.op("", "DequantizeLinear", present, &attrs)
}

/// The LLM.int8 product: the columns without outliers on integers, rounded to one scale a token; the others in float.
///
/// ```text
/// r = x · kept,  s = max(|r|) / 127,  y = MatMulInteger(round(r / s), W8)·s·scales + Gather(x, columns)·W
/// ```
fn int8_outliers(
    build: &mut Build<'_>,
    x: ValueId,
    [codes, scales]: [ValueId; 2],
    split: [Option<ValueId>; 3],
    opset: i64,
    float: DType,
) -> Option<ValueId> {
    let rest = match split[0] {
        Some(kept) => build.onnx("Mul", &[x, kept], &[]),
        None => x,
    };
    // The narrow types have neither the digits for 127 steps (bfloat16) nor the range for sums of products (float16).
    let wide = DType::F32;
    let as_type = |dtype: DType| [("to", AttrValue::Int(i64::from(dtype.code())))];
    let [rest, scales] = match float == wide {
        true => [rest, scales],
        false => [rest, scales].map(|value| build.onnx("Cast", &[value], &as_type(wide))),
    };
    let magnitudes = build.onnx("Abs", &[rest], &[]);
    let keep = ("keepdims", AttrValue::Int(1));
    let largest = if opset >= 18 {
        let axes = build.constant("last_axis", numbers::vector(&[-1]));
        build.onnx("ReduceMax", &[magnitudes, axes], &[keep])
    } else {
        build.onnx("ReduceMax", &[magnitudes], &[("axes", AttrValue::Ints(vec![-1])), keep])
    };
    let share = build.constant("step", numbers::from_floats(wide, &[], &[1.0 / 127.0])?);
    // A token of zeros: any positive step gives zeros.
    let least = build.constant("least_step", numbers::from_floats(wide, &[], &[1e-30])?);
    let step = build.onnx("Mul", &[largest, share], &[]);
    let step = build.onnx("Max", &[step, least], &[]);
    let units = build.onnx("Div", &[rest, step], &[]);
    let whole = build.onnx("Round", &[units], &[]);
    let integers = build.onnx("Cast", &[whole], &as_type(DType::I8));
    let sums = build.onnx("MatMulInteger", &[integers, codes], &[]);
    let sums = build.onnx("Cast", &[sums], &as_type(wide));
    let tokens = build.onnx("Mul", &[sums, step], &[]);
    let mut y = build.onnx("Mul", &[tokens, scales], &[]);
    if float != wide {
        y = build.onnx("Cast", &[y], &as_type(float));
    }
    let [_, Some(columns), Some(outliers)] = split else { return Some(y) };
    let picked = build.onnx("Gather", &[x, columns], &[("axis", AttrValue::Int(-1))]);
    let other = build.onnx("MatMul", &[picked, outliers], &[]);
    Some(build.onnx("Add", &[y, other], &[]))
}
