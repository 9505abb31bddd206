//! Random small graphs: simplified, they compute the same.

#[path = "support/values.rs"]
mod values;

use ir::{DType, Graph, Model, Op, Place, Shape, Tensor, Type, ValueId};
use onnxq_passes as passes;
use passes::Options;
use proptest::prelude::*;

/// A value under construction, with its sizes.
#[derive(Clone)]
struct Made {
    id: ValueId,
    sizes: Vec<usize>,
}

struct Maker {
    graph: Graph,
    values: Vec<Made>,
    seed: u64,
}

impl Maker {
    fn new(named: bool) -> Maker {
        let mut graph = Graph::new("main");
        let mut dims: Vec<ir::Dim> = [2usize, 3, 4].map(ir::Dim::from).to_vec();
        if named {
            dims[0] = ir::Dim::symbol("N");
        }
        let ty = Type::tensor(DType::F32, Some(Shape::new(dims)));
        let x = graph.add_input("x", Some(ty)).expect("a fresh name");
        Maker { graph, values: vec![Made { id: x, sizes: vec![2, 3, 4] }], seed: 0 }
    }

    fn constant(&mut self, tensor: Tensor) -> ValueId {
        self.graph.new_constant("k", tensor)
    }

    fn floats(&mut self, sizes: &[usize]) -> ValueId {
        self.seed += 1;
        let tensor = values::made(DType::F32, sizes, self.seed, Some((-2.0, 2.0)), false).expect("floats");
        self.constant(tensor)
    }

    fn ints(&mut self, values: &[i64]) -> ValueId {
        self.constant(Tensor::from_slice(&[values.len()], values).expect("a vector"))
    }

    fn op(&mut self, op: Op, inputs: &[ValueId], sizes: Vec<usize>) {
        let out = self.graph.new_value("v", None);
        let inputs: Vec<Option<ValueId>> = inputs.iter().copied().map(Some).collect();
        self.graph.add_op(op, &inputs, &[Some(out)], Place::End).expect("a fresh output");
        self.values.push(Made { id: out, sizes });
    }

    /// One operator chosen by `kind`, on values chosen by `a` and `b`.
    fn step(&mut self, kind: u8, a: usize, b: usize) {
        let x = self.values[a % self.values.len()].clone();
        let (id, sizes) = (x.id, x.sizes.clone());
        let rank = sizes.len();
        let last = sizes.last().copied().unwrap_or(1);
        let new = Op::new;
        match kind {
            0 => self.op(new("Identity"), &[id], sizes),
            1 => self.op(new("Neg"), &[id], sizes),
            2 => self.op(new("Relu"), &[id], sizes),
            3 => {
                let other =
                    self.values.iter().skip(b % self.values.len()).find(|o| o.sizes == sizes).cloned();
                let other = other.unwrap_or(x);
                self.op(new(["Add", "Mul", "Sub"][b % 3]), &[id, other.id], sizes);
            }
            4 => {
                let value = [0.0, 1.0, -1.0, 0.5][b % 4];
                let shape: &[usize] = [&[][..], &[1]][b / 4 % 2];
                let shape = if rank == 0 { &[] } else { shape };
                let tensor = Tensor::from_slice(shape, &[value as f32]).expect("a number");
                let constant = self.constant(tensor);
                let kind = if value == 0.0 { ["Add", "Sub"][b % 2] } else { ["Mul", "Div", "Add"][b % 3] };
                self.op(new(kind), &[id, constant], sizes);
            }
            5 if rank > 0 => {
                let mut perm: Vec<i64> = (0..rank as i64).collect();
                perm.rotate_left(b % rank);
                let sizes = perm.iter().map(|&axis| sizes[axis as usize]).collect();
                self.op(new("Transpose").with("perm", perm), &[id], sizes);
            }
            6 => {
                let count: usize = sizes.iter().product();
                let target = [vec![count], vec![count / last.max(1), last], vec![1, count]][b % 3].clone();
                let ints: Vec<i64> = target.iter().map(|&size| size as i64).collect();
                let shape = self.ints(&ints);
                self.op(new("Reshape"), &[id, shape], target);
            }
            7 if rank < 5 => {
                let axis = b % (rank + 1);
                let axes = self.ints(&[axis as i64]);
                let mut sizes = sizes;
                sizes.insert(axis, 1);
                self.op(new("Unsqueeze"), &[id, axes], sizes);
            }
            8 => {
                let Some(axis) = sizes.iter().position(|&size| size == 1) else { return };
                let axes = self.ints(&[axis as i64]);
                let mut sizes = sizes;
                sizes.remove(axis);
                self.op(new("Squeeze"), &[id, axes], sizes);
            }
            9 if rank > 0 => {
                let axis = b % rank;
                let mut sizes = sizes;
                let (start, end) =
                    (b / 2 % sizes[axis], sizes[axis] - b / 5 % 2 * usize::from(sizes[axis] > 1));
                let (start, end) = (start.min(end.saturating_sub(1)), end);
                let operands = [start, end, axis].map(|v| self.ints(&[v as i64]));
                sizes[axis] = end - start;
                self.op(new("Slice"), &[id, operands[0], operands[1], operands[2]], sizes);
            }
            10 if rank > 0 => {
                let axis = b % rank;
                let mut sizes = sizes;
                sizes[axis] *= 2;
                if sizes[axis] < 32 {
                    self.op(new("Concat").with("axis", axis as i64), &[id, id], sizes);
                }
            }
            11 => {
                let to = [10, 11, 1][b % 3];
                self.op(new("Cast").with("to", to), &[id], sizes.clone());
                // Only floats of 32 bits are handed on.
                let other = self.values.pop().expect("just made").id;
                self.op(new("Cast").with("to", 1), &[other], sizes);
            }
            12 if rank > 0 => {
                let weight = self.floats(&[last, 2]);
                let mut sizes = sizes;
                sizes[rank - 1] = 2;
                self.op(new("MatMul"), &[id, weight], sizes);
            }
            13 => {
                let low = self.constant(Tensor::scalar(-1.5f32 + b as f32 % 3.0));
                let high = self.constant(Tensor::scalar(2.0f32));
                self.op(new("Clip"), &[id, low, high], sizes);
            }
            14 if rank > 0 && last < 16 => {
                let mut pads = vec![0; 2 * rank];
                pads[2 * rank - 1] = (b % 2) as i64;
                let pads = self.ints(&pads);
                let mut sizes = sizes;
                sizes[rank - 1] += b % 2;
                self.op(new("Pad"), &[id, pads], sizes);
            }
            15 if rank > 0 => {
                let constant = self.floats(&[last]);
                self.op(new(["Add", "Mul"][b % 2]), &[id, constant], sizes);
            }
            16 => {
                let k = self.floats(&sizes);
                self.op(new("Sin"), &[k], sizes);
            }
            _ => {}
        }
    }

    fn model(mut self, outputs: &[usize]) -> Model {
        let mut listed = Vec::new();
        for &at in outputs {
            let value = self.values[at % self.values.len()].id;
            if !listed.contains(&value) && self.graph.value(value).role() == ir::Role::Computed {
                self.graph.add_output(value);
                listed.push(value);
            }
        }
        let last = self.values.last().expect("at least the input").id;
        if !listed.contains(&last) && self.graph.value(last).role() == ir::Role::Computed {
            self.graph.add_output(last);
        }
        let float = Some(Type::tensor(DType::F32, None));
        for output in self.graph.outputs().to_vec() {
            self.graph.value_mut(output).ty = float.clone();
        }
        Model::new(10, 21, self.graph)
    }
}

fn steps() -> impl Strategy<Value = (bool, Vec<(u8, usize, usize)>, Vec<usize>)> {
    (
        any::<bool>(),
        prop::collection::vec((0u8..17, 0usize..40, 0usize..40), 1..24),
        prop::collection::vec(0usize..40, 0..3),
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// Fused weights are rounded once more and sums change their order: a relative error of a few roundings, amplified by
    /// at most a few dozen operators whose factors are at most 2.
    #[test]
    fn simplified_graphs_compute_the_same((named, steps, outputs) in steps()) {
        let mut maker = Maker::new(named);
        steps.iter().for_each(|&(kind, a, b)| maker.step(kind, a, b));
        let before = maker.model(&outputs);
        let mut after = before.clone();
        let options = Options { verify_each: true, ..Options::default() };
        let report = passes::simplify(&mut after, options).map_err(|failure| {
            TestCaseError::fail(format!("{failure}\n{}", ir::text::print(&before)))
        })?;
        prop_assert!(report.ops_after <= report.ops_before);
        let input = values::made(DType::F32, &[2, 3, 4], 99, None, false).expect("floats");
        let feed = vec![Some(ops::Value::Tensor(input))];
        let old = values::evaluate(&before, &feed).map_err(TestCaseError::fail)?;
        let new = values::evaluate(&after, &feed).map_err(TestCaseError::fail)?;
        for (old, new) in old.iter().zip(&new) {
            values::agree(old, new, Some(2e-4)).map_err(|difference| {
                let texts = format!("{}\n{}", ir::text::print(&before), ir::text::print(&after));
                TestCaseError::fail(format!("{difference}\n{texts}"))
            })?;
        }
    }
}
